/*
 * Counts the steps of a program that somebody outside can see, and kills it after a chosen one. For
 * LD_PRELOAD. A step is a call that changes a file or directory, or sends a long message. The file
 * $TEST_STEPS, of SIZE bytes, is shared with the test:
 *
 *   at 0  kill after this step (4 bytes, of this machine); 0 = after none
 *   at 4  how many steps there were
 *   at 8  a letter for each: c create, w write, s sync, m mode, r rename, l link, u unlink, t send
 *
 * Only regular files and directories count, and messages of LONG bytes over a local socket or UDP:
 * not the log, not the kernel's netlink, not the heartbeat of the listener.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define SIZE 4096
#define LONG 100

struct steps {
	_Atomic uint32_t last;
	_Atomic uint32_t count;
	char letters[SIZE - 8];
};

static struct steps *steps;

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("TEST_STEPS");
	int file = path == NULL ? -1 : open(path, O_RDWR | O_CLOEXEC);

	if (file < 0)
		return;
	steps = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	close(file);
}

static long step(char letter, long result)
{
	uint32_t count;

	if (steps == NULL || result < 0)
		return result;
	count = atomic_fetch_add(&steps->count, 1) + 1;
	if (count <= sizeof(steps->letters))
		steps->letters[count - 1] = letter;
	if (count == atomic_load(&steps->last))
		kill(getpid(), SIGKILL);
	return result;
}

static int is_on_disk(int fd)
{
	struct stat about;

	return fstat(fd, &about) == 0 && (S_ISREG(about.st_mode) || S_ISDIR(about.st_mode));
}

static long sent(int fd, long result)
{
	int family = 0;
	socklen_t length = sizeof(family);

	if (result < LONG || getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length) != 0)
		return result;
	return family == AF_UNIX || family == AF_INET || family == AF_INET6 ? step('t', result) : result;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define ON_DISK(letter, fd, call) (is_on_disk(fd) ? step(letter, call) : (call))

static int opened(int (*open_it)(int, const char *, int, ...), int at, const char *path, int flags,
    mode_t mode)
{
	struct stat about;
	int is_new = flags & O_CREAT && fstatat(at, path, &about, AT_SYMLINK_NOFOLLOW) != 0;
	int file = open_it(at, path, flags, mode);

	return is_new ? (int)step('c', file) : file;
}

#define OPEN(at)                                                    \
	{                                                           \
		mode_t mode = 0;                                    \
		va_list more;                                       \
		va_start(more, flags);                              \
		if (flags & (O_CREAT | O_TMPFILE))                  \
			mode = va_arg(more, mode_t);                \
		va_end(more);                                       \
		return opened(REAL(openat), at, path, flags, mode); \
	}

int open(const char *path, int flags, ...) OPEN(AT_FDCWD)
int open64(const char *path, int flags, ...) OPEN(AT_FDCWD)
int openat(int at, const char *path, int flags, ...) OPEN(at)
int openat64(int at, const char *path, int flags, ...) OPEN(at)

ssize_t write(int fd, const void *bytes, size_t length)
{
	return ON_DISK('w', fd, REAL(write)(fd, bytes, length));
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at)
{
	return ON_DISK('w', fd, REAL(pwrite64)(fd, bytes, length, at));
}

int ftruncate64(int fd, off64_t length)
{
	return (int)ON_DISK('w', fd, REAL(ftruncate64)(fd, length));
}

int fsync(int fd)
{
	return (int)ON_DISK('s', fd, REAL(fsync)(fd));
}

int fdatasync(int fd)
{
	return (int)ON_DISK('s', fd, REAL(fdatasync)(fd));
}

int fchmod(int fd, mode_t mode)
{
	return (int)ON_DISK('m', fd, REAL(fchmod)(fd, mode));
}

int rename(const char *from, const char *to)
{
	return (int)step('r', REAL(rename)(from, to));
}

int link(const char *from, const char *to)
{
	return (int)step('l', REAL(link)(from, to));
}

int linkat(int from_at, const char *from, int to_at, const char *to, int flags)
{
	return (int)step('l', REAL(linkat)(from_at, from, to_at, to, flags));
}

int unlink(const char *path)
{
	return (int)step('u', REAL(unlink)(path));
}

ssize_t send(int fd, const void *bytes, size_t length, int flags)
{
	return sent(fd, REAL(send)(fd, bytes, length, flags));
}

ssize_t sendto(int fd, const void *bytes, size_t length, int flags, const struct sockaddr *to,
    socklen_t size)
{
	return sent(fd, REAL(sendto)(fd, bytes, length, flags, to, size));
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	return sent(fd, REAL(sendmsg)(fd, message, flags));
}
