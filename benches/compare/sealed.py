"""Sealed knocks, made by the client library for apps and signed by OpenSSL's."""

import base64
import ctypes
import ctypes.util
import os
import pathlib
import struct
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "library" / "tests"))
import app
from net import GATEWAY

ED25519 = 1087  # NID_ED25519
KIND = b"ssh-ed25519"
POINTER, SIZE = ctypes.c_void_p, ctypes.c_size_t


class Key:
    """An Ed25519 key of OpenSSL's. Python's own arithmetic would take 50 ms for a signature."""

    crypto = ctypes.CDLL(ctypes.util.find_library("crypto"))
    for name in ("EVP_PKEY_new_raw_private_key", "EVP_MD_CTX_new"):
        getattr(crypto, name).restype = POINTER
    crypto.EVP_PKEY_new_raw_private_key.argtypes = ctypes.c_int, POINTER, ctypes.c_char_p, SIZE
    crypto.EVP_PKEY_get_raw_public_key.argtypes = POINTER, ctypes.c_char_p, ctypes.POINTER(SIZE)
    crypto.EVP_DigestSignInit.argtypes = (POINTER,) * 5
    crypto.EVP_DigestSign.argtypes = POINTER, ctypes.c_char_p, ctypes.POINTER(SIZE), ctypes.c_char_p, SIZE
    crypto.EVP_MD_CTX_free.argtypes = crypto.EVP_PKEY_free.argtypes = (POINTER,)

    def __init__(self):
        self.pair = self.crypto.EVP_PKEY_new_raw_private_key(ED25519, None, os.urandom(32), 32)

    def __del__(self):
        self.crypto.EVP_PKEY_free(self.pair)

    def line(self):
        """The public key as in a .pub file."""
        public = ctypes.create_string_buffer(32)
        assert self.crypto.EVP_PKEY_get_raw_public_key(self.pair, public, ctypes.byref(SIZE(32))) == 1
        blob = struct.pack(">I", len(KIND)) + KIND + struct.pack(">I", 32) + public.raw
        return f"{KIND.decode()} {base64.b64encode(blob).decode()}"

    def sign(self, message):
        context, signature = self.crypto.EVP_MD_CTX_new(), ctypes.create_string_buffer(64)
        assert self.crypto.EVP_DigestSignInit(context, None, None, None, self.pair) == 1
        size = SIZE(64)
        assert self.crypto.EVP_DigestSign(context, signature, ctypes.byref(size), message, len(message)) == 1
        self.crypto.EVP_MD_CTX_free(context)
        return signature.raw, 0, 0


class Client:
    """An enrolled client, which knocks for any source."""

    def __init__(self, library, key, profile):
        self.library, self.key = library, key
        self.profile = library.read(library.profile_read, profile.encode())

    def knock(self, source, stamp):
        """A datagram that opens ssh for `source`, made at `stamp` by its clock."""
        request = app.sized(app.Request, kind=app.KINDS["open"], service=b"ssh", service_length=3)
        request.local = request.source = app.address_bytes(source)
        request.gateway = app.address_bytes(GATEWAY)
        number = self.library.knock(self.profile, request)
        datagram, _ = self.library.next(number, stamp, os.urandom(40), self.key.sign)
        self.library.must(self.library.free(number))
        return datagram


class Clock:
    """The time that knocks carry.

    A gateway that starts on a state which it finds asks everybody for a second packet whose timestamp is not later
    than its start by more than max_ahead, 10 s. Our knocks are one packet each, so they are made as by a clock that is
    ahead by less than that until these seconds are over. It never goes back: a knock that is older than many others of
    its client is asked for a second packet too.
    """

    AHEAD = 10.0
    # Less than a millisecond of a timestamp is random.
    STEP = 0.0011

    def __init__(self):
        self.last = None

    def starts(self):
        self.last = None

    def started(self):
        """The gateway has read its clock before this moment."""
        self.last = time.time() + self.AHEAD + 0.02

    def is_ahead(self):
        return self.last is None or self.last > time.time()

    def stamp(self, when=None):
        """For a knock that is sent now, or then."""
        when = when or time.time()
        latest = when + self.AHEAD - 0.002
        if self.last is None:
            return int(latest * 1e9)
        self.last = min(latest, max(when, self.last + self.STEP))
        return int(self.last * 1e9)
