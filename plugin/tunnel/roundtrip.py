"""How long a packet takes to another node and back: an ICMP echo through the tunnel, when somebody asks.

Nothing is measured while nobody looks: a node at rest sends nothing, and its tunnels may sleep.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import struct
import time
from collections.abc import Iterable

TRIES = 3
"""Echoes for each address. The first one may have to wait for a handshake; the shortest time counts."""

PATIENCE = 0.4
"""Seconds for one echo."""

_REQUEST, _REPLY = 8, 0
_ECHO = struct.Struct(">BBHHH")


def echo_request(identifier: int, sequence: int) -> bytes:
    """An ICMP echo request without data, checksum included (RFC 792)."""
    bare = _ECHO.pack(_REQUEST, 0, 0, identifier, sequence)
    total = sum(struct.unpack(">4H", bare))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return _ECHO.pack(_REQUEST, 0, ~total & 0xFFFF, identifier, sequence)


def is_reply(packet: bytes, identifier: int, sequence: int) -> bool:
    """Whether an IPv4 packet as a raw socket gives it is the answer to that request."""
    start = (packet[0] & 0xF) * 4 if packet else 0
    if len(packet) < start + _ECHO.size:
        return False
    kind, _, _, their_identifier, their_sequence = _ECHO.unpack_from(packet, start)
    return (kind, their_identifier, their_sequence) == (_REPLY, identifier, sequence)


async def round_trips(addresses: Iterable[str]) -> dict[str, float]:
    """Seconds to each IPv4 address and back; those that did not answer are not in it. All are asked at the same time."""
    found: dict[str, float] = {}

    async def ask(address: str, identifier: int) -> None:
        taken = await _round_trip(address, identifier)
        if taken is not None:
            found[address] = taken

    async with asyncio.TaskGroup() as tasks:
        for number, address in enumerate(addresses):
            tasks.create_task(ask(address, (os.getpid() + number) & 0xFFFF), name=f"echo to {address}")
    return found


async def _round_trip(address: str, identifier: int) -> float | None:
    try:
        made = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP)
    except PermissionError:
        return None
    with made:
        try:
            made.connect((address, 0))
            times = [await _echo(made, identifier, next(_sequence) & 0xFFFF) for _ in range(TRIES)]
        except OSError:
            return None
    return min((taken for taken in times if taken is not None), default=None)


_sequence = itertools.count(1)
"""No two echoes at a time have the same number, whoever asks for them."""


async def _echo(connected: socket.socket, identifier: int, sequence: int) -> float | None:
    loop = asyncio.get_running_loop()
    begun = time.monotonic()
    await loop.sock_sendall(connected, echo_request(identifier, sequence))
    try:
        async with asyncio.timeout(PATIENCE):
            while not is_reply(await loop.sock_recv(connected, 256), identifier, sequence):
                pass
    except TimeoutError:
        return None
    return time.monotonic() - begun
