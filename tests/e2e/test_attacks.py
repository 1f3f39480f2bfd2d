"""Containers that may make any packet (NET_RAW, NET_ADMIN), on real engines, where bridged packets pass iptables.

Every way there is in detail: ``tests/kernel/test_attacks.py`` and ``test_packets.py``.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.test_isolation import INTERNET, Scene
from tests.e2e.workbench import Target, Workbench
from tests.testbed.testbed import Testbed

FRAMES = """
import json, socket, struct, sys, time
own, target, port, to, patience = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], float(sys.argv[5])
mac = bytes.fromhex(open("/sys/class/net/eth0/address").read().strip().replace(":", ""))
answers = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
answers.bind(("", 4444))
answers.settimeout(patience)
text = b"hello"
head = struct.pack(">BBHHHBBH", 0x45, 0, 28 + len(text), 0, 0, 64, 17, 0)
head += socket.inet_aton(own) + socket.inet_aton(target)
total = sum(struct.unpack(">10H", head))
while total > 0xffff: total = (total & 0xffff) + (total >> 16)
head = head[:10] + struct.pack(">H", total ^ 0xffff) + head[12:]
packet = head + struct.pack(">HHHH", 4444, port, 8 + len(text), 0) + text
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("eth0", 0))
for last in range(16) if to == "reserved" else [0]:
    address = bytes.fromhex("0180c20000%02x" % last) if to == "reserved" else bytes.fromhex(to.replace(":", ""))
    wire.send(address + mac + b"\\x08\\x00" + packet.ljust(46, b"\\0"))
try:
    print(answers.recv(100).decode())
except OSError:
    print("")
"""
"""Sends a UDP datagram in a frame to a MAC address, or to each reserved one, and prints the answer; empty for none."""

ADVERTISE = """
import socket, struct, sys
own, target = (socket.inet_pton(socket.AF_INET6, text) for text in sys.argv[1:])
mac = bytes.fromhex(open("/sys/class/net/eth0/address").read().strip().replace(":", ""))
body = struct.pack(">BBHI", 136, 0, 0, 0x20000000) + target + b"\\2\\1" + mac
everybody = socket.inet_pton(socket.AF_INET6, "ff02::1")
total = sum(struct.unpack(">36H", own + everybody + struct.pack(">II", len(body), 58) + body))
while total > 0xffff: total = (total & 0xffff) + (total >> 16)
body = body[:2] + struct.pack(">H", total ^ 0xffff) + body[4:]
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("eth0", 0))
for _ in range(3):
    head = struct.pack(">IHBB", 6 << 28, 32, 58, 255) + own + everybody
    wire.send(b"\\x33\\x33\\0\\0\\0\\1" + mac + b"\\x86\\xdd" + head + body)
"""
"""Advertises, unasked, that an IPv6 address is at the sender's MAC (RFC 4861)."""

SEND = """
import socket, sys
wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
wire.bind((sys.argv[1], int(sys.argv[2])))
wire.settimeout(float(sys.argv[5]))
wire.sendto(b"hello", (sys.argv[3], int(sys.argv[4])))
try:
    print(wire.recv(100).decode())
except OSError:
    print("")
"""
"""Sends a UDP datagram from an address and port to another, and prints the answer; empty for none."""


@pytest.fixture(scope="module")
def scene(bed: Testbed) -> Iterator[Scene]:
    """The same places as where nobody attacks."""
    bench = Workbench(bed)
    yield Scene(bench)
    bench.clear()


def inside(scene: Scene, who: str, script: str, *words: object) -> str:
    """What a script prints in a container."""
    return scene.bench.docker("exec", who, "python3", "-c", script, *map(str, words)).strip()


def mac_of(scene: Scene, who: str) -> str:
    """A container's MAC address."""
    return scene.bench.docker("exec", who, "cat", "/sys/class/net/eth0/address").strip()


def test_frames_that_no_bridge_passes_on_reach_no_service_of_the_node(scene: Scene) -> None:
    gateway, own = scene.gateway("shop-production", 4), scene.address["a1"][4]
    with scene.bench.node_service(2222):
        neighbour = scene.address["a2"][4]
        control = inside(scene, "a1", FRAMES, own, neighbour, 80, mac_of(scene, "a2"), 15)
        assert control.startswith("a2 "), "such a datagram must reach a neighbour"
        for target in (gateway, scene.bench.node.address):
            assert inside(scene, "a1", FRAMES, own, target, 2222, "reserved", 2) == ""


def test_a_neighbours_mac_cannot_be_taken(scene: Scene) -> None:
    """Not by a frame the bridge would learn from without asking anybody."""
    bench, victim = scene.bench, mac_of(scene, "a2")
    frame = f"0180c20000%02x{victim.replace(':', '')}88cc"
    steal = (
        "import socket\n"
        "wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); wire.bind(('eth0', 0))\n"
        f"for last in range(16): wire.send(bytes.fromhex('{frame}' % last) + bytes(46))"
    )
    before = port_of(scene, victim)
    inside(scene, "a1", steal)
    assert bench.reaches("a1", Target("icmp", scene.gateway("shop-production", 4)))
    assert port_of(scene, victim) == before


def port_of(scene: Scene, mac: str) -> str:
    """Behind which port of its bridge the node takes a MAC address to be."""
    table = json.loads(scene.bench.exec("bridge", "-j", "fdb", "show").stdout)
    return next(str(entry["ifname"]) for entry in table if entry["mac"] == mac and "master" in entry)


def test_a_neighbours_address_cannot_be_taken_by_an_advertisement(scene: Scene) -> None:
    victim, own = scene.address["a2"][6], scene.address["a1"][6]
    assert scene.bench.reaches("a2", Target("icmp", scene.gateway("shop-production", 6))), "the node has noted a2"
    inside(scene, "a1", ADVERTISE, own, victim)
    assert scene.bench.reaches("a1", Target("icmp", scene.gateway("shop-production", 6))), "what came before is through"
    table = scene.bench.exec("ip", "-6", "neigh", "show", victim).stdout
    assert mac_of(scene, "a2") in table
    assert mac_of(scene, "a1") not in table


def test_the_node_does_not_tell_what_other_networks_there_are(scene: Scene) -> None:
    own, other = scene.gateway("shop-production", 4), scene.gateway("shop-staging", 4)
    asked = {
        address: scene.bench.node.inside("a1", "arping", "-c1", "-w5", "-I", "eth0", address)[0]
        for address in (own, other)
    }
    assert asked == {own: 0, other: 1}


def test_a_port_the_node_serves_is_not_taken_by_sending_from_it(scene: Scene) -> None:
    """Once a container has sent from port 5000 to a client's, that client's datagrams would come to the container."""
    bench = scene.bench
    outside = ["ip", "netns", "exec", bench.outside, "python3", "-c", SEND]
    words = [INTERNET, "5001", bench.node.address, "5000", "15"]
    with bench.node_service(5000):
        inside(scene, "a1", SEND, "0.0.0.0", 5000, INTERNET, 5001, 0.5)
        done = subprocess.run([*outside, *words], capture_output=True, text=True, check=True)
    assert done.stdout.split()[1:] == [INTERNET], "the node's own server answers"
