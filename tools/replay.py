#!/usr/bin/env python3
"""Records knocks and sends them again from this host, as an attacker on the path would.

usage: replay.py --record FILE INTERFACE [PORT]  writes packets to that UDP port, 62201 by default, to a pcap file
       replay.py --count FILE                    prints the number of recorded packets
       replay.py FILE ADDRESS [PORT]             sends each payload to ADDRESS, port 62201 by default

It does not use tcpdump, which changes to another user: a user namespace has none.
"""
import socket
import struct
import sys
import time


def payloads(path):
    """Yields the UDP payloads over IPv4 in a pcap file of Ethernet frames, in order."""
    data = open(path, "rb").read()
    order = "<" if data[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
    at = 24
    while at + 16 <= len(data):
        (length,) = struct.unpack(order + "I", data[at + 8 : at + 12])
        ip = data[at + 16 + 14 : at + 16 + length]
        at += 16 + length
        if len(ip) > 28 and ip[0] >> 4 == 4 and ip[9] == 17:
            yield ip[(ip[0] & 15) * 4 + 8 :]


def record(path, interface, port):
    """Writes each IPv4 frame to that UDP port to a pcap file, immediately, until it is killed."""
    every = 3  # ETH_P_ALL: the only protocol that includes the packets that this host sends
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(every))
    wire.bind((interface, every))
    with open(path, "wb", buffering=0) as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        print("listening", file=sys.stderr, flush=True)
        while True:
            frame = wire.recv(65535)
            udp = frame[12:14] == b"\x08\x00" and frame[23] == 17
            header = 14 + (frame[14] & 15) * 4 if udp else 0
            if udp and frame[header + 2 : header + 4] == struct.pack(">H", port):
                seconds, rest = divmod(time.time_ns(), 10**9)
                file.write(struct.pack("<IIII", seconds, rest // 1000, len(frame), len(frame)) + frame)


if sys.argv[1] == "--record":
    record(sys.argv[2], sys.argv[3], int(sys.argv[4]) if len(sys.argv) > 4 else 62201)
elif sys.argv[1] == "--count":
    print(len(list(payloads(sys.argv[2]))))
else:
    port = int(sys.argv[3]) if len(sys.argv) > 3 else 62201
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for payload in payloads(sys.argv[1]):
        sender.sendto(payload, (sys.argv[2], port))
