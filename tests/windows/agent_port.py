"""Leads a TCP port on loopback to the socket of an ssh-agent: Wine has no Unix sockets.

usage: agent_port.py PORT SOCKET   (serves until it is killed)
"""
import socket
import struct
import sys


def message(peer):
    """One request or answer, with its length before it; b"" if the peer has ended."""
    header = peer.recv(4, socket.MSG_WAITALL)
    if len(header) < 4:
        return b""
    return header + peer.recv(struct.unpack(">I", header)[0], socket.MSG_WAITALL)


port, path = int(sys.argv[1]), sys.argv[2]
with socket.create_server(("127.0.0.1", port)) as server:
    while True:
        client, _ = server.accept()
        with client, socket.socket(socket.AF_UNIX) as agent:
            agent.connect(path)
            agent.sendall(message(client))
            client.sendall(message(agent))
