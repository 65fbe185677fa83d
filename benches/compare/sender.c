/* Sends junk at a given rate, and knocks whose effect it times to the microsecond: the part of the
 * comparison for which Python is too slow. measures.py writes the files and reads the output.
 *
 *   sender flood INTERFACE FILE RATE SECONDS any|own
 *       The frames of FILE one after the other, RATE a second (0: as fast as it goes). `any`: each
 *       from another address of 10.80.0.0/15 and another port. Prints: sent, nanoseconds from begin
 *       to end, nanoseconds on the processor.
 *   sender probe INTERFACE FILE EVERY_US PATIENCE_MS all|first
 *       For each knock of FILE: sends its frames at its time, then a SYN each EVERY_US until one is
 *       answered. `first`: ends as soon as the port has answered any of them. Prints a line for
 *       each knock: when its last frame was sent, when the port answered, when the receipt came
 *       (CLOCK_MONOTONIC in nanoseconds; 0: never).
 *   sender run DESCRIPTOR PROGRAM ARGUMENT...
 *       Writes the time to the descriptor (8 bytes), and becomes the program: from Python that takes
 *       longer than the program itself.
 *
 * A frame in a file is a length (u16) and so many bytes, IPv4 over Ethernet. A file of knocks has
 * the time of its begin (CLOCK_MONOTONIC, seconds and nanoseconds, u32 each; 0: now), then for each
 * knock: the microseconds since then (u32), the UDP port of receipts (u16, 0: none), the
 * number of frames (u16), the frames, and the frame of a SYN. Numbers are little-endian. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef PACKET_QDISC_BYPASS
#define PACKET_QDISC_BYPASS 20
#endif
#define FRAME 1600	/* bytes of the longest frame */
#define BATCH 64
/* Where a header begins in a frame: Ethernet has 14 bytes, and our IPv4 headers have no options. */
#define IP 14
#define TRANSPORT 34
#define SECOND 1000000000ull

static void die(const char *what)
{
	fprintf(stderr, "sender: %s: %s\n", what, errno ? strerror(errno) : "bad input");
	exit(2);
}

static uint64_t nanoseconds(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * SECOND + t.tv_nsec;
}

static uint64_t now(void) { return nanoseconds(CLOCK_MONOTONIC); }

static uint64_t any = 88172645463325252ull;
static uint32_t random32(void)
{
	any ^= any << 13;
	any ^= any >> 7;
	any ^= any << 17;
	return any >> 20;
}

/* A socket that sends frames past the queue of the interface. */
static int frame_socket(const char *interface)
{
	int fd = socket(AF_PACKET, SOCK_RAW, 0), one = 1, size = 8 << 20;
	struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_ifindex = if_nametoindex(interface) };
	if (fd < 0 || !to.sll_ifindex || bind(fd, (void *)&to, sizeof to))
		die(interface);
	setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof one);
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
	return fd;
}

/* ------------------------------------------------------------------------------ files */

static const uint8_t *at, *end;

static void open_file(const char *path)
{
	int fd = open(path, O_RDONLY);
	struct stat st;
	if (fd < 0 || fstat(fd, &st))
		die(path);
	uint8_t *bytes = malloc(st.st_size + 1);
	for (off_t done = 0; done < st.st_size;) {
		ssize_t n = read(fd, bytes + done, st.st_size - done);
		if (n <= 0)
			die(path);
		done += n;
	}
	at = bytes;
	end = bytes + st.st_size;
	close(fd);
}

static uint32_t number(int bytes)
{
	uint32_t value = 0;
	if (end - at < bytes)
		die("a file that ends early");
	for (int i = 0; i < bytes; i++)
		value |= (uint32_t)*at++ << 8 * i;
	return value;
}

struct frame {
	const uint8_t *bytes;
	int length;
};

static struct frame read_frame(void)
{
	struct frame f = { .length = number(2) };
	f.bytes = at;
	if (f.length < TRANSPORT + 8 || f.length > FRAME || end - at < f.length)
		die("a frame");
	at += f.length;
	return f;
}

/* ----------------------------------------------------------- changing a frame (RFC 1624) */

static uint32_t word(const uint8_t *p) { return p[0] << 8 | p[1]; }

