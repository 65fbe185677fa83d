#!/usr/bin/env python3
"""An app of a few lines around the client library, by ctypes: its sockets, clock, entropy and key are Python's.

usage: app.py LIBRARY SEED {open,close,probe} PROFILE [SERVICE]   knocks, and prints the answer as JSON
       app.py LIBRARY SEED join PROFILE < LINE                    joins by an invitation, and writes the profile

SEED is a file with 64 hex digits: the Ed25519 seed of the client's key. Behind it there may be the application of a
FIDO key: then the app signs as an authenticator does that somebody touches.
"""

import base64
import ctypes
import hashlib
import ipaddress
import json
import os
import pathlib
import socket
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "vectors"))
import check

OK, NULL, HANDLE, BUSY, FULL, LENGTH, VALUE, REFUSED, SIGNATURE, ORDER, INTERNAL = range(11)
KINDS = {"open": 1, "close": 2, "probe": 3, "join": 4}
IGNORED, CONTINUES, OVER = range(3)
STATUS = " granted closed observed address clock denied full challenge trouble enrolled pending taken".split(" ")
WHOLE, NAME, GATEWAY, ADDRESS, SERVICE, USUAL_SERVICE, KEY, FINGERPRINT = range(8)

u32, u64, size_t = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_size_t


class Fault(ctypes.Structure):
    _fields_ = [("what", ctypes.c_char * 512), ("remedy", ctypes.c_char * 256)]


class Request(ctypes.Structure):
    _fields_ = [("size", u32), ("kind", u32)]
    _fields_ += [(name, ctypes.c_ubyte * 16) for name in ("local", "gateway", "source")]
    _fields_ += [(name, u32) for name in ("ask_source", "seconds", "source_port", "timeout", "attempts")]
    _fields_ += [("service_length", u32), ("service", ctypes.c_char_p), ("key", ctypes.c_char_p)]
    _fields_ += [("key_length", size_t)]


class Packet(ctypes.Structure):
    _fields_ = [("size", u32), ("length", u32), ("wait", u32), ("datagram", ctypes.c_ubyte * 272)]


class PortEntry(ctypes.Structure):
    _fields_ = [(name, u32) for name in ("ports", "protocol", "first", "last")]


class Receipt(ctypes.Structure):
    _fields_ = [("size", u32), ("status", u32), ("time", u64), ("at", u64), ("seconds", u32), ("once", u32)]
    _fields_ += [(name, ctypes.c_ubyte * 16) for name in ("observed", "granted")]
    _fields_ += [("prefix", u32), ("replaced", u32), ("ports", PortEntry * 4)]


class Facts(ctypes.Structure):
    _fields_ = [("size", u32), ("port", u32), ("addresses", u32), ("services", u32), ("until", u64), ("fido", u32)]


class Signature(ctypes.Structure):
    _fields_ = [("ed25519", ctypes.c_ubyte * 64), ("sk_flags", u32), ("sk_counter", u32)]


Sign = ctypes.CFUNCTYPE(
    ctypes.c_int32, ctypes.c_void_p, ctypes.POINTER(ctypes.c_ubyte), size_t, ctypes.POINTER(Signature)
)


def sized(structure, **values):
    return structure(size=ctypes.sizeof(structure), **values)


def address_bytes(text):
    address = ipaddress.ip_address(text)
    return (ctypes.c_ubyte * 16)(*(bytes(10) + b"\xff\xff" + address.packed if address.version == 4 else address.packed))


def address_text(data):
    address = ipaddress.IPv6Address(bytes(data))
    return str(address.ipv4_mapped or address) if any(data) else None


class Refused(Exception):
    def __init__(self, code, fault):
        self.code = code
        super().__init__(f"code {code}: {fault.what.decode()}; {fault.remedy.decode()}")


