"""What is compared: each system with its configuration, its knocks, its client program, and junk for it."""

import json
import os
import pathlib
import random
import re
import shutil
import string
import subprocess
import time

import sealed
from net import CLIENT, GATEWAY, SSH, TCP, UDP, Daemon, Net, Packet

KNOCK, STEPS = 62201, (7411, 2833, 9543)
# The length of a knock.
SEALED = 272
# Clients that take turns: each of them stays within its rate and its number of grants.
CLIENTS = 8
# Seconds that a grant lasts.
GRANT = 30
# What takes from a program the right to load a filter into the kernel.
WITHOUT_BPF = "setpriv", "--bounding-set", "-bpf,-sys_admin"


# The keys of a crowd, as lines.
CROWD = []


class NeverOpened(Exception):
    pass


class System:
    """A daemon in a network of its own. `key` names it in results, `label` in tables."""

    key = label = ""
    # The UDP port that receipts come from, if there are any.
    receipt = 0
    # Kinds of junk; the first one is that of the rates.
    kinds = ()

    def __init__(self, folder, programs, sender):
        self.folder = pathlib.Path(folder) / self.key
        self.folder.mkdir(mode=0o700)
        self.programs, self.net, self.daemon = programs, Net(sender), None
        self.configure()

    def path(self, name):
        return str(self.folder / name)

    def configure(self):
        """Writes keys and configuration."""

    def firewall(self):
        """Before the daemon starts."""
        self.net.drop_by_default()

    def command(self):
        """The daemon's command line."""
        raise NotImplementedError

    def environment(self):
        return dict(os.environ, HOME=str(self.folder))

    def knock(self, source, when=None):
        """The packets of a fresh knock for this source, to be sent at that time."""
        raise NotImplementedError

    def program(self, source):
        """The command line of the client program, knocking from there."""
        raise NotImplementedError

    def junk(self, kind):
        """Packets of this kind, and the one source that they come from; None: from any."""
        raise NotImplementedError

    def grant(self, sources):
        """Makes a grant for each of these, for a long time."""
        raise NotImplementedError

    def forget(self):
        """Clears what the daemon has stored."""

    def prepare(self):
        """Makes all as it was before the first start."""
        self.firewall()
        self.forget()

    def launch(self):
        self.daemon = Daemon(self.net.gateway, *self.command(), env=self.environment())
        return self.daemon

    def start(self):
        """Starts the daemon, and waits until a knock opens."""
        self.prepare()
        self.launch()
        self.wait()

    def wait(self, limit=30):
        """Waits until a knock opens. None in so many seconds ends the whole run."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            if not self.daemon.is_alive():
                raise NeverOpened(f"{self.label}: it ended at its start")
            source = self.net.next_source()
            if self.net.opens(source, self.knock(source), patience_ms=250)[0]:
                return
        raise NeverOpened(f"{self.label}: no knock opened in {limit} s")

    def stop(self):
        if self.daemon:
            self.daemon.stop()
            self.daemon = None

    def close(self):
        self.stop()
        self.net.close()

    def from_source(self, source):
        """Makes programs of the client's side send from this address."""
        self.net.client.run("ip", "route", "replace", GATEWAY, "dev", "c0", "src", source)


