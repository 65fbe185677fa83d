#!/usr/bin/env python3
"""Sends the UDP payloads of a pcap file again, from this host: what somebody who recorded knocks would do.

usage: replay.py FILE ADDRESS [PORT]     sends each to ADDRESS, port 62201 by default
       replay.py --count FILE            prints how many there are
"""
import socket
import struct
import sys


def payloads(path):
    """The UDP payloads over IPv4 in a pcap file of Ethernet frames, in order."""
    data = open(path, "rb").read()
    order = "<" if data[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
    at = 24
    while at + 16 <= len(data):
        (length,) = struct.unpack(order + "I", data[at + 8 : at + 12])
        ip = data[at + 16 + 14 : at + 16 + length]
        at += 16 + length
        if len(ip) > 28 and ip[0] >> 4 == 4 and ip[9] == 17:
            yield ip[(ip[0] & 15) * 4 + 8 :]


if sys.argv[1] == "--count":
    print(len(list(payloads(sys.argv[2]))))
else:
    port = int(sys.argv[3]) if len(sys.argv) > 3 else 62201
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for payload in payloads(sys.argv[1]):
        sender.sendto(payload, (sys.argv[2], port))
