#!/usr/bin/env python3
"""Knocks at a gateway as docs/protocol.md says, with nothing but Python's standard library.

Shares no code with the Rust implementation; the primitives are those of vectors/check.py, slow and not constant-time.
Each line of output is the receipt of one knock as JSON, or null for silence.

usage: python_client.py PROFILE KEY KIND [SERVICE] [ADDRESS] [OPTION VALUE]...
       KEY: an OpenSSH private key without passphrase. KIND: open, close, probe, or time, which only asks.
       --challenge: of an earlier receipt, in hex.
       --clock: how many seconds this client's clock is ahead of the machine's; negative: behind.
       --patience: how long it waits for the first receipt before it asks for the time.
"""

import base64
import copy
import hashlib
import hmac
import ipaddress
import json
import os
import pathlib
import socket
import struct
import sys
import time
import tomllib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "vectors"))
import check

KINDS = {"open": 1, "close": 2, "probe": 3, "time": 6}
STATUS = "granted closed observed address clock denied full challenge trouble".split()
MAY_ANSWER = {
    "open": {"granted", "address", "clock", "denied", "full", "challenge", "trouble"},
    "close": {"closed", "clock", "denied", "challenge", "trouble"},
    "probe": {"observed", "clock", "challenge"},
    "time": {"clock"},
}
SECOND = 10**9
DAY = 86400 * SECOND
# 2026-01-01: a clock that shows less is wrong.
EARLIEST = 1767225600 * SECOND
# The last day that a timestamp can hold.
LAST_DAY = (2**64 - 1) // DAY
# Seconds to wait for a receipt.
PATIENCE = 10


def private_key(path):
    """Returns the seed and the public blob of an unencrypted ssh-ed25519 key."""
    lines = pathlib.Path(path).read_text().split("-----")[2]
    data = base64.b64decode("".join(lines.split()))
    assert data.startswith(b"openssh-key-v1\0")

    def take():
        nonlocal data
        size = struct.unpack(">I", data[:4])[0]
        value, data = data[4 : 4 + size], data[4 + size :]
        return value

    data = data[15:]
    assert take() == b"none", "the key has a passphrase"
    take(), take()  # kdf and its options
    data = data[4:]  # the number of keys
    blob = take()
    data = take()[8:]  # behind the two check numbers
    assert take() == b"ssh-ed25519"
    take()  # the public half
    return take()[:32], blob


def address_bytes(text):
    address = ipaddress.ip_address(text)
    return bytes(10) + b"\xff\xff" + address.packed if address.version == 4 else address.packed


def address_text(data):
    address = ipaddress.IPv6Address(data)
    return None if data == bytes(16) else str(address.ipv4_mapped or address)


def ports_text(entries):
    """Returns the opened ports as text: `22/tcp`, `60000-61000/udp`, `all`, `more`. None if they are malformed."""
    texts, begun, ended = [], None, False
    for protocol, meaning, number in entries:
        name = {6: "tcp", 17: "udp"}.get(protocol)
        if (protocol, meaning, number) == (0, 0, 0) and begun is None:
            ended = True
        elif ended:
            return None
        elif begun is not None:
            if meaning != 2 or protocol != begun[0] or number <= begun[1]:
                return None
            texts.append(f"{begun[1]}-{number}/{name}")
            begun = None
        elif meaning == 0 and name and number:
            texts.append(f"{number}/{name}")
        elif meaning == 1 and name and number:
            begun = (protocol, number)
        elif (protocol, meaning, number) == (0, 3, 0) and not texts:
            texts, ended = ["all"], True
        elif (protocol, meaning, number) == (0, 4, 0) and texts:
            texts, ended = texts + ["more"], True
        else:
            return None
    return None if begun else texts


def read_receipt(plain, kind):
    """Returns the receipt as a dictionary, or None if it is malformed or may not answer that kind."""
    version, status, flags, prefix, seconds, now, working_day, zero = struct.unpack(">BBBBIQII", plain[:24])
    if version != 1 or not 1 <= status <= len(STATUS) or flags & ~3 or zero or working_day > LAST_DAY:
        return None
    entries = [struct.unpack(">BBH", plain[at : at + 4]) for at in range(56, 72, 4)]
    receipt = {
        "status": STATUS[status - 1],
        "once": bool(flags & 1),
        "seconds": seconds,
        "time": now,
        "working_day": working_day,
        "observed": address_text(plain[24:40]),
        "granted": address_text(plain[40:56]),
        "prefix": prefix,
        "ports": ports_text(entries),
        "challenge": plain[72:88].hex(),
    }
    if receipt["ports"] is None or receipt["status"] not in MAY_ANSWER[kind]:
        return None
    if receipt["status"] != "granted":
        return receipt if (seconds, receipt["granted"], prefix) == (0, None, 0) else None
    if receipt["granted"] is None:
        return None
    narrow, wide = (48, 128) if ":" in receipt["granted"] else (16, 32)
    return receipt if seconds and narrow <= prefix <= wide else None


class Sent:
    """One knock, and what its receipt must fit."""

    def __init__(self, kind, noise, ephemeral, gate, h):
        self.kind, self.noise, self.ephemeral, self.gate, self.h = kind, noise, ephemeral, gate, h


