#!/usr/bin/env python3
"""Knocks at a gateway as docs/protocol.md says, with nothing but Python's standard library.

Shares no code with the Rust implementation; the primitives are those of vectors/check.py, slow and not constant-time. Each
line of output is one receipt as JSON, or null for silence.

usage: python_client.py PROFILE KEY KIND [SERVICE] [ADDRESS] [--challenge HEX]
       KEY: an OpenSSH private key without passphrase. KIND: open, close or probe.
"""

import base64
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

KINDS = {"open": 1, "close": 2, "probe": 3}
STATUS = "granted closed observed address clock denied full challenge trouble".split()
MAY_ANSWER = {
    "open": {"granted", "address", "clock", "denied", "full", "challenge", "trouble"},
    "close": {"closed", "clock", "denied", "challenge", "trouble"},
    "probe": {"observed", "clock", "challenge"},
}
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
    """Returns the opened ports as text: `22/tcp`, `60000-61000/udp`, `all`, `more`."""
    texts = []
    for protocol, meaning, number in entries:
        name = {6: "tcp", 17: "udp"}.get(protocol)
        if meaning == 0 and number:
            texts.append(f"{number}/{name}")
        elif meaning == 1:
            texts.append(f"{number}-")
        elif meaning == 2:
            texts[-1] += f"{number}/{name}"
        elif meaning in (3, 4):
            texts.append("all" if meaning == 3 else "more")
    return texts


class Client:
    def __init__(self, profile, key):
        profile = tomllib.loads(pathlib.Path(profile).read_text())
        assert profile["version"] == 1
        self.realm, self.gateway = (bytes.fromhex(profile[name]) for name in ("realm", "gateway"))
        names = ("gateway_key", "mask", "psk", "tag", "mac")
        self.public, mask, self.psk, self.tag, self.mac = (base64.b64decode(profile[name]) for name in names)
        self.knock_mask = check.keyed(mask, b"toctoc v1 mask of knocks\0")
        self.receipt_mask = check.keyed(mask, b"toctoc v1 mask of receipts\0")
        self.address, self.port = profile["addresses"][0], profile["port"]
        self.seed, self.blob = private_key(key)

    def request(self, kind, service, address, challenge):
        """The first 120 bytes of a body."""
        now = time.time_ns() >> 20 << 20 | int.from_bytes(os.urandom(3), "big") >> 4
        head = struct.pack(">BBBBHHQ", 1, KINDS[kind], 1, 0, 0, 0, now)
        fingerprint = check.hashlib.sha256(self.blob).digest()
        service = service.encode().ljust(32, b"\0")
        return head + challenge + address + bytes(8) + service + fingerprint

    def seal(self, request):
        """Returns the datagram, and what opens its receipt."""
        ephemeral = os.urandom(32)
        e = check.public(ephemeral)
        noise = check.Noise(b"toctoc knock v1\0" + self.realm + self.gateway, self.public)
        noise.mix_psk(self.psk)
        noise.mix_e(e)
        noise.mix_key(check.x25519(ephemeral, self.public))
        message = b"toctoc knock v1\0" + self.gateway + noise.h + request
        fields = (b"knock@toctoc.v1", b"", b"sha512", check.hashlib.sha512(message).digest())
        _, signature = check.ed25519(self.seed, b"SSHSIG" + b"".join(map(check.string, fields)))
        sealed = noise.seal(request + signature + bytes(8))
        day = struct.pack(">Q", int(time.time()) // 86400)
        tag = check.keyed(self.tag, b"toctoc v1 tag of day\0" + day, 16)
        datagram = check.masked(self.knock_mask, sealed, e + tag) + sealed
        datagram += check.keyed(self.mac, b"toctoc v1 mac of a knock\0" + datagram, 16)
        return datagram, (noise, ephemeral)

    def receipt(self, datagram, state):
        """Returns the 120 bytes of a receipt, or None if the datagram is not one for this knock."""
        noise, ephemeral = state
        if len(datagram) != 168:
            return None
        sealed = datagram[32:]
        e = check.masked(self.receipt_mask, sealed, datagram[:32])
        noise.mix_e(e)
        noise.mix_key(check.x25519(ephemeral, e))
        # The cipher is a stream: sealing the ciphertext again gives the plain text, and sealing that must
        # give the whole ciphertext with its tag.
        plain = check.aead_seal(noise.k, noise.h, sealed[:120])[:120]
        return plain if check.aead_seal(noise.k, noise.h, plain) == sealed else None

    def knock(self, kind, service, address, challenge):
        """Sends one knock and returns its receipt, or None."""
        datagram, state = self.seal(self.request(kind, service, address, challenge))
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.connect((self.address, self.port))
            sender.settimeout(PATIENCE)
            sender.send(datagram)
            try:
                # Only the gateway's own answer can come here: the socket is connected.
                plain = self.receipt(sender.recv(2048), state)
            except TimeoutError:
                return None
        if plain is None:
            return None
        version, status, once, prefix, seconds = struct.unpack(">BBBBI", plain[:8])
        assert version == 1 and once < 2 and (prefix > 0) == (seconds > 0)
        entries = [struct.unpack(">BBH", plain[at : at + 4]) for at in range(56, 72, 4)]
        receipt = {
            "status": STATUS[status - 1],
            "seconds": seconds,
            "observed": address_text(plain[24:40]),
            "granted": address_text(plain[40:56]),
            "prefix": prefix,
            "ports": ports_text(entries),
            "challenge": plain[72:88].hex(),
        }
        has_grant = seconds > 0 and receipt["granted"] is not None
        has_none = seconds == 0 and receipt["granted"] is None
        fits = has_grant if receipt["status"] == "granted" else has_none
        return receipt if fits and receipt["status"] in MAY_ANSWER[kind] else None


def main(words):
    challenge = bytes(16)
    if "--challenge" in words:
        at = words.index("--challenge")
        challenge = bytes.fromhex(words[at + 1])
        del words[at : at + 2]
    profile, key, kind, service, address = (words + ["", ""])[:5]
    client = Client(profile, key)
    address = address_bytes(address) if address else bytes(16)
    receipt = client.knock(kind, service, address, challenge)
    print(json.dumps(receipt))
    if receipt and receipt["status"] in ("clock", "challenge") and receipt["challenge"].strip("0"):
        print(json.dumps(client.knock(kind, service, address, bytes.fromhex(receipt["challenge"]))))


main(sys.argv[1:])