class Library:
    """The C interface. Numbers of objects are plain integers."""

    def __init__(self, path):
        self.c = ctypes.CDLL(path)
        arguments = {
            "profile_read": (ctypes.c_char_p, size_t, ctypes.POINTER(u64), ctypes.POINTER(Fault)),
            "invitation_read": (ctypes.c_char_p, size_t, ctypes.POINTER(u64), ctypes.POINTER(Fault)),
            "free": (u64,),
            "facts": (u64, ctypes.POINTER(Facts)),
            "text": (u64, u32, size_t, ctypes.c_char_p, ctypes.POINTER(size_t)),
            "knock_new": (u64, ctypes.POINTER(Request), ctypes.POINTER(u64), ctypes.POINTER(Fault)),
            "knock_next": (u64, u64, ctypes.c_char_p, size_t, Sign, ctypes.c_void_p, ctypes.POINTER(Packet), ctypes.POINTER(Fault)),
            "knock_receive": (u64, u64, ctypes.c_char_p, size_t, ctypes.POINTER(u32)),
            "knock_receipt": (u64, ctypes.POINTER(Receipt)),
            "knock_profile": (u64, ctypes.POINTER(u64), ctypes.POINTER(Fault)),
        }
        for name, types in arguments.items():
            function = getattr(self.c, "toctoc_" + name)
            function.argtypes, function.restype = types, u32
            setattr(self, name, function)

    def read(self, function, text):
        """The number of a profile or an invitation."""
        number, fault = u64(), Fault()
        self.must(function(text, len(text), ctypes.byref(number), ctypes.byref(fault)), fault)
        return number.value

    def must(self, code, fault=Fault()):
        if code != OK:
            raise Refused(code, fault)

    def text_of(self, number, what, index=0):
        length = size_t()
        code = self.text(number, what, index, None, ctypes.byref(length))
        if code != LENGTH:
            self.must(code)
        buffer = ctypes.create_string_buffer(length.value + 1)
        self.must(self.text(number, what, index, buffer, ctypes.byref(length)))
        return buffer.raw[: length.value]

    def knock(self, by, request):
        number, fault = u64(), Fault()
        self.must(self.knock_new(by, ctypes.byref(request), ctypes.byref(number), ctypes.byref(fault)), fault)
        return number.value

    def next(self, knock, now, entropy, sign):
        """The next packet's datagram and patience in seconds; None if there is no other."""
        packet, fault = sized(Packet), Fault()

        def callback(context, message, length, signature):
            made = sign(bytes(message[:length]))
            if made is None:
                return 1
            signature.contents.ed25519[:], signature.contents.sk_flags, signature.contents.sk_counter = made
            return 0

        code = self.knock_next(
            knock, now, entropy, len(entropy), Sign(callback), None, ctypes.byref(packet), ctypes.byref(fault)
        )
        self.must(code, fault)
        return (bytes(packet.datagram), packet.wait / 1000) if packet.length else None

    def receive(self, knock, now, datagram):
        progress = u32()
        self.must(self.knock_receive(knock, now, datagram, len(datagram), ctypes.byref(progress)))
        return progress.value

    def receipt(self, knock):
        """The receipt as a dictionary, or None if the gateway is silent."""
        receipt = sized(Receipt)
        code = self.knock_receipt(knock, ctypes.byref(receipt))
        if code == ORDER:
            return None
        self.must(code)
        ports = [(p.ports, p.protocol, p.first, p.last) for p in receipt.ports if p.ports]
        return {
            "status": STATUS[receipt.status],
            "seconds": receipt.seconds,
            "once": bool(receipt.once),
            "observed": address_text(receipt.observed),
            "granted": address_text(receipt.granted),
            "prefix": receipt.prefix,
            "replaced": bool(receipt.replaced),
            "ports": ports,
            "time": receipt.time,
        }

    def profile(self, knock):
        number, fault = u64(), Fault()
        self.must(self.knock_profile(knock, ctypes.byref(number), ctypes.byref(fault)), fault)
        return number.value


class Key:
    """The client's key. With an application it is a FIDO key."""

    def __init__(self, seed, application=None):
        self.seed, self.application = seed, application

    def line(self):
        """The public key as in a .pub file."""
        public, _ = check.ed25519(self.seed, b"")
        fields = [b"ssh-ed25519", public]
        if self.application:
            fields = [b"sk-ssh-ed25519@openssh.com", public, self.application]
        return fields[0] + b" " + base64.b64encode(b"".join(map(check.string, fields)))

    def sign(self, message, flags=1, counter=0x01020304):
        """The callback's answer: the signature, and what an authenticator has to say beside it."""
        if not self.application:
            return check.ed25519(self.seed, message)[1], 0, 0
        application, message = (hashlib.sha256(x).digest() for x in (self.application, message))
        signs = application + bytes([flags]) + check.number(counter) + message
        return check.ed25519(self.seed, signs)[1], flags, counter


def exchange(library, by, key, kind, service):
    """Knocks at the first address of a profile or an invitation. Returns the knock's number."""
    facts = sized(Facts)
    library.must(library.facts(by, ctypes.byref(facts)))
    host = library.text_of(by, ADDRESS).decode()
    family, _, _, _, to = socket.getaddrinfo(host, facts.port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.connect(to)
        request = sized(Request, kind=KINDS[kind], service=service, service_length=len(service))
        request.local, request.gateway = address_bytes(sender.getsockname()[0]), address_bytes(to[0])
        if kind == "join":
            request.key = key.line()
            request.key_length = len(request.key)
        knock = library.knock(by, request)
        while packet := library.next(knock, time.time_ns(), os.urandom(40), key.sign):
            datagram, patience = packet
            sender.send(datagram)
            wait(library, knock, sender, time.monotonic() + patience)
        return knock


def wait(library, knock, sender, end):
    """Passes on what comes from the gateway until the knock goes on."""
    while (left := end - time.monotonic()) > 0:
        sender.settimeout(left)
        try:
            datagram = sender.recv(2048)
        except (TimeoutError, ConnectionRefusedError):
            continue
        if library.receive(knock, time.time_ns(), datagram) != IGNORED:
            return


def main(path, seed, kind, profile, service=""):
    library, profile = Library(path), pathlib.Path(profile)
    seed, *application = pathlib.Path(seed).read_text().split()
    key = Key(bytes.fromhex(seed), *map(str.encode, application))
    if kind == "join":
        by = library.read(library.invitation_read, sys.stdin.buffer.read())
    else:
        by = library.read(library.profile_read, profile.read_bytes())
    knock = exchange(library, by, key, kind, service.encode())
    receipt = library.receipt(knock)
    if receipt and receipt["status"] == "enrolled":
        joined = library.profile(knock)
        profile.touch(0o600)
        profile.write_bytes(library.text_of(joined, WHOLE))
        library.must(library.free(joined))
    for number in (by, knock):
        library.must(library.free(number))
    print(json.dumps(receipt))


if __name__ == "__main__":
    main(*sys.argv[1:])
