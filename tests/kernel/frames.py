"""Frames as hostile containers make them, and the wires they are put on.

Frames of one container to another come in order. So a test sends what must not arrive, and then what must: once that is
there, everything before it has been dropped.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from plugin import naming
from tests.kernel.workbench import Node, node
from tests.netns import Namespace, eventually, run
from tests.samples import network_id

A4, B4, C4 = "10.192.1.2", "10.192.1.3", "10.192.2.4"
A6, B6 = "fd00:1::2", "fd00:1::3"
GATEWAY = naming.bridge_mac(network_id(1))
STRANGER = "02:99:99:99:99:99"
_ALL_PROTOCOLS = 3


def mac(address: str) -> str:
    return naming.endpoint_mac("", ipaddress.IPv4Address(address), None)


def ether(to: str, sender: str, kind: int, body: bytes) -> bytes:
    return bytes.fromhex((to + sender).replace(":", "")) + struct.pack(">H", kind) + body.ljust(46, b"\0")


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def packet(source: str, target: str, text: bytes, ports: tuple[int, int] = (1000, 2000)) -> bytes:
    """A UDP datagram over IPv4 that carries ``text``."""
    return ip4(source, target, 17, struct.pack(">HHHH", *ports, 8 + len(text), 0) + text)


def ip4(source: str, target: str, protocol: int, body: bytes, options: bytes = b"") -> bytes:
    """A packet over IPv4; ``options`` are a multiple of four octets."""
    length = 20 + len(options)
    head = struct.pack(">BBHHHBBH", 0x40 + length // 4, 0, length + len(body), 0, 0, 64, protocol, 0)
    ends = ipaddress.IPv4Address(source).packed + ipaddress.IPv4Address(target).packed
    return head[:10] + struct.pack(">H", checksum(head + ends + options)) + ends + options + body


def complaint(source: str, target: str, quoted: bytes) -> bytes:
    """An ICMP message of ``source`` to ``target`` that the port ``quoted`` was meant for is closed."""
    body = struct.pack(">BBHI", 3, 3, 0, 0) + quoted[:28]
    return ip4(source, target, 1, body[:2] + struct.pack(">H", checksum(body)) + body[4:])


def complaint6(source: str, target: str, quoted: bytes) -> bytes:
    """The same over IPv6 (RFC 4443)."""
    body = struct.pack(">BBHI", 1, 4, 0, 0) + quoted[:48]
    ends = ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(target).packed
    total = checksum(ends + struct.pack(">II", len(body), 58) + body)
    return packet6(source, target, 58, body[:2] + struct.pack(">H", total) + body[4:])


def neighbour(kind: int, target: str, text: bytes) -> bytes:
    """The body of a neighbour solicitation (135) or advertisement (136) about ``target`` (RFC 4861)."""
    return struct.pack(">BBHI", kind, 0, 0, 0x20000000) + ipaddress.IPv6Address(target).packed + text


def packet6(source: str, target: str, following: int, body: bytes) -> bytes:
    ends = ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(target).packed
    return struct.pack(">IHBB", 6 << 28, len(body), following, 255) + ends + body


def arp(sender: str, address: str, text: bytes) -> bytes:
    """An announcement that ``address`` is at ``sender``, with ``text`` behind it."""
    owner = bytes.fromhex(sender.replace(":", "")) + ipaddress.IPv4Address(address).packed
    return struct.pack(">HHBBH", 1, 0x0800, 6, 4, 2) + owner + owner + text


A, B, C = mac(A4), mac(B4), mac(C4)
GENUINE = ether(B, A, 0x0800, packet(A4, B4, b"<genuine>"))


class Wire:
    """The wire's end in a container: every frame that comes in, and any that is to go out."""

    def __init__(self, container: Namespace) -> None:
        self._socket = container.call(self._open)

    @staticmethod
    def _open() -> socket.socket:
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
        wire.bind(("eth0", _ALL_PROTOCOLS))
        wire.setblocking(False)
        return wire

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self._socket.send(frame)

    def received(self) -> set[str]:
        """The words in angle brackets of all frames that have come in since the last look."""
        words: set[str] = set()
        while True:
            try:
                frame, (_, _, kind, *_) = self._socket.recvfrom(1 << 16)
            except BlockingIOError:
                return words
            if kind != socket.PACKET_OUTGOING:
                words.update(word.decode() for word in re.findall(rb"<(\w+)>", frame))

    def replies(self) -> set[str]:
        """The addresses that ARP answers since the last look were about."""
        found: set[str] = set()
        while True:
            try:
                frame, (_, _, kind, *_) = self._socket.recvfrom(1 << 16)
            except BlockingIOError:
                return found
            if kind != socket.PACKET_OUTGOING and frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2":
                found.add(socket.inet_ntoa(frame[28:32]))

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
async def bench(netns: None, tmp_path: Path) -> AsyncIterator[tuple[Node, Wire, Wire, Wire]]:
    """A node with A and B in network 1 and C in network 2, and the wires of the three."""
    async with node(tmp_path) as made:
        for number in (1, 2):
            await made.network(number)
        containers = [await made.container(2, 1), await made.container(3, 1), await made.container(4, 2)]
        wires = [Wire(container) for container in containers]
        yield (made, wires[0], wires[1], wires[2])
        for wire in wires:
            wire.close()


Bench = tuple[Node, Wire, Wire, Wire]


async def arrives(wire: Wire, word: str) -> set[str]:
    """Everything that came in until ``word`` did."""
    came: set[str] = set()

    def look() -> bool:
        came.update(wire.received())
        return word in came

    await eventually(look, f"{word} to arrive")
    return came


def dropped(comment: str) -> int:
    """How many packets the rule with this comment has dropped."""
    found = re.findall(rf'counter packets (\d+) .* comment "{comment}"', run("nft", "list", "ruleset"))
    return sum(map(int, found))
