#!/usr/bin/env python3
"""The C interface by ctypes against tests/vectors and keys, with the keys and signatures of tests/vectors/check.py.

usage: vectors.py LIBRARY PROFILE
"""

import json
import pathlib
import sys

from app import CONTINUES, IGNORED, OVER, REFUSED, SIGNATURE, WHOLE, Library, Refused, Request
from app import address_bytes, check, key_line, sized

ROOT = pathlib.Path(__file__).resolve().parents[2]


def vector(name):
    values = json.loads((ROOT / name).read_text())
    binary = lambda value: bytes.fromhex(value)
    return {name: binary(value) if is_hex(value) else value for name, value in values.items()}


def is_hex(value):
    return isinstance(value, str) and len(value) % 2 == 0 and not set(value) - set("0123456789abcdef")


def entropy(vector):
    """What makes the ephemeral key and timestamp of the vector."""
    return vector["client_ephemeral_secret"] + vector["request"][12:16] + bytes(4)


def now(vector):
    return int.from_bytes(vector["request"][8:16], "big")


seed = vector("keys/golden.json")["client_ed25519_seed"]
library, profile_text = Library(sys.argv[1]), pathlib.Path(sys.argv[2]).read_bytes()
profile = library.read(library.profile_read, profile_text)
assert library.text_of(profile, WHOLE) == profile_text


def step(knock, vector, progress):
    """Makes the vector's datagram, and reads its receipt."""

    def sign(message):
        assert message == vector["sshsig_blob"]
        return check.ed25519(seed, message)[1]

    datagram, patience = library.next(knock, now(vector), entropy(vector), sign)
    assert datagram == vector["datagram"] and 2 <= patience <= 3, (vector["about"], datagram.hex())
    sealed = vector["receipt_datagram"]
    for junk in (b"", sealed[:-1], sealed[:-1] + bytes([sealed[-1] ^ 1]), sealed + b"\0"):
        assert library.receive(knock, 1, junk) == IGNORED
    assert library.receive(knock, now(vector), sealed) == progress, vector["about"]


def request(kind):
    request = sized(Request, kind=kind, seconds=45, source_port=40000)
    request.local, request.gateway = address_bytes("192.0.2.7"), address_bytes("198.51.100.1")
    return request


first, second = vector("tests/vectors/challenge.json"), vector("tests/vectors/knock.json")
knock = library.knock(profile, request(1))
step(knock, first, CONTINUES)
step(knock, second, OVER)
receipt = library.receipt(knock)
assert (receipt["status"], receipt["granted"], receipt["prefix"]) == ("granted", "192.0.2.7", 24), receipt
assert receipt["ports"] == [(1, 6, 22, 22), (1, 17, 60000, 61000), (3, 0, 0, 0)], receipt

knock = library.knock(profile, request(1))
step(knock, vector("tests/vectors/time.json"), CONTINUES)

first, second = vector("tests/vectors/challenge_join.json"), vector("tests/vectors/join.json")
invitation = library.read(library.invitation_read, second["line"].encode())
joining = request(4)
joining.key = key_line(seed)
joining.key_length = len(joining.key)
knock = library.knock(invitation, joining)
step(knock, first, CONTINUES)
step(knock, second, OVER)
joined = library.text_of(library.profile(knock), WHOLE).decode()
# The secrets of the new profile, derived from the new root without the library.
root = second["new_root"]
period = vector("keys/golden.json")["first_period"]
for name, label, data in (
    ("secret", b"toctoc v1 first period", check.number(period)),
    ("clockless", b"toctoc v1 secret without a clock", b""),
):
    derived = check.base64.b64encode(check.derive(root, label, data)).decode()
    assert f'{name} = "{derived}"' in joined, joined
assert f'client = "{second["new_id"].hex()}"' in joined, joined

knock = library.knock(profile, request(1))
for sign, code in ((lambda message: None, SIGNATURE), (lambda message: bytes(64), SIGNATURE)):
    try:
        library.next(knock, now(first), entropy(first), sign)
        sys.exit("a packet without a signature")
    except Refused as refused:
        assert refused.code == code, refused
try:
    library.read(library.profile_read, profile_text[:-9] + b"0" + profile_text[-8:])
    sys.exit("a profile with a wrong check value was read")
except Refused as refused:
    assert refused.code == REFUSED and "check value" in str(refused), refused
print("the library agrees with the vectors")
