#!/usr/bin/env python3
"""Computes the vectors beside it again from docs/protocol.md, with nothing but Python's standard library.

Shares no code with the Rust implementation: X25519, ChaCha20, Poly1305 and Ed25519 are written out below in the
plainest form. Slow and not constant-time; for checking vectors only. Run it from anywhere: tests/vectors/check.py
"""

import base64
import hashlib
import hmac
import json
import pathlib
import re
import struct

HERE = pathlib.Path(__file__).resolve().parent
P = 2**255 - 19
# 2026-03-01, the day of refused.json.
TODAY = 20513


def x25519(scalar, u):
    k = int.from_bytes(scalar, "little") & ~7 & (2**254 - 1) | 2**254
    x1 = int.from_bytes(u, "little") & (2**255 - 1)
    x2, z2, x3, z3, swap = 1, 0, x1, 1, 0
    for t in reversed(range(255)):
        bit = k >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb, aa, bb = d * a, c * b, a * a, b * b
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % P, x1 * (da - cb) ** 2 % P
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


def public(scalar):
    return x25519(scalar, (9).to_bytes(32, "little"))


def chacha20_block(key, counter, nonce):
    def quarter(a, b, c, d):
        for x, y, z, n in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[x] = s[x] + s[y] & 0xFFFFFFFF
            v = s[z] ^ s[x]
            s[z] = (v << n | v >> 32 - n) & 0xFFFFFFFF

    start = list(struct.unpack("<16I", b"expand 32-byte k" + key + struct.pack("<I", counter) + nonce))
    s = start[:]
    for _ in range(10):
        for i in range(4):
            quarter(i, 4 + i, 8 + i, 12 + i)
        for i in range(4):
            quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in zip(s, start)))


def xor(a, b):
    return bytes(x ^ y for x, y in zip(a, b))


