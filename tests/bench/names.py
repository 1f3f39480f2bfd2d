"""Asking for a name until it is there."""

from __future__ import annotations

POLL = """
import socket, struct, sys, time
name, server = sys.argv[1], ("169.254.53.53", 53)
query = b"\\x00\\x01\\x01\\x00\\x00\\x01" + bytes(6) + bytes([len(name)]) + name.encode() + b"\\x00\\x00\\x01\\x00\\x01"
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(0.5)
there = sys.argv[2] == "there"
end = time.time() + float(sys.argv[3])
while time.time() < end:
    s.sendto(query, server)
    try:
        answer = s.recv(1500)
    except OSError:
        continue
    if (struct.unpack(">H", answer[6:8])[0] > 0) == there:
        print(time.time())
        break
    time.sleep(0.002)
"""
"""Arguments: a name, ``there`` or ``gone``, seconds. Asks every 2 ms until it is so, and prints when that was (Unix)."""