/* Writes `value` at `p` (length 2 or 4), and corrects the checksums there and there. */
static void set(uint8_t *p, int length, uint32_t value, uint8_t *sum, uint8_t *other)
{
	uint8_t *sums[] = { sum, other };
	uint32_t change = 0;
	for (int i = 0; i < length; i += 2) {
		uint32_t new = value >> 8 * (length - 2 - i) & 0xffff;
		change += (~word(p + i) & 0xffff) + new;
		p[i] = new >> 8;
		p[i + 1] = new;
	}
	for (int i = 0; i < 2; i++) {
		if (!sums[i])
			continue;
		uint32_t s = (~word(sums[i]) & 0xffff) + change;
		s = (s & 0xffff) + (s >> 16);
		s = ~((s & 0xffff) + (s >> 16)) & 0xffff;
		sums[i][0] = s >> 8;
		sums[i][1] = s;
	}
}

static uint8_t *transport_sum(uint8_t *frame)
{
	return frame + TRANSPORT + (frame[IP + 9] == IPPROTO_TCP ? 16 : 6);
}

static void from_anywhere(uint8_t *frame)
{
	uint8_t *sum = transport_sum(frame);
	set(frame + IP + 12, 4, 0x0a500000 | (random32() & 0x1ffff), frame + IP + 10, sum);
	set(frame + TRANSPORT, 2, 1024 + random32() % 60000, sum, NULL);
}

/* ------------------------------------------------------------------------------ flood */

