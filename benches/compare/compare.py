#!/usr/bin/env python3
"""Measures toctoc beside knockd and fwknopd: what a knock takes, what a flood does to it, what others notice.

usage: compare.py [--quick] [--programs DIRECTORY] [--to DIRECTORY]   (as root)
       compare.py pages DIRECTORY   figures.md and the pictures again, from figures.json

Python, because most of it is tables, pictures and other programs; sender.c is for what has to be fast. Writes
figures.json, figures.md and four pictures. Fails if a system never opened, or if a flood did not flow.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

import measures
import pictures
import report
import systems
from systems import WITHOUT_BPF, AsKnockd, Door, Fwknop, Knockd, Toctoc, variant

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
CROWD = 100_000


@dataclass
class Scale:
    knocks: int
    programs: int
    idle: float
    # Packets a second; 0 is the sender's maximum.
    rates: tuple
    # The rates once more, for the figures that are counts.
    again: tuple
    # How often each other kind of junk is sent.
    kinds: int
    seconds: float
    bystander_rounds: int
    grants: tuple
    grant_knocks: int
    clients: tuple
    starts: int


FULL = Scale(100, 20, 10, (5_000, 20_000, 50_000, 100_000, 0), (50_000, 0), 2, 3.0, 20, (0, 100, 1000, 4000), 15,
             (10, 1000, 10_000, 100_000), 3)
QUICK = Scale(15, 3, 3, (50_000, 0), (), 1, 2.0, 3, (0, 1000), 5, (10, 10_000), 1)

CONTESTANTS = (Toctoc, Fwknop, Door, AsKnockd, Knockd)
# The same without the right to load a filter into the kernel.
UNFILTERED, UNFILTERED_DOOR = (
    variant(kind, f"{kind.key}-unfiltered", f"{kind.label}, no kernel filter", prefix=WITHOUT_BPF) for kind in (Toctoc, Door)
)


class TooSlow(Exception):
    pass


class Run:
    def __init__(self, scale, programs, folder, sender):
        self.scale, self.programs, self.folder, self.sender = scale, programs, folder, sender
        # Seconds of the processor that the knocks of a flood take without it, by system.
        self.alone = {}
        self.open = []
        self.began = time.monotonic()

    def say(self, words):
        print(f"[{time.monotonic() - self.began:5.0f} s] {words}", file=sys.stderr, flush=True)

    def make(self, kinds):
        made = []
        for kind in kinds:
            made.append(kind(self.folder, self.programs, self.sender))
            self.open.append(made[-1])
        return made

    def close(self):
        while self.open:
            system = self.open.pop()
            system.close()
            shutil.rmtree(system.folder)

    def all(self):
        figures = self.knocks_and_floods([*CONTESTANTS, UNFILTERED, UNFILTERED_DOOR])
        if self.scale is FULL:
            figures["floods"] += self.floods_of_a_crowd([Toctoc, UNFILTERED])
        figures["bystanders"] = self.bystanders()
        figures["grants"] = self.live_grants()
        figures["starts"] = self.starts()
        return figures

    def knocks_and_floods(self, kinds):
        running = self.make(kinds)
        for system in running:
            system.prepare()
            system.launch()
        figures = {"labels": {system.key: system.label for system in running}}
        self.say("idle")
        figures["idle"] = measures.idle(running, self.scale.idle)
        for system in running:
            system.wait()
        figures["filtered"] = running[0].is_filtered()
        self.say("knocks")
        figures["latency"] = measures.latency(running, self.scale.knocks)
        # Until then the client program would be asked for a second packet.
        while any(system.clock.is_ahead() for system in running if isinstance(system, Toctoc)):
            time.sleep(0.1)
        self.say("client programs")
        figures["programs"] = measures.client_program(running, self.scale.programs)
        for system in running:
            system.stop()
        figures["floods"] = []
        for rate in self.scale.rates + self.scale.again:
            figures["floods"] += [self.flood(system, system.kinds[0], rate) for system in running]
        for _ in range(self.scale.kinds):
            for system in running:
                figures["floods"] += [self.flood(system, kind, 0) for kind in system.kinds[1:]]
        self.close()
        return figures

    def flood(self, system, kind, rate):
        if system.key not in self.alone:
            self.alone[system.key] = measures.knocks_alone(system, self.scale.seconds)
        for _ in range(3):
            figures = measures.flood(system, kind, rate, self.scale.seconds, self.alone[system.key])
            # At the maximum the way to the daemon may lose some of it too.
            flowed = figures["sent_per_second"] * min(1, figures["received"]) / (rate or 20_000)
            if flowed > 0.9:
                break
        # A busy machine may send less than asked for. Much less is no flood.
        if flowed < 0.5:
            raise TooSlow(f"{system.label}: of {rate} packets a second {flowed:.0%} arrived")
        rate = f"{figures['sent_per_second']:,.0f} a second"
        opened = f"{len(figures['open_ms'])} of {figures['knocks']}"
        self.say(f"flood: {system.label}: {kind}, {rate}: {opened} opened, {figures['cpu_s_per_million']:.2f} s a million")
        return figures

    def floods_of_a_crowd(self, kinds):
        crowds = [variant(kind, f"{kind.key}-crowd", f"{kind.label}, {CROWD:,} clients", clients=CROWD) for kind in kinds]
        running = self.make(crowds)
        figures = [self.flood(system, system.kinds[0], rate) for rate in (50_000, 0) for system in running]
        self.close()
        return figures

    def bystanders(self):
        unfiltered = variant(CaptureOnly, "capture-unfiltered", "the capture socket, no kernel filter", prefix=WITHOUT_BPF)
        running = self.make([Nobody, GuardOnly, CaptureOnly, unfiltered])
        for system in running:
            system.start()
        self.say("bystanders")
        figures = measures.bystanders(running, self.scale.bystander_rounds, 0.25)
        self.close()
        return figures

    def live_grants(self):
        many = {"max_grants": 65_535, "burst": 10_000, "per_second": 10_000, "seconds": 3600}
        running = self.make([variant(Toctoc, "toctoc", "toctoc", settings=many), Knockd, Fwknop])
        for system in running:
            system.start()
        while running[0].clock.is_ahead():
            time.sleep(0.1)
        self.say("live grants")
        figures = measures.live_grants(running, self.scale.grants, self.scale.grant_knocks)
        self.close()
        return figures

    def starts(self):
        figures = {"toctoc": {}, "fwknopd": {}}
        for number in self.scale.clients:
            running = self.make([variant(kind, kind.key, kind.label, clients=number) for kind in (Toctoc, Fwknop)])
            for _ in range(self.scale.starts):
                for system in running:
                    if None in figures[system.key].get(number, []):
                        continue
                    took = measures.start(system, 20.0)
                    self.say(f"start: {system.label}, {number:,} clients: {took and round(took)} ms")
                    figures[system.key].setdefault(number, []).append(took)
            self.close()
        if not all(took for took in figures["toctoc"][self.scale.clients[0]]):
            raise systems.NeverOpened("toctoc: after its start")
        return figures


class Nobody(Toctoc):
    key, label = "nobody", "no daemon"

    def configure(self):
        pass

    def start(self):
        self.net.drop_by_default(("tcp", systems.SSH))


class GuardOnly(Toctoc):
    key, label = "guard", "the guard"

    def start(self):
        self.prepare()


class CaptureOnly(Toctoc):
    key, label = "capture", "the capture socket"

    def start(self):
        super().start()
        self.run("guard", "off")


def machine(folder):
    """What the figures depend on."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    disk = subprocess.run(["findmnt", "-no", "FSTYPE", "-T", folder], capture_output=True, text=True).stdout.strip()
    if disk in ("tmpfs", "ramfs"):
        sys.exit(f"compare: {folder} is in memory, and the state must be on a real disk: set CARGO_TARGET_DIR")
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True)
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit.stdout.strip(),
        "processors": os.cpu_count(),
        "model": models[0] if models else platform.machine(),
        "kernel": platform.release(),
        "disk": disk,
        "sync_ms": sync_ms(folder),
    }


