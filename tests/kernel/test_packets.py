"""Frames as hostile containers make them, between namespaces that are wired as the driver wires containers.

Frames of one container to another come in order. So each test sends what must not arrive, and then what must: once that
is there, everything before it has been dropped.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from plugin import naming, protocol
from tests.kernel.namespace import eventually
from tests.kernel.workbench import Node, node
from tests.netns import Namespace, run
from tests.samples import endpoint_id, network_id

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


def packet(source: str, target: str, text: bytes) -> bytes:
    """A UDP datagram over IPv4 that carries ``text``."""
    head = struct.pack(">BBHHHBBH", 0x45, 0, 28 + len(text), 0, 0, 64, 17, 0)
    ends = ipaddress.IPv4Address(source).packed + ipaddress.IPv4Address(target).packed
    head = head[:10] + struct.pack(">H", checksum(head + ends)) + ends
    return head + struct.pack(">HHHH", 1000, 2000, 8 + len(text), 0) + text


def packet6(source: str, target: str, following: int, body: bytes) -> bytes:
    ends = ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(target).packed
    return struct.pack(">IHBB", 6 << 28, len(body), following, 255) + ends + body


def arp(sender: str, address: str, text: bytes) -> bytes:
    """An announcement that ``address`` is at ``sender``, with ``text`` behind it."""
    owner = bytes.fromhex(sender.replace(":", "")) + ipaddress.IPv4Address(address).packed
    return struct.pack(">HHBBH", 1, 0x0800, 6, 4, 2) + owner + owner + text


A, B = mac(A4), mac(B4)
GENUINE = ether(B, A, 0x0800, packet(A4, B4, b"<genuine>"))
ALLOWED = {
    "IPv4": GENUINE,
    "IPv6": ether(B, A, 0x86DD, packet6(A6, B6, 59, b"<genuine>")),
    "IPv6 link-local": ether(B, A, 0x86DD, packet6(str(naming.link_local(A)), B6, 59, b"<genuine>")),
    "ARP": ether(B, A, 0x0806, arp(A, A4, b"<genuine>")),
}
FORGED = {
    "IPv4 of the neighbour": ether(B, A, 0x0800, packet("10.192.1.9", B4, b"<forged>")),
    "IPv4 of the gateway": ether(B, A, 0x0800, packet("10.192.1.1", B4, b"<forged>")),
    "IPv4 of another network": ether(B, A, 0x0800, packet(C4, B4, b"<forged>")),
    "IPv4 of nobody": ether(B, A, 0x0800, packet("0.0.0.0", B4, b"<forged>")),
    "MAC of nobody": ether(B, STRANGER, 0x0800, packet(A4, B4, b"<forged>")),
    "MAC of the receiver": ether(B, B, 0x0800, packet(B4, B4, b"<forged>")),
    "MAC of the gateway": ether(B, GATEWAY, 0x0800, packet(A4, B4, b"<forged>")),
    "IPv6 of nobody": ether(B, A, 0x86DD, packet6("fd00:1::99", B6, 59, b"<forged>")),
    "IPv6 of the gateway": ether(B, A, 0x86DD, packet6("fd00:1::1", B6, 59, b"<forged>")),
    "link-local of another": ether(B, A, 0x86DD, packet6("fe80::1", B6, 59, b"<forged>")),
    "ARP for the gateway": ether(B, A, 0x0806, arp(A, "10.192.1.1", b"<forged>")),
    "ARP for the neighbour": ether(B, A, 0x0806, arp(A, B4, b"<forged>")),
    "ARP of another MAC": ether(B, A, 0x0806, arp(STRANGER, A4, b"<forged>")),
    "router advertisement": ether(
        B, A, 0x86DD, packet6(str(naming.link_local(A)), "ff02::1", 58, b"\x86\0\0\0" + bytes(12) + b"<forged>")
    ),
    "redirect": ether(B, A, 0x86DD, packet6(A6, B6, 58, b"\x89\0\0\0" + bytes(36) + b"<forged>")),
    "a VLAN's": ether(B, A, 0x8100, b"\0\x07\x08\0" + packet(A4, B4, b"<forged>")),
    "another protocol's": ether(B, A, 0x88B5, b"<forged>"),
    "to all": ether("ff:ff:ff:ff:ff:ff", A, 0x0800, packet("10.192.1.9", "255.255.255.255", b"<forged>")),
}
BRIDGED_OTHERWISE = {"MAC of the receiver", "MAC of the gateway"}
"""Frames a bridge without any rules would not carry to the receiver either."""


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


async def test_neighbours_hear_each_other(bench: Bench) -> None:
    _, a, b, _ = bench
    for frame in ALLOWED.values():
        a.send(frame)
        assert await arrives(b, "genuine") == {"genuine"}


async def test_what_is_forged_does_not_arrive(bench: Bench) -> None:
    _, a, b, _ = bench
    for name, frame in FORGED.items():
        a.send(frame, GENUINE)
        assert await arrives(b, "genuine") == {"genuine"}, name


async def test_the_rules_stay_when_the_plugin_is_gone_and_hold_without_it(netns: None, tmp_path: Path) -> None:
    async with node(tmp_path) as made:
        await made.network(1)
        containers = [await made.container(2, 1), await made.container(3, 1)]
        made.containers.clear()
    a, b = (Wire(container) for container in containers)
    a.send(*FORGED.values(), GENUINE)
    assert await arrives(b, "genuine") == {"genuine"}
    run("nft", "flush", "ruleset")
    for name, frame in FORGED.items():
        if name not in BRIDGED_OTHERWISE:
            a.send(frame)
            assert await arrives(b, "forged") == {"forged"}, f"nothing but the rules keeps this away: {name}"
    for wire in (a, b):
        wire.close()
    for container in containers:
        container.close()


async def test_another_network_is_out_of_reach(bench: Bench) -> None:
    _, a, _, c = bench
    a.send(ether(GATEWAY, A, 0x0800, packet(A4, C4, b"<intruder>")))
    await eventually(lambda: dropped("other network") == 1, "the packet to be dropped")
    assert c.received() == set()


async def test_the_other_networks_gateway_is_out_of_reach(bench: Bench) -> None:
    _, a, _, _ = bench
    a.send(ether(GATEWAY, A, 0x0800, packet(A4, "10.192.2.1", b"<intruder>")))
    await eventually(lambda: dropped("container to node") == 1, "the packet to be dropped")


async def test_a_container_that_left_is_connected_to_nothing(bench: Bench) -> None:
    made, a, b, _ = bench
    await made.driver.leave(protocol.EndpointRef(network_id=network_id(1), endpoint_id=endpoint_id(2)))
    await made.reconciler.settle(network_id(1))
    before = dropped("not an address of this endpoint")
    a.send(GENUINE)
    await eventually(lambda: dropped("not an address of this endpoint") > before, "the frame to be dropped")
    assert "genuine" not in b.received()