class Client:
    def __init__(self, profile, key, ahead, patience):
        profile = tomllib.loads(pathlib.Path(profile).read_text())
        assert profile["version"] == 1 and profile["generation"] == 0
        self.realm, self.gateway = (bytes.fromhex(profile[name]) for name in ("realm", "gateway"))
        names = ("gateway_key", "mask", "secret", "clockless")
        self.public, mask, secret, clockless = (base64.b64decode(profile[name]) for name in names)
        self.secrets = check.Secrets(profile["period"], secret, clockless)
        blob = base64.b64decode(profile["key"].split()[1])
        covered = bytes.fromhex(profile["client"]) + hashlib.sha256(blob).digest() + self.gateway + self.realm
        covered += self.public + mask + check.number(profile["period"]) + secret
        label = b"toctoc v1 check of a profile"
        assert profile["check"] == check.derive(clockless, label, covered, 16)[:4].hex(), "a changed profile"
        self.first_day = profile["period"] * 32
        self.knock_mask = check.derive(mask, b"toctoc v1 mask of knocks")
        self.receipt_mask = check.derive(mask, b"toctoc v1 mask of receipts")
        self.address, self.port = profile["addresses"][0], profile["port"]
        self.seed, _ = private_key(key)
        self.ahead, self.patience = ahead, patience

    def now(self):
        return min(max(time.time_ns() + self.ahead * SECOND, 0), 2**64 - 1)

    def own_day(self):
        """The day by this client's clock, or None if that clock is wrong for sure."""
        now = self.now()
        return None if now < EARLIEST or now // DAY < self.first_day else now // DAY

    def request(self, kind, service, address, challenge):
        """The first 88 bytes of a body."""
        now = self.now() >> 20 << 20 | int.from_bytes(os.urandom(3), "big") >> 4
        head = struct.pack(">BBBBHHQ", 1, KINDS[kind], 1, 0, 0, 0, now)
        if kind == "time":
            return head + bytes(16 + 16) + struct.pack(">I", self.first_day) + bytes(4 + 32)
        return head + challenge + address + bytes(8) + service.encode().ljust(32, b"\0")

    def seal(self, kind, request, day):
        """Returns the datagram, and what its receipt must fit."""
        wire, gate = self.secrets.wire(day), self.secrets.gate(day)
        ephemeral = os.urandom(32)
        e = check.public(ephemeral)
        noise = check.Noise(b"toctoc knock v1\0" + self.realm + self.gateway, self.public)
        noise.mix_psk(check.psk(wire))
        noise.mix_e(e)
        noise.mix_key(check.x25519(ephemeral, self.public))
        h = noise.h
        blob = check.sshsig_blob(check.signed_message(self.gateway, h, request))
        body = request + check.ed25519(self.seed, blob)[1] + bytes(1 + 4 + 19)
        sealed = noise.seal(body + check.gate_mac(gate, self.gateway, h, body))
        datagram = check.masked(self.knock_mask, sealed, e + check.tag(wire)) + sealed
        return datagram + check.client_mac(wire, datagram), Sent(kind, noise, ephemeral, gate, h)

    def receipt(self, datagram, sent):
        """Returns the receipt, or None if the datagram is not one of the gatekeeper's for this knock."""
        if len(datagram) != 184:
            return None
        noise, sealed = copy.copy(sent.noise), datagram[32:]
        e = check.masked(self.receipt_mask, sealed, datagram[:32])
        noise.mix_e(e)
        noise.mix_key(check.x25519(sent.ephemeral, e))
        plain = check.aead_open(noise.k, noise.h, sealed)
        if plain is None:
            return None
        mac = check.receipt_mac(sent.gate, self.gateway, sent.h, plain[:120])
        return read_receipt(plain, sent.kind) if hmac.compare_digest(mac, plain[120:]) else None

    def exchange(self, kind, service, address, challenge):
        """Knocks, and yields the receipt of each knock, or None."""
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.connect((self.address, self.port))
            sent = []

            def knock(kind, day, challenge, patience=PATIENCE):
                datagram, state = self.seal(kind, self.request(kind, service, address, challenge), day)
                sent.append(state)
                sender.send(datagram)
                return self.wait(sender, sent, patience)

            receipt, day = None, self.own_day()
            if kind != "time" and day is not None:
                receipt = knock(kind, day, challenge, self.patience)
                yield receipt
            if receipt is None:
                receipt = knock("time", None, bytes(16))
                yield receipt
            if kind == "time" or receipt is None or receipt["status"] not in ("clock", "challenge"):
                return
            challenge = bytes.fromhex(receipt["challenge"])
            if challenge != bytes(16):
                yield knock(kind, max(receipt["working_day"], self.first_day), challenge)

    def wait(self, sender, sent, patience):
        """Waits for a receipt of any knock; whatever is none is ignored."""
        end = time.monotonic() + patience
        while (left := end - time.monotonic()) > 0:
            sender.settimeout(left)
            try:
                datagram = sender.recv(2048)
            except (TimeoutError, ConnectionRefusedError):
                continue
            for state in reversed(sent):
                if receipt := self.receipt(datagram, state):
                    sent.remove(state)
                    return receipt
        return None


def option(words, name, default):
    if name not in words:
        return default
    at = words.index(name)
    value = words[at + 1]
    del words[at : at + 2]
    return value


def main(words):
    challenge = bytes.fromhex(option(words, "--challenge", "00" * 16))
    ahead, patience = int(option(words, "--clock", 0)), float(option(words, "--patience", PATIENCE))
    profile, key, kind, service, address = (words + ["", ""])[:5]
    client = Client(profile, key, ahead, patience)
    address = address_bytes(address) if address else bytes(16)
    for receipt in client.exchange(kind, service, address, challenge):
        print(json.dumps(receipt))


main(sys.argv[1:])
