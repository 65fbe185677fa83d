"""A gateway's and a client's network namespace, the processes in them, and frames for the sender.

The namespaces have no names: they are gone with the last process in them, however this program ends.
"""

import contextlib
import ctypes
import mmap
import os
import pathlib
import random
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass

GATEWAY, CLIENT = "10.79.0.1", "10.79.0.2"
GATEWAY_MAC, CLIENT_MAC = "02:79:00:00:00:01", "02:79:00:00:00:02"
# Every address of it is the client's, so that each knock can come from another one. sender.c has it too.
SOURCES, SOURCES_NUMBER = "10.80.0.0/15", 131_000
SSH, SINK, POUR = 22, 9999, 5201
TCP, UDP = 6, 17

LIBC = ctypes.CDLL(None, use_errno=True)
NEW_NETWORK = 0x40000000
END_WITH_PARENT, ADOPT_ORPHANS = 1, 36
LIBC.prctl(ADOPT_ORPHANS, 1)
PROCESSORS = sorted(os.sched_getaffinity(0))
# One processor for the sender and one for what is measured, as if they were two machines.
SENDER_ON, MEASURED_ON = (PROCESSORS[0], PROCESSORS[1]) if len(PROCESSORS) > 1 else (None, None)
# Shared with a child until it runs its program: when that was.
STAMP = mmap.mmap(-1, 8)
RANDOM = random.Random(15)


@dataclass
class Packet:
    protocol: int
    port: int
    payload: bytes = b""

    def frame(self, source):
        """An Ethernet frame from this address to the gateway: a datagram, or a SYN."""
        addresses = socket.inet_aton(source) + socket.inet_aton(GATEWAY)
        port = RANDOM.randrange(20_000, 60_000)
        if self.protocol == UDP:
            part = struct.pack(">HHHH", port, self.port, 8 + len(self.payload), 0) + self.payload
            at = 6
        else:
            part = struct.pack(">HHIIBBHHH", port, self.port, RANDOM.getrandbits(32), 0, 0x50, 2, 64_240, 0, 0)
            at = 16
        total = checksum(addresses + struct.pack(">HH", self.protocol, len(part)) + part)
        part = part[:at] + struct.pack(">H", total or 0xFFFF) + part[at + 2 :]
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(part), 0, 0x4000, 64, self.protocol, 0) + addresses
        head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
        macs = bytes.fromhex((GATEWAY_MAC + CLIENT_MAC).replace(":", ""))
        return macs + b"\x08\x00" + head + part


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def in_file(frame):
    return struct.pack("<H", len(frame)) + frame


class Space:
    """A network namespace."""

    def __init__(self):
        self.fd = in_thread(lambda: (must(LIBC.unshare(NEW_NETWORK)), os.open("/proc/thread-self/ns/net", os.O_RDONLY))[1])
        self.path = f"/proc/{os.getpid()}/fd/{self.fd}"
        self.run("ip", "link", "set", "lo", "up")

    def inside(self, function):
        """What `function` returns in this namespace; sockets that it opens stay there."""
        return in_thread(lambda: (must(LIBC.setns(self.fd, NEW_NETWORK)), function())[1])

    def enter(self, processor=None):
        """What a child does before it runs its program."""

        def prepare():
            must(LIBC.setns(self.fd, NEW_NETWORK))
            LIBC.prctl(END_WITH_PARENT, signal.SIGKILL)
            if processor is not None:
                os.sched_setaffinity(0, {processor})
            STAMP[:8] = struct.pack("<Q", time.monotonic_ns())

        return prepare

    def run(self, *words, text=None, **more):
        done = subprocess.run(words, input=text, text=True, capture_output=True, preexec_fn=self.enter(), **more)
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, words))}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def start(self, *words, processor=None, **more):
        more = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | more
        process = subprocess.Popen(words, preexec_fn=self.enter(processor), start_new_session=True, **more)
        process.began = struct.unpack("<Q", STAMP[:8])[0]
        return process


