#!/usr/bin/env python3
"""Computes tests/vectors/knock.json again from docs/protocol.md, with nothing but Python's standard library.

Shares no code with the Rust implementation: X25519, ChaCha20, Poly1305 and Ed25519 are written out below in the plainest
form. Slow and not constant-time; for checking vectors only. Run it from anywhere: tests/vectors/check.py
"""

import hashlib
import hmac
import json
import pathlib
import struct

HERE = pathlib.Path(__file__).resolve().parent
P = 2**255 - 19


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


def ed25519(seed, text):
    d = -121665 * pow(121666, P - 2, P) % P
    order = 2**252 + 27742317777372353535851937790883648493

    def add(a, b):
        (x1, y1), (x2, y2) = a, b
        t = d * x1 * x2 * y1 * y2
        return (
            (x1 * y2 + x2 * y1) * pow(1 + t, P - 2, P) % P,
            (y1 * y2 + x1 * x2) * pow(1 - t, P - 2, P) % P,
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

    y = 4 * pow(5, P - 2, P) % P
    x2 = (y * y - 1) * pow(d * y * y + 1, P - 2, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if x * x % P != x2:
        x = x * pow(2, (P - 1) // 4, P) % P
    base = (P - x if x & 1 else x, y)
    h = hashlib.sha512(seed).digest()
    a = int.from_bytes(h[:32], "little") & ~7 & (2**254 - 1) | 2**254
    key = encode(times(a, base))
    r = int.from_bytes(hashlib.sha512(h[32:] + text).digest(), "little") % order
    R = encode(times(r, base))
    k = int.from_bytes(hashlib.sha512(R + key + text).digest(), "little") % order
    return key, R + ((r + k * a) % order).to_bytes(32, "little")


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


def compute(keys, vector):
    """Everything that is not an input of the vector."""
    out = {}
    derive = lambda key, label, data: keyed(key, label + b"\0" + data)
    psk = derive(keys["master_secret"], b"toctoc v1 client psk", keys["client_id"])
    tag_key = derive(keys["master_secret"], b"toctoc v1 client tag key", keys["client_id"])
    mac_key = derive(keys["master_secret"], b"toctoc v1 client mac key", keys["client_id"])
    assert (psk, tag_key, mac_key) == (keys["client_psk"], keys["client_tag_key"], keys["client_mac_key"])
    knock_mask = derive(keys["realm_mask_key"], b"toctoc v1 mask of knocks", b"")
    receipt_mask = derive(keys["realm_mask_key"], b"toctoc v1 mask of receipts", b"")
    gateway = public(keys["gateway_secret"])
    assert gateway == keys["gateway_public"]

    tag = lambda day: keyed(tag_key, b"toctoc v1 tag of day\0" + struct.pack(">Q", day), 16)
    out["tag_of_yesterday"], out["tag_of_the_day"], out["tag_of_tomorrow"] = (
        tag(vector["day"] + shift) for shift in (-1, 0, 1)
    )
    out["tag_without_a_clock"] = keyed(tag_key, b"toctoc v1 tag without a clock\0", 16)

    out["prologue"] = b"toctoc knock v1\0" + keys["realm_id"] + keys["gateway_id"]
    noise = Noise(out["prologue"], gateway)
    e = public(vector["client_ephemeral_secret"])
    noise.mix_psk(psk)
    noise.mix_e(e)
    noise.mix_key(x25519(vector["client_ephemeral_secret"], gateway))
    out["h"] = noise.h

    out["message"] = b"toctoc knock v1\0" + keys["gateway_id"] + noise.h + vector["request"]
    fields = (b"knock@toctoc.v1", b"", b"sha512", hashlib.sha512(out["message"]).digest())
    out["sshsig_blob"] = b"SSHSIG" + b"".join(map(string, fields))
    key, out["signature"] = ed25519(keys["client_ed25519_seed"], out["sshsig_blob"])
    assert key == keys["client_ed25519_public"]
    assert hashlib.sha256(string(b"ssh-ed25519") + string(key)).digest() == keys["client_fingerprint"]
    out["body"] = vector["request"] + out["signature"] + bytes(8)

    sealed = noise.seal(out["body"])
    before_mac = masked(knock_mask, sealed, e + out["tag_of_the_day"]) + sealed
    out["client_mac"] = keyed(mac_key, b"toctoc v1 mac of a knock\0" + before_mac, 16)
    out["datagram"] = before_mac + out["client_mac"]
    assert len(out["datagram"]) == 272

    e2 = public(vector["gateway_ephemeral_secret"])
    noise.mix_e(e2)
    noise.mix_key(x25519(vector["gateway_ephemeral_secret"], e))
    sealed = noise.seal(vector["receipt"])
    out["receipt_datagram"] = masked(receipt_mask, sealed, e2) + sealed
    assert len(out["receipt_datagram"]) == 168
    return out


def load(path):
    text = json.loads(path.read_text())
    return {k: bytes.fromhex(v) if isinstance(v, str) and k != "about" else v for k, v in text.items()}


def main():
    vector = load(HERE / "knock.json")
    computed = compute(load(HERE.parent.parent / "keys" / "golden.json"), vector)
    inputs = {"about", "day", "client_ephemeral_secret", "gateway_ephemeral_secret", "request", "receipt"}
    assert set(vector) == inputs | set(computed), set(vector) ^ (inputs | set(computed))
    wrong = [name for name, value in computed.items() if vector[name] != value]
    if wrong:
        raise SystemExit("not what docs/protocol.md gives: " + ", ".join(wrong))
    print(f"{len(computed)} values agree")


if __name__ == "__main__":
    main()