def sync_ms(folder):
    """What this disk takes to make a few bytes durable."""
    times = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(50):
            begin = time.monotonic()
            os.write(file.fileno(), bytes(100))
            os.fdatasync(file.fileno())
            times.append((time.monotonic() - begin) * 1e3)
    return statistics.median(times)


def sizes(programs):
    """Bytes of the programs as they are installed."""
    ours = [programs / "toctocd", programs / "toctoc"]
    theirs = ["/usr/sbin/knockd", "/usr/bin/knock", "/usr/sbin/fwknopd", "/usr/bin/fwknop"]
    return {pathlib.Path(file).name: os.path.getsize(file) for file in ours + theirs}


def load():
    return [round(one, 2) for one in os.getloadavg()]


def measure(arguments):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.umask(0o077)
    if os.geteuid():
        sys.exit("compare: it makes network namespaces: run it as root")
    TARGET.mkdir(exist_ok=True)
    for name in ("toctocd", "toctoc", "libtoctoc_client.so"):
        if not (arguments.programs / name).exists():
            sys.exit(f"compare: there is no {arguments.programs / name}: `make bench` builds it")
    with tempfile.TemporaryDirectory(prefix="bench-", dir=TARGET) as folder:
        os.chmod(folder, 0o711)
        sender = str(pathlib.Path(folder) / "sender")
        subprocess.run(["cc", "-O2", "-Wall", "-o", sender, ROOT / "benches" / "compare" / "sender.c"], check=True)
        figures = {"machine": machine(folder), "quick": arguments.quick, "load": [load()]}
        run = Run(QUICK if arguments.quick else FULL, arguments.programs.resolve(), folder, sender)
        try:
            figures |= run.all()
        finally:
            run.close()
        figures["load"].append(load())
        figures["seconds"] = round(time.monotonic() - run.began)
        figures["sizes"] = sizes(run.programs)
    return figures


def write(to, figures):
    to.mkdir(parents=True, exist_ok=True)
    (to / "figures.md").write_text(report.page(figures))
    for name, picture in pictures.all(figures).items():
        (to / f"{name}.svg").write_text(picture)
    print((to / "figures.md").read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", metavar="pages DIRECTORY")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: under three minutes")
    parser.add_argument("--programs", type=pathlib.Path, default=TARGET / "release")
    parser.add_argument("--to", type=pathlib.Path, default=TARGET / "bench")
    arguments = parser.parse_args()
    if arguments.pages:
        to = pathlib.Path(arguments.pages[1])
        figures = json.loads((to / "figures.json").read_text())
    else:
        to = arguments.to
        try:
            figures = measure(arguments)
        except (systems.NeverOpened, TooSlow, RuntimeError) as error:
            sys.exit(f"compare: {error}")
        to.mkdir(parents=True, exist_ok=True)
        (to / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
        # As the pages read it: JSON has no numbers as names.
        figures = json.loads(json.dumps(figures))
    write(to, figures)


if __name__ == "__main__":
    main()
