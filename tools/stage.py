"""Machines for `tools/tour`: each in namespaces of its own, with a terminal of 80 columns."""

import fcntl
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import termios
import time

COLUMNS, ROWS = 80, 24
# Seconds in which a command must go on.
PATIENCE = 60


class Failure(Exception):
    """Something is not as the tour says."""


def run(*words):
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failure(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


class Machine:
    """A host with its own network, name, processes and directories. All of it ends with one
    process, the holder."""

    def __init__(self, folder, name, users):
        self.name, self.folder = name, f"{folder}/{name}"
        self.users = {"root": 0}
        shutil.copytree("/etc", f"{self.folder}/etc", symlinks=True)
        shutil.rmtree(f"{self.folder}/etc/toctoc", ignore_errors=True)
        for part in ["home", "root", "var/lib", "var/log"]:
            os.makedirs(f"{self.folder}/{part}")
        self.write("etc/hostname", f"{name}\n")
        self.write("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n"
                   "sshd:x:990:65534::/run/sshd:/usr/sbin/nologin\n"
                   "_toctoc:x:991:991::/nonexistent:/usr/sbin/nologin\n")
        self.write("etc/shadow", "root:*:19000::::::\n")
        for number, user in enumerate(users, 1000):
            self.users[user] = number
            self.write("etc/passwd", f"{user}:x:{number}:{number}::/home/{user}:/bin/bash\n", "a")
            self.write("etc/shadow", f"{user}:*:19000::::::\n", "a")
            os.mkdir(f"{self.folder}/home/{user}", 0o700)
            os.chown(f"{self.folder}/home/{user}", number, number)
        mounts = [f"mount --bind {self.folder}/{part} /{part}"
                  for part in ["etc", "home", "root", "var/lib", "var/log"]]
        script = " && ".join([*mounts, f"mount --bind {folder}/bin /usr/local/bin",
                              "mount -t tmpfs tmpfs /run", "mkdir /run/sshd", f"hostname {name}",
                              "ip link set lo up", "echo ready", "exec sleep infinity"])
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child",
             "--mount-proc", "sh", "-c", script], stdout=subprocess.PIPE, text=True)
        if self.holder.stdout.readline() != "ready\n":
            raise Failure(f"{name} could not be made")
        with open(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children", "rb") as children:
            self.pid = children.read().split()[0].decode()

    def write(self, path, text, mode="w"):
        with open(f"{self.folder}/{path}", mode, encoding="utf-8") as file:
            file.write(text)

    def words(self, user, line):
        """The words of a command that runs `line` here, as `user`."""
        home, number = f"/home/{user}" if self.users[user] else "/root", str(self.users[user])
        return ["nsenter", "-t", self.pid, "-n", "-u", "-m", "-p", "setpriv", "--reuid", number,
                "--regid", number, "--clear-groups", "env", "-i", f"--chdir={home}",
                f"HOME={home}", f"USER={user}", "TERM=xterm-256color", "LANG=C.UTF-8", "TZ=UTC",
                "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "bash", "-c", line]

    def silently(self, line, user="root"):
        """Runs what the tour does not show."""
        return run(*self.words(user, line))


class Network:
    """Machines around a router, each in a network of its own, /24, of documentation addresses."""

    def __init__(self, folder):
        self.router = Machine(folder, "router", [])
        self.machines = [self.router]
        self.router.silently("sysctl -qw net.ipv4.ip_forward=1")

    def add(self, machine, address):
        link, router = f"to{len(self.machines)}", address.rsplit(".", 1)[0] + ".254"
        self.machines.append(machine)
        run("nsenter", "-t", self.router.pid, "-n", "ip", "link", "add", link, "type", "veth",
            "peer", "name", "eth0", "netns", machine.pid)
        self.router.silently(f"ip addr add {router}/24 dev {link}; ip link set {link} up")
        machine.silently(f"ip addr add {address}/24 dev eth0; ip link set eth0 up; "
                         f"ip route add default via {router}")
        return machine

    def end(self):
        for machine in self.machines:
            machine.holder.kill()
            machine.holder.wait()


class Terminal:
    """A command at a terminal, and what it shows."""

    def __init__(self, words):
        self.end, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.raw, self.read_to = "", 0

        def take_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.child = subprocess.Popen(words, stdin=other, stdout=other, stderr=other,
                                      preexec_fn=take_terminal)
        os.close(other)

    def _read(self, seconds):
        """Reads more; false if there is none in that time."""
        if not select.select([self.end], [], [], seconds)[0]:
            return False
        try:
            read = os.read(self.end, 4096)
        except OSError:  # Nobody has the other end any more.
            return False
        self.raw += read.decode(errors="replace")
        return bool(read)

    def answer(self, question, typed):
        """Waits until it asks `question`, then types the answer."""
        deadline = time.monotonic() + PATIENCE
        while question not in self.raw[self.read_to:]:
            if time.monotonic() > deadline or self.child.poll() is not None:
                raise Failure(f"it does not ask {question!r}:\n{self.raw}")
            self._read(0.1)
        self.read_to = self.raw.index(question, self.read_to) + len(question)
        os.write(self.end, f"{typed}\n".encode())

    def finish(self):
        """Waits for its end; returns exit code and text."""
        deadline = time.monotonic() + PATIENCE
        while self.child.poll() is None:
            if time.monotonic() > deadline:
                raise Failure(f"it does not end:\n{self.raw}")
            self._read(0.1)
        while self._read(0):
            pass
        os.close(self.end)
        return self.child.returncode, shown(self.raw)


def shown(raw):
    """What stays on the screen: lines that were written over are gone, colours too."""
    lines = []
    for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", raw).split("\n"):
        cells = []
        at = 0
        for character in line:
            if character == "\r":
                at = 0
            elif character == "\b":
                at = max(0, at - 1)
            else:
                cells[at:at + 1] = [character]
                at += 1
        lines.append("".join(cells).rstrip())
    return "\n".join(lines).strip("\n")
