"""What a container's frames say of their sender must be true, between namespaces wired as the driver wires containers."""

from __future__ import annotations

from pathlib import Path

from plugin import naming
from plugin.docker import protocol
from tests.kernel.frames import (
    A4,
    A6,
    B4,
    B6,
    C4,
    GATEWAY,
    GENUINE,
    STRANGER,
    A,
    B,
    Bench,
    Wire,
    arp,
    arrives,
    dropped,
    ether,
    neighbour,
    packet,
    packet6,
)  # fmt: skip
from tests.kernel.workbench import node
from tests.netns import eventually, run
from tests.samples import endpoint_id, network_id

LOCAL = str(naming.link_local(A))
ALLOWED = {
    "IPv4": GENUINE,
    "IPv6": ether(B, A, 0x86DD, packet6(A6, B6, 59, b"<genuine>")),
    "IPv6 link-local": ether(B, A, 0x86DD, packet6(LOCAL, B6, 59, b"<genuine>")),
    "ARP": ether(B, A, 0x0806, arp(A, A4, b"<genuine>")),
    "neighbour advertisement": ether(B, A, 0x86DD, packet6(A6, B6, 58, neighbour(136, A6, b"<genuine>"))),
    "neighbour advertisement, link-local": ether(
        B, A, 0x86DD, packet6(LOCAL, B6, 58, neighbour(136, LOCAL, b"<genuine>"))
    ),
    "neighbour solicitation": ether(B, A, 0x86DD, packet6(A6, B6, 58, neighbour(135, B6, b"<genuine>"))),
    "duplicate address detection": ether(B, A, 0x86DD, packet6("::", "ff02::1", 58, neighbour(135, A6, b"<genuine>"))),
    "multicast report": ether(B, A, 0x86DD, packet6("::", "ff02::16", 58, b"\x8f" + bytes(7) + b"<genuine>")),
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
    "ARP in a frame of nobody": ether(B, STRANGER, 0x0806, arp(A, A4, b"<forged>")),
    "advertisement of the neighbour": ether(B, A, 0x86DD, packet6(A6, B6, 58, neighbour(136, "fd00:1::9", b"<forged>"))),
    "advertisement of the gateway": ether(B, A, 0x86DD, packet6(LOCAL, B6, 58, neighbour(136, "fd00:1::1", b"<forged>"))),
    "advertisement behind options": ether(
        B, A, 0x86DD, packet6(A6, B6, 60, b"\x3a\0\1\4\0\0\0\0" + neighbour(136, B6, b"<forged>"))
    ),
    "advertisement in a fragment": ether(
        B, A, 0x86DD, packet6(A6, B6, 44, b"\x3a\0\0\1\0\0\0\1" + neighbour(136, B6, b"")[:16] + b"<forged>")
    ),
    "claim to the neighbour's address": ether(
        B, A, 0x86DD, packet6("::", "ff02::1", 58, neighbour(135, B6, b"<forged>"))
    ),
    "IPv6 without a source": ether(B, A, 0x86DD, packet6("::", B6, 59, b"<forged>")),
    "router advertisement": ether(B, A, 0x86DD, packet6(LOCAL, "ff02::1", 58, b"\x86\0\0\0" + bytes(12) + b"<forged>")),
    "redirect": ether(B, A, 0x86DD, packet6(A6, B6, 58, b"\x89\0\0\0" + bytes(36) + b"<forged>")),
    "a VLAN's": ether(B, A, 0x8100, b"\0\x07\x08\0" + packet(A4, B4, b"<forged>")),
    "another protocol's": ether(B, A, 0x88B5, b"<forged>"),
    "a VLAN's within a VLAN": ether(B, A, 0x88A8, b"\0\x07\x81\0\0\x08\x08\0" + packet(A4, B4, b"<forged>")),
    "a VLAN's of number 0": ether(B, A, 0x8100, b"\0\0\x08\0" + packet(A4, B4, b"<forged>")),
    "PPPoE": ether(B, A, 0x8864, b"\x11\0\0\1\0\x30\0\x21" + packet(A4, B4, b"<forged>")),
    "LLC": ether(B, A, 0x0020, b"\xaa\xaa\3\0\0\0\x08\0<forged>"),
    "MPLS": ether(B, A, 0x8847, b"\0\0\1\xff" + packet(A4, B4, b"<forged>")),
    "reverse ARP": ether(B, A, 0x8035, arp(A, A4, b"<forged>")),
    "spanning tree": ether("01:80:c2:00:00:00", A, 0x0026, b"\x42\x42\3\0\0\0\0\0<forged>"),
    "a station's discovery": ether("01:80:c2:00:00:0e", A, 0x88CC, b"<forged>"),
    "to all": ether("ff:ff:ff:ff:ff:ff", A, 0x0800, packet("10.192.1.9", "255.255.255.255", b"<forged>")),
}
BRIDGED_OTHERWISE = {"MAC of the receiver", "MAC of the gateway", "a station's discovery"}
"""Frames a bridge without any rules would not carry to the receiver either."""


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