def must(result):
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def in_thread(function):
    answer = []

    def body():
        try:
            answer.append((function(), None))
        except BaseException as error:  # it is raised again in the thread that waits
            answer.append((None, error))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    value, error = answer[0]
    if error:
        raise error
    return value


class Net:
    """A gateway with a default-drop firewall and a listening port 22, and a client, joined by a veth pair."""

    def __init__(self, sender):
        self.sender = sender
        self.gateway, self.client = Space(), Space()
        self.sources = 0
        peer = ("type", "veth", "peer", "name", "c0", "address", CLIENT_MAC, "netns", self.client.path)
        self.gateway.run("ip", "link", "add", "g0", "address", GATEWAY_MAC, *peer)
        sides = ((self.gateway, "g0", GATEWAY, CLIENT, CLIENT_MAC), (self.client, "c0", CLIENT, GATEWAY, GATEWAY_MAC))
        for space, device, address, other, mac in sides:
            space.run("ip", "address", "add", f"{address}/16", "dev", device)
            space.run("ip", "link", "set", device, "up")
            space.run("ip", "neighbour", "replace", other, "lladdr", mac, "dev", device, "nud", "permanent")
        self.gateway.run("ip", "route", "add", SOURCES, "via", CLIENT)
        self.client.run("ip", "route", "add", "local", SOURCES, "dev", "lo", "table", "local")
        self.sockets = [self.gateway.inside(lambda: listening(SSH)), self.gateway.inside(lambda: listening(POUR))]
        # Nobody reads it: the kernel drops what does not fit.
        self.sockets.append(self.gateway.inside(lambda: bound(SINK)))

    def close(self):
        for one in self.sockets:
            one.close()
        os.close(self.gateway.fd)
        os.close(self.client.fd)

    def drop_by_default(self, *accepted):
        """The same firewall for all: only what is accepted here, and what a program opens, gets in."""
        rules = "".join(f"-A INPUT -p {protocol} --dport {port} -j ACCEPT\n" for protocol, port in accepted)
        self.gateway.run("nft", "flush", "ruleset")
        self.gateway.run("iptables-restore", text=f"""*filter
:INPUT DROP
:FORWARD DROP
:OUTPUT ACCEPT
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p tcp --dport {POUR} -j ACCEPT
-A INPUT -p udp --dport {SINK} -j ACCEPT
{rules}COMMIT
""")

    def next_source(self):
        """An address that has not knocked yet."""
        self.sources = self.sources % SOURCES_NUMBER + 1
        first = struct.unpack(">I", socket.inet_aton(SOURCES.split("/")[0]))[0]
        return socket.inet_ntoa(struct.pack(">I", first + self.sources))

    def received(self):
        """Packets that the gateway's interface has taken."""
        lines = self.gateway.run("cat", "/proc/thread-self/net/dev").splitlines()
        return next(int(line.split()[2]) for line in lines if line.strip().startswith("g0:"))

    def flood(self, packets, rate, seconds, source=None):
        """Begins a flood: from any address, or from this one. `rate` 0 is as fast as it goes."""
        file = written(b"".join(in_file(packet.frame(source or CLIENT)) for packet in packets))
        words = (self.sender, "flood", "c0", file.name, str(rate), str(seconds), "own" if source else "any")
        process = self.client.start(*words, processor=SENDER_ON, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process.file = file
        return process

    def flooded(self, process):
        """The end of a flood: packets sent, a second, and nanoseconds of the sender's processor for each."""
        sent, took, worked = (int(word) for word in finished(process, 60).split())
        return sent, sent / took * 1e9, worked / max(1, sent)

    def program(self, *words, **more):
        """Starts a client program. `began` is the time of its exec."""
        begins, at_exec = os.pipe()
        process = self.client.start(self.sender, "run", str(at_exec), *words, pass_fds=(at_exec,), **more)
        os.close(at_exec)
        process.began = struct.unpack("<Q", os.read(begins, 8))[0]
        os.close(begins)
        return process

    def probe(self, knocks, every_us=50, patience_ms=2000, until="all", begin=0):
        """Begins to send knocks: (when in seconds, source, packets, receipt's port or 0). `begin` is of time.monotonic()."""
        parts = [struct.pack("<II", int(begin), int(begin % 1 * 1e9))]
        for when, source, packets, receipt in knocks:
            parts.append(struct.pack("<IHH", int(when * 1e6), receipt, len(packets)))
            parts += [in_file(packet.frame(source)) for packet in packets + [Packet(TCP, SSH)]]
        file = written(b"".join(parts))
        words = (self.sender, "probe", "c0", file.name, str(every_us), str(patience_ms), until)
        process = self.client.start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process.file = file
        process.limit = max(knock[0] for knock in knocks) + patience_ms / 1000 + 30
        return process

    def probed(self, process):
        """For each knock when it was sent, when the port opened and when the receipt came, as sender.c says."""
        return [tuple(map(int, line.split())) for line in finished(process, process.limit).splitlines()]

    def opens(self, source, packets, receipt=0, **more):
        """One knock: milliseconds until the port opened and until the receipt came; None if it did not."""
        sent, opened, received = self.probed(self.probe([(0, source, packets, receipt)], **more))[0]
        return tuple((t - sent) / 1e6 if t else None for t in (opened, received))


def written(data):
    file = tempfile.NamedTemporaryFile(prefix="toctoc-bench-")
    file.write(data)
    file.flush()
    return file


def finished(process, limit):
    try:
        output, errors = process.communicate(timeout=limit)
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        process.file.close()
    if process.returncode:
        raise RuntimeError(errors)
    return output


def listening(port):
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind((GATEWAY, port))
    one.listen(4096)
    return one


def bound(port):
    one = socket.socket(type=socket.SOCK_DGRAM)
    one.bind((GATEWAY, port))
    return one


class Daemon:
    """A running program with everything that it has started."""

    def __init__(self, space, *words, **more):
        self.process = space.start(*words, processor=MEASURED_ON, **more)
        self.began = self.process.began
        self.known = set()

    def pids(self):
        found, ahead = [], [self.process.pid]
        while ahead:
            pid = ahead.pop()
            with contextlib.suppress(OSError):
                threads = list(pathlib.Path(f"/proc/{pid}/task").iterdir())
                found.append(pid)
                for thread in threads:
                    ahead += map(int, (thread / "children").read_text().split())
        self.known.update(found)
        return found

    def is_alive(self):
        return self.process.poll() is None

    def seconds(self):
        """Processor time so far: of its processes to the nanosecond, of children that ended to 10 ms."""
        total = 0.0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                # The clock of another process, as clock_getcpuclockid(3) makes it.
                total += time.clock_gettime((~pid << 3) | 2)
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                total += (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
        return total

    def wake_ups(self):
        """How often its threads went to sleep of their own so far."""
        total = 0
        for pid in self.pids():
            for status in pathlib.Path(f"/proc/{pid}/task").glob("*/status"):
                with contextlib.suppress(OSError):
                    lines = status.read_text().splitlines()
                    total += sum(int(line.split()[1]) for line in lines if line.startswith("voluntary"))
        return total

    def memory(self):
        """Resident KiB of its processes; what they share counts once."""
        total = 0
        for pid in self.pids():
            lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total

    def settle(self, limit):
        """Waits until it has nothing to do any more, or so many seconds. Its processor time."""
        end, last = time.monotonic() + limit, self.seconds()
        while time.monotonic() < end:
            time.sleep(0.2)
            now = self.seconds()
            if now - last < 0.001:
                return now
            last = now
        return last

    def stop(self):
        """Ends it and what it has started, without a word: what they have stored is thrown away."""
        self.pids()
        self.process.kill()
        self.process.wait()
        for pid in self.known - {self.process.pid}:
            # What outlives its parent is our child then.
            with contextlib.suppress(OSError):
                if f"\nPPid:\t{os.getpid()}\n" in pathlib.Path(f"/proc/{pid}/status").read_text():
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