static int flood(const char *interface, double rate, double seconds, int anywhere)
{
	int fd = frame_socket(interface), room = 0, count = 0;
	struct frame *frames = NULL;
	while (at < end) {
		if (count == room)
			frames = realloc(frames, (room = 2 * room + 64) * sizeof *frames);
		frames[count++] = read_frame();
	}
	if (!count)
		die("no frames");
	static uint8_t copy[BATCH][FRAME];
	struct mmsghdr messages[BATCH] = { 0 };
	struct iovec parts[BATCH];
	for (int i = 0; i < BATCH; i++) {
		parts[i].iov_base = copy[i];
		messages[i].msg_hdr.msg_iov = &parts[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	/* At a given rate a batch is half a millisecond long at most. */
	int batch = rate > 0 && rate / 2000 < BATCH ? (int)(rate / 2000) + 1 : BATCH;
	uint64_t sent = 0, begin = now(), until = begin + (uint64_t)(seconds * SECOND), t;
	while ((t = now()) < until) {
		double due = rate > 0 ? (t - begin) * rate / SECOND - sent : batch;
		if (due < 1) {
			struct timespec pause = { 0, (1 - due) / rate * SECOND };
			nanosleep(&pause, NULL);
			continue;
		}
		int n = due < batch ? due : batch;
		for (int i = 0; i < n; i++) {
			struct frame f = frames[(sent + i) % count];
			memcpy(copy[i], f.bytes, f.length);
			parts[i].iov_len = f.length;
			if (anywhere)
				from_anywhere(copy[i]);
		}
		n = sendmmsg(fd, messages, n, 0);
		if (n < 0 && errno != ENOBUFS && errno != EAGAIN && errno != EINTR)
			die("sendmmsg");
		sent += n > 0 ? n : 0;
	}
	printf("%llu %llu %llu\n", (unsigned long long)sent, (unsigned long long)(t - begin),
	       (unsigned long long)nanoseconds(CLOCK_PROCESS_CPUTIME_ID));
	return 0;
}

/* ------------------------------------------------------------------------------ probe */

struct knock {
	uint64_t next, sent, opened, received;	/* times; 0: not yet */
	int receipt_port, frames, done, is_over;
	uint32_t syns;
	struct frame *frame, syn;
};

static void send_frame(int fd, const uint8_t *bytes, int length)
{
	if (send(fd, bytes, length, 0) < 0 && errno != ENOBUFS)
		die("send");
}

static void send_syn(int fd, struct knock *k)
{
	uint8_t copy[FRAME], *sum;
	memcpy(copy, k->syn.bytes, k->syn.length);
	sum = transport_sum(copy);
	set(copy + TRANSPORT, 2, 10000 + k->syns++ % 50000, sum, NULL);
	set(copy + TRANSPORT + 4, 4, random32(), sum, NULL);
	send_frame(fd, copy, k->syn.length);
}

/* Sends what is due of a knock. When to look at it again. */
static uint64_t advance(int fd, struct knock *k, uint64_t every, uint64_t patience)
{
	uint64_t t = now();
	if (t < k->next)
		return k->next;
	while (k->done < k->frames) {
		k->sent = now();
		send_frame(fd, k->frame[k->done].bytes, k->frame[k->done].length);
		k->done++;
	}
	if (!k->sent)
		k->sent = t;
	if (t > k->sent + patience) {
		k->is_over = 1;
		return t;
	}
	if (!k->opened)
		send_syn(fd, k);
	return k->next = t + every;
}

/* Looks at what came: `packet` begins with its IP header. */
static void receive(struct knock *knocks, int count, const uint8_t *packet, ssize_t length,
		    uint64_t t)
{
	const uint8_t *transport = packet + (packet[0] & 15) * 4;
	if (length < 28 || transport + 8 > packet + length)
		return;
	int is_tcp = packet[9] == IPPROTO_TCP;
	if (is_tcp && (transport + 20 > packet + length || (transport[13] & 0x12) != 0x12))
		return;
	for (int i = 0; i < count; i++) {
		struct knock *k = &knocks[i];
		if (k->is_over || !k->sent || memcmp(packet + 16, k->syn.bytes + IP + 12, 4))
			continue;
		if (is_tcp && !memcmp(transport, k->syn.bytes + TRANSPORT + 2, 2) && !k->opened)
			k->opened = t;
		if (!is_tcp && (int)word(transport) == k->receipt_port && !k->received)
			k->received = t;
		k->is_over = k->opened && (k->received || !k->receipt_port);
	}
}

static int raw_socket(int protocol)
{
	int fd = socket(AF_INET, SOCK_RAW | SOCK_NONBLOCK, protocol);
	if (fd < 0)
		die("raw socket");
	return fd;
}

static int has_opened(const struct knock *knocks, int count)
{
	for (int i = 0; i < count; i++)
		if (knocks[i].opened)
			return 1;
	return 0;
}

static int probe(const char *interface, uint64_t every, uint64_t patience, int until_first)
{
	int fd = frame_socket(interface), count = 0, room = 0;
	struct pollfd sockets[] = { { raw_socket(IPPROTO_TCP), POLLIN, 0 },
				    { raw_socket(IPPROTO_UDP), POLLIN, 0 } };
	struct knock *knocks = NULL;
	uint64_t begin = number(4) * SECOND;
	begin += number(4);
	if (!begin)
		begin = now();
	while (at < end) {
		if (count == room)
			knocks = realloc(knocks, (room = 2 * room + 64) * sizeof *knocks);
		struct knock *k = memset(&knocks[count++], 0, sizeof *k);
		k->next = begin + number(4) * 1000ull;
		k->receipt_port = number(2);
		k->frames = number(2);
		k->frame = calloc(k->frames + 1, sizeof *k->frame);
		for (int i = 0; i < k->frames; i++)
			k->frame[i] = read_frame();
		k->syn = read_frame();
	}
	for (int left = count; left && !(until_first && has_opened(knocks, count));) {
		uint64_t soon = UINT64_MAX, t;
		left = 0;
		for (int i = 0; i < count; i++) {
			if (knocks[i].is_over)
				continue;
			left++;
			t = advance(fd, &knocks[i], every, patience);
			soon = t < soon ? t : soon;
		}
		t = now();
		uint64_t pause = soon > t ? soon - t : 0;
		struct timespec wait = { pause / SECOND, pause % SECOND };
		if (!left || ppoll(sockets, 2, &wait, NULL) <= 0)
			continue;
		t = now();
		for (int i = 0; i < 2; i++) {
			uint8_t packet[FRAME];
			ssize_t length;
			while ((length = recv(sockets[i].fd, packet, sizeof packet, 0)) > 0)
				receive(knocks, count, packet, length, t);
		}
	}
	for (int i = 0; i < count; i++)
		printf("%llu %llu %llu\n", (unsigned long long)knocks[i].sent,
		       (unsigned long long)knocks[i].opened, (unsigned long long)knocks[i].received);
	return 0;
}

static void run(int descriptor, char **words)
{
	uint64_t time = now();
	if (write(descriptor, &time, sizeof time) != sizeof time || close(descriptor))
		die("run");
	execv(words[0], words);
	die(words[0]);
}

int main(int argc, char **argv)
{
	if (argc > 3 && !strcmp(argv[1], "run"))
		run(atoi(argv[2]), argv + 3);
	prctl(PR_SET_TIMERSLACK, 1);
	any ^= now();
	if (argc == 7 && !strcmp(argv[1], "flood")) {
		open_file(argv[3]);
		return flood(argv[2], atof(argv[4]), atof(argv[5]), !strcmp(argv[6], "any"));
	}
	if (argc == 7 && !strcmp(argv[1], "probe")) {
		open_file(argv[3]);
		return probe(argv[2], strtoull(argv[4], NULL, 10) * 1000, strtoull(argv[5], NULL, 10) * 1000000,
			     !strcmp(argv[6], "first"));
	}
	fprintf(stderr, "usage: sender flood|probe|run ... (see source)\n");
	return 2;
}