def aead_seal(key, ad, plain):
    nonce = bytes(12)
    sealed = b"".join(
        xor(plain[i : i + 64], chacha20_block(key, 1 + i // 64, nonce)) for i in range(0, len(plain), 64)
    )
    one_time = chacha20_block(key, 0, nonce)
    r = int.from_bytes(one_time[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    s = int.from_bytes(one_time[16:32], "little")
    pad = lambda b: b + bytes(-len(b) % 16)
    text = pad(ad) + pad(sealed) + struct.pack("<QQ", len(ad), len(sealed))
    total = 0
    for i in range(0, len(text), 16):
        total = (total + int.from_bytes(text[i : i + 16] + b"\1", "little")) * r % (2**130 - 5)
    return sealed + ((total + s) % 2**128).to_bytes(16, "little")


def aead_open(key, ad, sealed):
    # The cipher is a stream: sealing the ciphertext again gives the plain text, and sealing that must give the
    # whole ciphertext with its tag.
    plain = aead_seal(key, ad, sealed[:-16])[:-16]
    return plain if hmac.compare_digest(aead_seal(key, ad, plain), sealed) else None


D = -121665 * pow(121666, P - 2, P) % P
ORDER = 2**252 + 27742317777372353535851937790883648493


def add(a, b):
    (x1, y1), (x2, y2) = a, b
    t = D * x1 * x2 * y1 * y2
    return (
        (x1 * y2 + x2 * y1) * pow(1 + t, -1, P) % P,
        (y1 * y2 + x1 * x2) * pow(1 - t, -1, P) % P,
    )


def times(n, point):
    sum = (0, 1)
    while n:
        if n & 1:
            sum = add(sum, point)
        point, n = add(point, point), n >> 1
    return sum


def encode(point):
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def decode(data):
    """The point of an encoding, or None if it is not canonical or no point."""
    y = int.from_bytes(data, "little") & (2**255 - 1)
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if x * x % P != x2:
        x = x * pow(2, (P - 1) // 4, P) % P
    x = P - x if x & 1 != data[31] >> 7 else x
    point = (x % P, y)
    return point if x * x % P == x2 and encode(point) == data else None


BASE = decode((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))


def ed25519(seed, text):
    h = hashlib.sha512(seed).digest()
    a = int.from_bytes(h[:32], "little") & ~7 & (2**254 - 1) | 2**254
    key = encode(times(a, BASE))
    r = int.from_bytes(hashlib.sha512(h[32:] + text).digest(), "little") % ORDER
    R = encode(times(r, BASE))
    k = int.from_bytes(hashlib.sha512(R + key + text).digest(), "little") % ORDER
    return key, R + ((r + k * a) % ORDER).to_bytes(32, "little")


def ed25519_verifies(key, text, signature):
    """Strictly: `s` is canonical, no point has small order, and the cofactor does not count."""
    R, s = signature[:32], int.from_bytes(signature[32:], "little")
    points = decode(key), decode(R)
    if s >= ORDER or None in points or (0, 1) in [times(8, point) for point in points]:
        return False
    k = int.from_bytes(hashlib.sha512(R + key + text).digest(), "little") % ORDER
    return times(s, BASE) == add(points[1], times(k, points[0]))


def blake2s(data):
    return hashlib.blake2s(data).digest()


def keyed(key, data, size=32):
    return hashlib.blake2s(data, digest_size=size, key=key).digest()


class Noise:
    """SymmetricState of Noise revision 34, as far as NKpsk0 needs it."""

    def __init__(self, prologue, responder):
        self.ck = self.h = blake2s(b"Noise_NKpsk0_25519_ChaChaPoly_BLAKE2s")
        self.mix_hash(prologue)
        self.mix_hash(responder)

    def hkdf(self, material):
        mac = lambda key, data: hmac.new(key, data, hashlib.blake2s).digest()
        temp = mac(self.ck, material)
        one = mac(temp, b"\1")
        two = mac(temp, one + b"\2")
        return one, two, mac(temp, two + b"\3")

    def mix_hash(self, data):
        self.h = blake2s(self.h + data)

    def mix_key(self, material):
        self.ck, self.k, _ = self.hkdf(material)

    def mix_psk(self, psk):
        self.ck, temp, self.k = self.hkdf(psk)
        self.mix_hash(temp)

    def mix_e(self, e):
        self.mix_hash(e)
        self.mix_key(e)

    def seal(self, payload):
        sealed = aead_seal(self.k, self.h, payload)
        self.mix_hash(sealed)
        return sealed


def masked(key, sealed, hidden):
    return xor(hidden, chacha20_block(key, int.from_bytes(sealed[:4], "little"), sealed[4:16]))


def string(data):
    return struct.pack(">I", len(data)) + data


def derive(key, label, data=b"", size=32):
    return keyed(key, label + b"\0" + data, size)


def number(value):
    return struct.pack(">I", value)


class Secrets:
    """The secrets of one client from some period on: what a profile holds."""

    def __init__(self, period, secret, clockless):
        self.period, self.secret, self.clockless = period, secret, clockless

    def of_period(self, period):
        if period < self.period:
            raise ValueError("nobody can compute an earlier period")
        secret = self.secret
        for step in range(self.period + 1, period + 1):
            secret = derive(secret, b"toctoc v1 next period", number(step))
        return secret

    def wire(self, day):
        """W of a day; of None: without a clock."""
        if day is None:
            return derive(self.clockless, b"toctoc v1 wire secret without a clock")
        return derive(self.of_period(day >> 5), b"toctoc v1 wire secret of a day", number(day))

    def gate(self, day):
        """G of a day; of None: without a clock."""
        if day is None:
            return derive(self.clockless, b"toctoc v1 gate key without a clock")
        return derive(self.of_period(day >> 5), b"toctoc v1 gate key of a day", number(day))


def psk(wire):
    return derive(wire, b"toctoc v1 client psk")


def mac_key(wire):
    return derive(wire, b"toctoc v1 client mac key")


def tag(wire):
    return derive(wire, b"toctoc v1 tag", size=16)


def signed_message(gateway_id, h, request):
    return b"toctoc knock v1\0" + gateway_id + h + request


def sshsig_blob(message):
    fields = (b"knock@toctoc.v1", b"", b"sha512", hashlib.sha512(message).digest())
    return b"SSHSIG" + b"".join(map(string, fields))


def gate_mac(gate, gateway_id, h, body):
    assert len(body) == 176
    return derive(gate, b"toctoc v1 gate mac", gateway_id + h + body, 16)


def receipt_mac(gate, gateway_id, h, receipt):
    assert len(receipt) == 120
    return derive(gate, b"toctoc v1 receipt mac", gateway_id + h + receipt, 16)


def client_mac(wire, before):
    assert len(before) == 256
    return derive(mac_key(wire), b"toctoc v1 mac of a knock", before, 16)


def client_secrets(keys):
    root = derive(keys["master_secret"], b"toctoc v1 client secret", keys["client_id"])
    period = derive(root, b"toctoc v1 first period", number(keys["first_period"]))
    clockless = derive(root, b"toctoc v1 secret without a clock")
    assert (root, period, clockless) == (keys["client_root"], keys["period_secret"], keys["clockless_secret"])
    return Secrets(keys["first_period"], period, clockless)


def compute(keys, secrets, vector):
    """Everything of a knock and its receipt that is not an input of the vector."""
    out, gateway_id = {}, keys["gateway_id"]
    knock_mask = derive(keys["realm_mask_key"], b"toctoc v1 mask of knocks")
    receipt_mask = derive(keys["realm_mask_key"], b"toctoc v1 mask of receipts")
    gateway = public(keys["gateway_secret"])
    assert gateway == keys["gateway_public"]

    day = vector["day"]
    wire, gate = secrets.wire(day), secrets.gate(day)
    out["wire_secret"], out["gate_key"] = wire, gate
    out["psk"], out["mac_key"] = psk(wire), mac_key(wire)
    out["tag_without_a_clock"] = tag(secrets.wire(None))
    if day is not None:
        out["tag_of_yesterday"], out["tag_of_the_day"], out["tag_of_tomorrow"] = (
            tag(secrets.wire(day + shift)) for shift in (-1, 0, 1)
        )

    out["prologue"] = b"toctoc knock v1\0" + keys["realm_id"] + gateway_id
    noise = Noise(out["prologue"], gateway)
    e = public(vector["client_ephemeral_secret"])
    noise.mix_psk(psk(wire))
    noise.mix_e(e)
    noise.mix_key(x25519(vector["client_ephemeral_secret"], gateway))
    h = out["h"] = noise.h

    assert len(vector["request"]) == 88
    out["message"] = signed_message(gateway_id, h, vector["request"])
    assert len(out["message"]) == 152
    out["sshsig_blob"] = sshsig_blob(out["message"])
    key, out["signature"] = ed25519(keys["client_ed25519_seed"], out["sshsig_blob"])
    assert key == keys["client_ed25519_public"]
    body = vector["request"] + out["signature"] + bytes(1 + 4 + 19)
    out["gate_mac"] = gate_mac(gate, gateway_id, h, body)
    out["body"] = body + out["gate_mac"]

    sealed = noise.seal(out["body"])
    before_mac = masked(knock_mask, sealed, e + tag(wire)) + sealed
    out["client_mac"] = client_mac(wire, before_mac)
    out["datagram"] = before_mac + out["client_mac"]
    assert len(out["datagram"]) == 272

    e2 = public(vector["gateway_ephemeral_secret"])
    noise.mix_e(e2)
    noise.mix_key(x25519(vector["gateway_ephemeral_secret"], e))
    out["receipt_mac"] = receipt_mac(gate, gateway_id, h, vector["receipt"])
    sealed = noise.seal(vector["receipt"] + out["receipt_mac"])
    out["receipt_datagram"] = masked(receipt_mask, sealed, e2) + sealed
    assert len(out["receipt_datagram"]) == 184
    return out


def invitation_secrets(keys, vector):
    root = derive(keys["master_secret"], b"toctoc v1 client secret", vector["invitation_id"])
    period = derive(root, b"toctoc v1 first period", number(keys["first_period"]))
    return root, Secrets(keys["first_period"], period, derive(root, b"toctoc v1 secret without a clock"))


def text(value):
    return bytes([len(value)]) + value.encode()


def line(keys, root, vector):
    """The line of an invitation."""
    content = b"\1\0" + struct.pack(">Q", vector["line_until"])
    content += keys["realm_id"] + keys["gateway_id"] + keys["realm_mask_key"] + keys["gateway_public"]
    content += vector["invitation_id"] + root + number(keys["first_period"]) + struct.pack(">H", vector["line_port"])
    for texts in (vector["line_addresses"], vector["line_services"]):
        content += bytes([len(texts)]) + b"".join(map(text, texts))
    content += b"".join(map(text, vector["line_names"]))
    content += blake2s(b"toctoc v1 check of a line\0" + content)[:4]
    return "toctoc:" + base64.b32encode(content).decode().rstrip("=")


def compute_joining(keys, vector):
    """The same for a knock by which somebody joins."""
    root, secrets = invitation_secrets(keys, vector)
    out = compute(keys, secrets, vector)
    key = vector["request"][56:88]
    assert key == keys["client_ed25519_public"] and vector["request"][32:48] == vector["invitation_id"]
    out["invitation_root"], out["line"] = root, line(keys, root, vector)
    out["new_id"] = derive(
        keys["master_secret"], b"toctoc v1 id of who joined", vector["invitation_id"] + key, 16
    )
    out["new_root"] = derive(keys["master_secret"], b"toctoc v1 client secret", out["new_id"])
    welcome_key = derive(secrets.gate(None), b"toctoc v1 welcome", keys["gateway_id"] + out["new_id"] + key)
    out["welcome"] = aead_seal(welcome_key, b"", out["new_root"])
    rest = struct.pack(">Q", vector["expires"]) + bytes(8)
    assert vector["receipt"][40:] == out["new_id"] + out["welcome"] + rest
    return out


def compute_fido(keys, vector):
    """What an authenticator with the client's private key makes of the message."""
    hashes = [hashlib.sha256(x).digest() for x in (vector["application"], sshsig_blob(vector["message"]))]
    signs = hashes[0] + bytes([vector["flags"]]) + number(vector["counter"]) + hashes[1]
    key, signature = ed25519(keys["client_ed25519_seed"], signs)
    fields = (b"sk-ssh-ed25519@openssh.com", key, vector["application"])
    blob = b"".join(map(string, fields))
    fingerprint = hashlib.sha256(blob).digest()
    return {"authenticator_signs": signs, "signature": signature, "key_blob": blob, "fingerprint": fingerprint}


SERVICE = re.compile(rb"[a-z0-9._-]{1,31}\0+")


def is_body(body, day):
    """True if a body can be parsed and its kind may be sent under the keys of this day."""
    version, kind, flags, reserved, port, zero = struct.unpack(">BBBBHH", body[:8])
    if version != 1 or flags > 1 or reserved or zero or any(body[52:56]) or any(body[157:176]):
        return False
    challenge, address, number, service = body[16:32], body[32:48], body[48:52], body[56:88]
    if kind in (1, 2):
        return day is not None and SERVICE.fullmatch(service) is not None
    if kind == 3:
        return day is not None and not any(service)
    if kind == 6:
        bare = flags == 1 and not port and not any(challenge + address + service)
        return day is None and bare and int.from_bytes(number, "big") % 32 == 0
    return False


def is_enrolment(body):
    """True if a body asks to join: the only thing that an invitation is for."""
    version, kind, flags, scheme = body[:4]
    zero = body[4:8] + body[48:56] + body[157:176]
    return version == 1 and kind == 4 and flags <= 1 and scheme in (1, 2) and not any(zero)


def refusal(keys, datagram, today):
    """The reason why a gateway refuses a knock that needs no clock, state or policy; None if it does not."""
    if len(datagram) != 272:
        return "length"
    secrets, gateway_id, sealed = client_secrets(keys), keys["gateway_id"], datagram[48:256]
    head = masked(derive(keys["realm_mask_key"], b"toctoc v1 mask of knocks"), sealed, datagram[:48])
    e, days = head[:32], {tag(secrets.wire(day)): day for day in (today - 1, today, today + 1, None)}
    if head[32:] not in days:
        return "unknown-tag"
    day = days[head[32:]]
    wire, gate = secrets.wire(day), secrets.gate(day)
    if not hmac.compare_digest(client_mac(wire, datagram[:256]), datagram[256:]):
        return "client-mac"
    for secret in (keys["gateway_secret"], keys["gateway_other_secret"]):
        noise = Noise(b"toctoc knock v1\0" + keys["realm_id"] + gateway_id, public(secret))
        noise.mix_psk(psk(wire))
        noise.mix_e(e)
        shared = x25519(secret, e)
        noise.mix_key(shared)
        body = aead_open(noise.k, noise.h, sealed)
        if any(shared) and body is not None:
            break
    else:
        return "noise"
    if not is_body(body, day):
        return "syntax"
    if not hmac.compare_digest(gate_mac(gate, gateway_id, noise.h, body[:176]), body[176:]):
        return "gate"
    blob = sshsig_blob(signed_message(gateway_id, noise.h, body[:88]))
    good = ed25519_verifies(keys["client_ed25519_public"], blob, body[88:152]) and not any(body[152:157])
    return None if good else "signature"


def load(path):
    content = json.loads(path.read_text())
    plain = ("about", "line")
    return {k: bytes.fromhex(v) if isinstance(v, str) and k not in plain else v for k, v in content.items()}


def main():
    keys = load(HERE.parent.parent / "keys" / "golden.json")
    inputs = {"about", "day", "client_ephemeral_secret", "gateway_ephemeral_secret", "request", "receipt"}
    agreed, wrong = 0, []
    _, invited = invitation_secrets(keys, load(HERE / "join.json"))
    for name in ("knock.json", "time.json", "challenge.json", "challenge_join.json"):
        vector = load(HERE / name)
        joins = name == "challenge_join.json"
        computed = compute(keys, invited if joins else client_secrets(keys), vector)
        assert set(vector) == inputs | set(computed), set(vector) ^ (inputs | set(computed))
        wrong += [f"{name}: {field}" for field, value in computed.items() if vector[field] != value]
        agreed += len(computed)
        reason = None if joins else refusal(keys, vector["datagram"], TODAY)
        if reason or joins and not is_enrolment(vector["body"]):
            wrong.append(f"{name}: refused, {reason}")
    vector = load(HERE / "join.json")
    computed = compute_joining(keys, vector)
    given = {"invitation_id", "expires", "line_until", "line_port", "line_addresses", "line_services", "line_names"}
    assert set(vector) == inputs | given | set(computed), set(vector) ^ (inputs | given | set(computed))
    wrong += [f"join.json: {field}" for field, value in computed.items() if vector[field] != value]
    agreed += len(computed)
    if not is_enrolment(vector["body"]) or is_body(vector["body"], None):
        wrong.append("join.json: its body")
    vector = load(HERE / "fido.json")
    computed = compute_fido(keys, vector)
    assert set(vector) == {"about", "application", "flags", "counter", "message"} | set(computed)
    wrong += [f"fido.json: {field}" for field, value in computed.items() if vector[field] != value]
    agreed += len(computed)
    cases = json.loads((HERE / "refused.json").read_text())["cases"]
    for case in cases:
        reason = refusal(keys, bytes.fromhex(case["datagram"]), TODAY)
        if reason != case["reject"]:
            wrong.append(f"refused.json: {case['defect']}: {reason}")
    if wrong:
        raise SystemExit("not what docs/protocol.md gives: " + ", ".join(wrong))
    print(f"{agreed} values agree, {len(cases)} datagrams are refused for their reason")


if __name__ == "__main__":
    main()
