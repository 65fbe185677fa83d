"""The measurements. Each returns plain data: lists of numbers by system, in the unit of its name."""

import random
import shutil
import socket
import threading
import time

from net import CLIENT, GATEWAY, POUR, SINK, UDP, Packet
from systems import NeverOpened

# Knocks during a flood, and the seconds after which one of them is lost.
MEANWHILE, LOST = 40, 2.0
# What is poured over a TCP connection at once.
PIECE = bytes(1 << 20)


def idle(systems, seconds):
    """How often a second each daemon wakes up with nothing to do, and its memory. They have just started."""
    time.sleep(2)
    before = [system.daemon.wake_ups() for system in systems]
    begin = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - begin
    return {
        system.key: {"wake_ups": (system.daemon.wake_ups() - first) / took, "kib": system.daemon.memory()}
        for system, first in zip(systems, before)
    }


def latency(systems, knocks):
    """Milliseconds from the knock to the open port, and to the receipt. Pauses are random: some daemons poll."""
    figures = {system.key: {"open_ms": [], "receipt_ms": []} for system in systems}
    for _ in range(knocks):
        for system in systems:
            source = system.net.next_source()
            packets = system.knock(source)
            time.sleep(random.uniform(0.03, 0.07))
            opened, received = system.net.opens(source, packets, system.receipt)
            figures[system.key]["open_ms"].append(opened)
            figures[system.key]["receipt_ms"] += [received] if system.receipt else []
    for system in systems:
        lost = figures[system.key]["open_ms"].count(None)
        if lost * 20 > knocks:
            raise NeverOpened(f"{system.label}: {lost} of {knocks} knocks on a quiet network")
        for name, times in figures[system.key].items():
            figures[system.key][name] = [t for t in times if t is not None]
    return figures


def client_program(systems, runs):
    """Milliseconds from the exec of the client program to the open port."""
    figures = {system.key: [] for system in systems}
    for _ in range(runs):
        for system in systems:
            source = system.net.next_source()
            words = system.program(source)
            probe = system.net.probe([(0, source, [], 0)], every_us=100, patience_ms=4000)
            time.sleep(random.uniform(0.05, 0.1))
            program = system.net.program(shutil.which(words[0]), *words[1:], env=system.environment())
            _, opened, _ = system.net.probed(probe)[0]
            program.wait(10)
            if not opened:
                raise NeverOpened(f"{system.label}: by its client program")
            figures[system.key].append((opened - program.began) / 1e6)
    return figures


def knocks_meanwhile(system, seconds):
    """The knocks of one flood, with the time of each."""
    every = (seconds - 1) / MEANWHILE
    sources = [system.net.next_source() for _ in range(MEANWHILE)]
    begin = time.time()
    return [
        (0.5 + every * at, source, system.knock(source, begin + 0.5 + every * at), 0)
        for at, source in enumerate(sources)
    ]


def knocks_alone(system, seconds):
    """Seconds of processor time that the knocks of a flood take without it."""
    system.start()
    knocks = knocks_meanwhile(system, seconds)
    worked = system.daemon.settle(2)
    system.net.probed(system.net.probe(knocks, every_us=2000, patience_ms=int(LOST * 1000)))
    worked = system.daemon.settle(3) - worked
    system.stop()
    return worked


def flood(system, kind, rate, seconds, alone):
    """Knocks while this junk arrives. `rate` 0 is the sender's maximum, `alone` what the knocks take."""
    system.start()
    packets, source = system.junk(kind)
    knocks = knocks_meanwhile(system, seconds)
    worked, received = system.daemon.settle(2), system.net.received()
    running = system.net.flood(packets, rate, seconds, source)
    probe = system.net.probe(knocks, every_us=2000, patience_ms=int(LOST * 1000))
    sent, per_second, sender_ns = system.net.flooded(running)
    answers = system.net.probed(probe)
    worked = max(0, system.daemon.settle(3) - worked - alone)
    received = system.net.received() - received
    system.stop()
    return {
        "system": system.key,
        "kind": kind,
        "rate": rate,
        "sent_per_second": per_second,
        # What the gateway's interface has taken; the probes' SYNs are among it.
        "received": received / sent,
        "knocks": MEANWHILE,
        "open_ms": [(opened - at) / 1e6 for at, opened, _ in answers if opened],
        "cpu_s_per_million": worked / sent * 1e6,
        "cpu_share": worked / sent * per_second,
        "sender_ns": sender_ns,
    }


def bystanders(systems, rounds, seconds):
    """Nanoseconds of a small UDP packet of others, the sender's side included, and gigabits of their TCP."""
    figures = {system.key: {"packet_ns": [], "tcp_gbps": []} for system in systems}
    packet = [Packet(UDP, SINK, bytes(18))]
    for _ in range(rounds):
        for system in systems:
            _, _, cost = system.net.flooded(system.net.flood(packet, 0, seconds, CLIENT))
            figures[system.key]["packet_ns"].append(cost)
    for _ in range(max(3, rounds // 4)):
        for system in systems:
            figures[system.key]["tcp_gbps"].append(pour(system.net, 4 * seconds))
    return figures


def pour(net, seconds):
    """Gigabits a second over one TCP connection to a port that nothing guards."""
    sender = net.client.inside(lambda: socket.create_connection((GATEWAY, POUR), timeout=10))
    receiver, _ = net.sockets[1].accept()
    taken = [0]

    def take():
        room = bytearray(len(PIECE))
        while count := receiver.recv_into(room):
            taken[0] += count

    thread = threading.Thread(target=take)
    thread.start()
    begin = time.monotonic()
    while time.monotonic() < begin + seconds:
        sender.sendall(PIECE)
    sender.close()
    thread.join()
    receiver.close()
    return taken[0] * 8 / (time.monotonic() - begin) / 1e9


def live_grants(systems, numbers, knocks):
    """Milliseconds from the knock to the open port beside so many live grants."""
    figures = {system.key: {} for system in systems}
    held = 0
    for number in numbers:
        for system in systems:
            system.grant([system.net.next_source() for _ in range(number - held)])
        held = number
        for system in systems:
            figures[system.key][number] = times = []
            for _ in range(knocks):
                source = system.net.next_source()
                opened, _ = system.net.opens(source, system.knock(source), patience_ms=10_000)
                if opened is None:
                    raise NeverOpened(f"{system.label}: beside {number} grants")
                times.append(opened)
    return figures


def start(system, limit):
    """Milliseconds from the exec of the daemon until a knock has opened the port; None if none did in time."""
    system.prepare()
    # Knocks at 10 ms, and then each 3 % later than the one before, at least 5 ms.
    times = [0.01]
    while times[-1] < limit:
        times.append(times[-1] + max(0.005, times[-1] * 0.03))
    sources = [system.net.next_source() for _ in times]
    # They carry the time at which they are sent, so all of them are made before that: as one takes, and half more.
    begin = time.monotonic()
    system.knock(sources[0])
    ahead = (time.monotonic() - begin) * len(times) * 1.5 + 0.3
    wall, begin = time.time() + ahead, time.monotonic() + ahead
    knocks = [(t, source, system.knock(source, wall + t), 0) for t, source in zip(times, sources)]
    probe = system.net.probe(knocks, every_us=5000, patience_ms=1000, until="first", begin=begin)
    time.sleep(max(0, begin - time.monotonic()))
    began = system.launch().began
    opened = [opened for _, opened, _ in system.net.probed(probe) if opened]
    if not system.daemon.is_alive():
        raise NeverOpened(f"{system.label}: it ended at its start")
    system.stop()
    return (min(opened) - began) / 1e6 if opened else None