class Toctoc(System):
    key, label = "toctoc", "toctoc"
    receipt = KNOCK
    kinds = ("mixed", "copied", "used", "client")
    clients = CLIENTS
    doors = ""
    # Keys of toctocd.toml with other values than the default. These clients have more grants than others may have.
    settings = {"max_grants": 4096}
    # Words before the command line.
    prefix = ()

    def run(self, *words):
        return self.net.gateway.run(str(self.programs / "toctocd"), *words, "-c", self.path("etc/toctocd.toml"))

    def configure(self):
        words = "init", "--dir", self.path("etc"), "--address", GATEWAY, "--service", f"ssh={SSH}/tcp"
        self.net.gateway.run(str(self.programs / "toctocd"), *words, stdin=subprocess.DEVNULL)
        file = self.folder / "etc" / "toctocd.toml"
        file.write_text(self.edit(file.read_text()) + self.doors)
        library = sealed.app.Library(str(self.programs / "libtoctoc_client.so"))
        enrolled = [self.enrol(library, f"client{number}") for number in range(CLIENTS + 1)]
        # One of them is an attacker.
        self.attacker, self.enrolled, self.turn = enrolled[0], enrolled[1:], 0
        self.crowd(self.clients - len(enrolled))
        self.net.client.run(str(self.programs / "toctoc"), "keygen", "--no-passphrase", "--out", self.path("key"))
        (self.folder / "profile.toml").write_text(self.add("person", f"@{self.path('key.pub')}"))
        # As it is before the first start.
        shutil.copytree(self.path("etc/state"), self.path("state"))
        self.clock = sealed.Clock()

    def edit(self, text):
        for key, value in self.settings.items():
            text, number = re.subn(rf"(?m)^{key} = \w+$", f"{key} = {value}", text)
            assert number, f"toctocd.toml has no {key}"
        return text

    def add(self, name, key):
        return self.run("client", "add", name, "--key", key, "--services", "ssh")

    def enrol(self, library, name):
        key = sealed.Key()
        return sealed.Client(library, key, self.add(name, key.line()))

    def crowd(self, number):
        """Adds clients that never knock. Their keys are the same at each gateway: to make them takes a while."""
        while len(CROWD) < number:
            CROWD.append(sealed.Key().line())
        with open(self.path("etc/clients"), "a") as file:
            for at, key in enumerate(CROWD[: max(0, number)]):
                file.write(f'id={random.randbytes(16).hex()},services="ssh" {key} crowd{at}\n')

    def firewall(self):
        # What the guard lets through, the other rules must let through too.
        self.net.drop_by_default(("tcp", SSH))
        self.run("guard", "on")

    def forget(self):
        shutil.rmtree(self.path("etc/state"))
        shutil.copytree(self.path("state"), self.path("etc/state"))

    def command(self):
        return *self.prefix, str(self.programs / "toctocd"), "run", "-c", self.path("etc/toctocd.toml")

    def is_filtered(self):
        """True if junk ends in the kernel."""
        degraded = json.loads(self.run("status", "--json"))["degraded"]
        return not any("in the kernel" in reason for reason in degraded)

    def prepare(self):
        super().prepare()
        self.clock.starts()

    def wait(self, limit=30):
        super().wait(limit)
        self.clock.started()

    def knock(self, source, when=None):
        self.turn += 1
        client = self.enrolled[self.turn % len(self.enrolled)]
        return [Packet(UDP, KNOCK, client.knock(source, self.clock.stamp(when)))]

    def genuine(self, number):
        """Knocks of the attacker's own, which is a client too."""
        return [self.attacker.knock(CLIENT, self.clock.stamp()) for _ in range(number)]

    def junk(self, kind):
        match kind:
            case "mixed":
                return self.datagrams([*self.random(), *self.flipped()]), None
            # One packet that nobody has received before, from where its client is.
            case "copied":
                return self.datagrams(self.genuine(1)), CLIENT
            case "used":
                packets = self.datagrams(self.genuine(8))
                for packet in packets:
                    if not self.net.opens(CLIENT, [packet])[0]:
                        raise NeverOpened(f"{self.label}: the attacker's own knock")
                return packets, None
            case "client":
                return self.datagrams(self.genuine(4096)), CLIENT

    def datagrams(self, payloads):
        return [Packet(UDP, KNOCK, payload) for payload in payloads]

    def random(self):
        return (random.randbytes(SEALED) for _ in range(1024))

    def flipped(self):
        """Copies of knocks with another bit behind the mask: their tag is a client's, their MAC is wrong."""
        knocks = self.genuine(8)
        for number in range(1024):
            copy = bytearray(knocks[number % len(knocks)])
            bit = random.randrange(64 * 8, SEALED * 8)
            copy[bit // 8] ^= 1 << bit % 8
            yield bytes(copy)

    def program(self, source):
        self.from_source(source)
        return str(self.programs / "toctoc"), "open", self.path("profile.toml"), "ssh", "-i", self.path("key")

    def grant(self, sources):
        """By knocks, a few at a time, as the listener's queue holds no more."""
        for begin in range(0, len(sources), 64):
            knocks = [(0, source, self.knock(source), self.receipt) for source in sources[begin : begin + 64]]
            answers = self.net.probed(self.net.probe(knocks, every_us=5000, patience_ms=5000))
            if not all(opened for _, opened, _ in answers):
                raise NeverOpened(f"{self.label}: one of {len(sources)} grants")


class Door(Toctoc):
    key, label = "door", "toctoc, door"
    receipt, kinds = 0, ("first steps",)
    doors = '\n[door.ssh]\nsequence = [{}]\nservice = "ssh"\n'.format(", ".join(f'"{port}/tcp"' for port in STEPS))

    def knock(self, source, when=None):
        return steps()

    def program(self, source):
        self.from_source(source)
        return str(self.programs / "toctoc"), "knock", GATEWAY, *(f"{port}:tcp" for port in STEPS)

    def junk(self, kind):
        return steps()[:1], None


def steps():
    return [Packet(TCP, port) for port in STEPS]


class Knockd(System):
    key, label = "knockd", "knockd 0.8"
    kinds = ("first steps",)
    daemon_program, client_program = "/usr/sbin/knockd", "/usr/bin/knock"

    def configure(self):
        """A door that opens, and, as in Debian's configuration, one that closes by the reverse sequence."""
        rule = f"-s %IP% -p tcp --dport {SSH} -j ACCEPT"
        (self.folder / "knockd.conf").write_text(f"""[options]
 logfile = {self.path("log")}
[ssh]
 sequence = {",".join(map(str, STEPS))}
 seq_timeout = 5
 tcpflags = syn
 start_command = /usr/sbin/iptables -w -A INPUT {rule}
 cmd_timeout = {GRANT}
 stop_command = /usr/sbin/iptables -w -D INPUT {rule}
[close]
 sequence = {",".join(map(str, reversed(STEPS)))}
 seq_timeout = 5
 tcpflags = syn
 command = /usr/sbin/iptables -w -D INPUT {rule}
""")

    def command(self):
        return self.daemon_program, "-i", "g0", "-c", self.path("knockd.conf")

    def knock(self, source, when=None):
        return steps()

    def program(self, source):
        self.from_source(source)
        return self.client_program, GATEWAY, *map(str, STEPS)

    def junk(self, kind):
        return steps()[:1], None

    def grant(self, sources):
        rules = (f"-A INPUT -s {source}/32 -p tcp --dport {SSH} -j ACCEPT\n" for source in sources)
        self.net.gateway.run("iptables-restore", "--noflush", text=f"*filter\n{''.join(rules)}COMMIT\n")


class AsKnockd(Knockd):
    key, label = "as-knockd", "toctocd as knockd"

    def configure(self):
        super().configure()
        for name, program in (("knockd", "toctocd"), ("knock", "toctoc")):
            os.symlink(self.programs / program, self.path(name))
        self.daemon_program, self.client_program = self.path("knockd"), self.path("knock")

    def environment(self):
        return dict(super().environment(), STATE_DIRECTORY=self.path("journals"))

    def forget(self):
        shutil.rmtree(self.path("journals"), ignore_errors=True)
        os.mkdir(self.path("journals"), 0o700)


class Fwknop(System):
    """In the faster one of its two modes: it binds the port, and does not sniff for it."""

    key, label = "fwknopd", "fwknopd 2.6.10"
    kinds = ("mixed",)
    clients = CLIENTS

    def configure(self):
        stanza = "SOURCE ANY\nOPEN_PORTS tcp/{}\nREQUIRE_SOURCE_ADDRESS Y\n"
        stanza += "KEY_BASE64 {}\nHMAC_KEY_BASE64 {}\nFW_ACCESS_TIMEOUT {}\n\n"
        with open(self.path("access.conf"), "w") as file:
            for _ in range(self.clients):
                keys = [sealed.base64.b64encode(random.randbytes(size)).decode() for size in (32, 64)]
                file.write(stanza.format(SSH, *keys, GRANT))
        (self.folder / "fwknopd.conf").write_text(f"PCAP_INTF g0;\nENABLE_UDP_SERVER Y;\nUDPSERV_PORT {KNOCK};\n")
        # The last one of the clients knocks.
        gate = f"[default]\n[gate]\nACCESS tcp/{SSH}\nSPA_SERVER {GATEWAY}\n"
        (self.folder / "rc").write_text(f"{gate}KEY_BASE64 {keys[0]}\nHMAC_KEY_BASE64 {keys[1]}\nUSE_HMAC Y\n")
        for name in ("access.conf", "fwknopd.conf", "rc"):
            os.chmod(self.path(name), 0o600)
        os.mkdir(self.path("run"))

    def firewall(self):
        self.net.drop_by_default(("udp", KNOCK))

    def command(self):
        words = ("-c", "fwknopd.conf"), ("-a", "access.conf"), ("-r", "run"), ("-p", "run/pid"), ("-d", "run/digests")
        return "/usr/sbin/fwknopd", "-f", *(word for option, name in words for word in (option, self.path(name)))

    def fwknop(self, source, *more):
        return "/usr/bin/fwknop", "--rc-file", self.path("rc"), "-n", "gate", "-a", source, "--no-save-args", *more

    def knock(self, source, when=None):
        file = self.folder / "packet"
        subprocess.run(self.fwknop(source, "-T", "-B", str(file)), env=self.environment(), check=True, capture_output=True)
        return [Packet(UDP, KNOCK, file.read_bytes().strip())]

    def program(self, source):
        self.from_source(source)
        return self.fwknop(source)

    def junk(self, kind):
        """The length and the alphabet of a knock: it takes an HMAC to find out."""
        length = len(self.knock(CLIENT)[0].payload)
        letters = (string.ascii_letters + string.digits + "+/").encode()
        return [Packet(UDP, KNOCK, bytes(random.choices(letters, k=length))) for _ in range(1024)], None

    def grant(self, sources):
        """As the daemon writes them: it reads the time of their end in the comment."""
        rule = "-A FWKNOP_INPUT -s {}/32 -p tcp -m tcp --dport {} -m comment --comment _exp_{} -j ACCEPT\n"
        rules = (rule.format(source, SSH, int(time.time()) + 3600) for source in sources)
        self.net.gateway.run("iptables-restore", "--noflush", text=f"*filter\n{''.join(rules)}COMMIT\n")


def variant(system, key, label, **values):
    """The same system with other values."""
    return type(key, (system,), values | {"key": key, "label": label})
