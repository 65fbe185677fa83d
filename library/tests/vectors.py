#!/usr/bin/env python3
"""The C interface by ctypes against tests/vectors and keys, with the keys and signatures of tests/vectors/check.py.

usage: vectors.py LIBRARY PROFILE FIDO_PROFILE
"""

import json
import pathlib
import sys

from app import CONTINUES, IGNORED, OVER, REFUSED, SIGNATURE, WHOLE, Facts, Key, Library, Refused, Request
from app import address_bytes, check, ctypes, sized

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


key = Key(vector("keys/golden.json")["client_ed25519_seed"])
library, profile_text = Library(sys.argv[1]), pathlib.Path(sys.argv[2]).read_bytes()
profile = library.read(library.profile_read, profile_text)
assert library.text_of(profile, WHOLE) == profile_text


def step(knock, vector, progress):
    """Makes the vector's datagram, and reads its receipt."""

    def sign(message):
        assert message == vector["sshsig_blob"]
        return key.sign(message)

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
joining.key = key.line()
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



def refused(knock, sign):
    """True if nothing is made with what this callback answers."""
    try:
        library.next(knock, now(first), entropy(first), sign)
    except Refused as refused:
        return refused.code == SIGNATURE


knock = library.knock(profile, request(1))
assert refused(knock, lambda message: None)
assert refused(knock, lambda message: (bytes(64), 0, 0))

# A FIDO key: the callback is an authenticator. Whoever changes its flags or counter, or signs as another type of key
# does, has signed nothing.
vectored = vector("tests/vectors/fido.json")
fido = Key(key.seed, vectored["application"])
made, *rest = fido.sign(check.sshsig_blob(vectored["message"]), vectored["flags"], vectored["counter"])
assert made == vectored["signature"]
fido_profile = library.read(library.profile_read, pathlib.Path(sys.argv[3]).read_bytes())
facts = sized(Facts)
library.must(library.facts(fido_profile, ctypes.byref(facts)))
assert facts.fido == 1
knock = library.knock(fido_profile, request(1))


def change(flags=None, counter=None):
    def sign(message):
        signature, old_flags, old_counter = fido.sign(message)
        return signature, flags or old_flags, counter or old_counter

    return sign


assert refused(knock, change(flags=5)) and refused(knock, change(flags=256 + 1)) and refused(knock, change(counter=7))
assert refused(knock, key.sign) and refused(knock, Key(key.seed, b"ssh:other").sign)
assert refused(library.knock(profile, request(1)), fido.sign)
datagram, _ = library.next(knock, now(first), entropy(first), fido.sign)
assert len(datagram) == 272
try:
    library.read(library.profile_read, profile_text[:-9] + b"0" + profile_text[-8:])
    sys.exit("a profile with a wrong check value was read")
except Refused as refused:
    assert refused.code == REFUSED and "check value" in str(refused), refused
print("the library agrees with the vectors")
