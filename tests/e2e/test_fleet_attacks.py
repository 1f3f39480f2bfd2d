"""Three nodes and who may send what it likes: root in a container, root on a node that is a member, somebody outside.

Packets are forged past every address and rule of their sender, and captured where they must not come; each test shows too
that such a packet comes through when it is honest.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from plugin.wireguard.keys import generate
from tests.e2e.scene import Scene
from tests.e2e.wire import Datagram, capture, dropped, forge_in, forge_on, of_container, of_node, udp_payloads
from tests.e2e.workbench import BRIEF, Target, eventually, everything
from tests.testbed.shell import run, wait_until

TUNNEL = "sp-wg"
PORT = 51820
SIZES = (1, 31, 32, 64, 92, 128, 148, 149, 1400)
"""Of garbage: around those of WireGuard's four messages, too (148, 92, 64, from 32)."""

SAY = """
import json, socket, sys
target, port, words = sys.argv[1], int(sys.argv[2]), json.load(sys.stdin)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
    for word in words: wire.sendto(bytes.fromhex(word), (target, port))
"""


FLOOD = """
import socket, struct, sys, time
seconds, sources = float(sys.argv[1]), sys.argv[2:]
question = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + b"\\x08postgres\\0" + struct.pack(">2H", 1, 1)
if sources:
    wire = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
else:
    wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
wire.setblocking(False)
to, began, sent = socket.inet_aton("169.254.53.53"), time.monotonic(), 0
while time.monotonic() < began + seconds:
    body = question
    if sources:
        body = struct.pack(">4H", 4444, 53, 8 + len(question), 0) + question
        source = socket.inet_aton(sources[sent % len(sources)])
        body = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, 17, 0) + source + to + body
    try:
        wire.sendto(body, ("169.254.53.53", 53))
    except OSError:
        pass
    sent += 1
    time.sleep(max(0.0, began + sent / 400 - time.monotonic()))
"""
"""Asks 400 times a second and reads nothing, in the name of others if any are given."""

ASK = """
import socket, struct, sys, time
until, lost = time.monotonic() + float(sys.argv[1]), 0
question = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + b"\\x08postgres\\0" + struct.pack(">2H", 1, 1)
def answered():
    for _ in range(3):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
            wire.settimeout(2)
            wire.sendto(question, ("169.254.53.53", 53))
            try:
                return wire.recv(512)[7] > 0
            except OSError:
                pass
    return False
asked = 0
while time.monotonic() < until:
    asked += 1
    lost += not answered()
    time.sleep(0.1)
print(asked, lost)
"""
"""Asks for a name again and again, as patiently as libc does, and prints how often, and how often without an answer."""


@pytest.fixture
def scene(three: Scene) -> Scene:
    """Short for it."""
    return three


@pytest.mark.parametrize("version", [4, 6])
def test_a_forged_source_of_another_environment_gets_nowhere(scene: Scene, version: int, tmp_path: Path) -> None:
    """As root in a container: with addresses of the other environment on its own and on another node, and of its own."""
    address = {name: scene.address[name][version] for name in scene.address}
    forged = [
        Datagram(address[source], address[target], f"forged {source} {target}")
        for source in ("b1", "b2", "a2")
        for target in ("b3", "a3")
    ]
    table, chain, comment = "bridge stackpad", "enter", "not an address of this endpoint"
    with contextlib.ExitStack() as stack:
        seen = {
            name: stack.enter_context(capture(place, tmp_path / name, link))
            for name, place, link in (
                ("a3", of_container(scene.at("a3"), "a3"), "eth0"),
                ("b3", of_container(scene.at("b3"), "b3"), "eth0"),
                ("receiver", of_node(scene.bench[3]), TUNNEL),
                ("sender", of_node(scene.bench[1]), TUNNEL),
            )
        }
        before = dropped(scene.bench[1], table, chain, comment)
        # From its own address to the other environment: no forgery, and no less in vain.
        crossing = Datagram(address["a1"], address["b3"], "crossing a1 b3")
        forge_in(scene.bench[1], "a1", [*forged, crossing, Datagram(address["a1"], address["a3"], "honest a1 a3")])
        forge_in(scene.bench[1], "b1", [Datagram(address["b1"], address["b3"], "honest b1 b3")])
        seen["a3"].wait("honest a1 a3")
        seen["b3"].wait("honest b1 b3")
        for place in ("sender", "receiver"):
            seen[place].wait("honest a1 a3")
        assert dropped(scene.bench[1], table, chain, comment) >= before + len(forged), "they were sent, and dropped here"
        for place, there in seen.items():
            assert not there.has("forged"), place
            assert not there.has("crossing"), place


@pytest.mark.parametrize("version", [4, 6])
def test_the_receiver_does_not_trust_the_sender(scene: Scene, version: int, tmp_path: Path) -> None:
    """Root on another node is a member and no more, although none of its own node's rules stop it.

    What WireGuard itself lets in, for the source is the sender's, is dropped by the receiver's rules; what claims to come
    from a third node does not come out of the tunnel.
    """
    address = {name: scene.address[name][version] for name in scene.address}
    own, victim = scene.mesh(1, version), address["a2"]
    through = {"mesh": own, "other": address["b1"], "inner": address["i1"]}
    third = {
        "third": address["a3"],
        "itself": address["b2"],
        "outside": "198.51.100.1" if version == 4 else "2001:db8:ffff::1",
    }
    with (
        capture(of_node(scene.bench[2]), tmp_path / "node", TUNNEL) as node,
        capture(of_container(scene.at("a2"), "a2"), tmp_path / "container", "eth0") as container,
    ):
        chain = ("inet stackpad", "from_mesh", "not of this environment")
        before = dropped(scene.bench[2], *chain)
        forged = [Datagram(source, victim, f"forged {what}") for what, source in {**third, **through}.items()]
        forge_on(scene.bench[1], TUNNEL, [*forged, Datagram(address["a1"], victim, "honest a1 a2")])
        container.wait("honest a1 a2")
        node.wait("honest a1 a2")
        assert not container.has("forged")
        assert [what for what in through if not node.has(f"forged {what}")] == []
        assert [what for what in third if node.has(f"forged {what}")] == []
        assert dropped(scene.bench[2], *chain) >= before + len(through)


def test_root_of_another_node_has_no_way_to_containers(scene: Scene) -> None:
    """With the node's own stack and address: nothing comes back."""
    asked = [Target(kind, scene.address["a2"][version]) for kind in ("tcp", "udp", "icmp") for version in (4, 6)]
    assert not any(scene.bench[1].ask_from_node(*asked, patience=BRIEF))


def test_somebody_outside_has_no_way_in_by_routes(scene: Scene) -> None:
    """With a route to containers, to the tunnel's addresses and to the resolver, by a node."""
    outside = ["ip", "netns", "exec", scene.bed.plan.switch]
    node = scene.bed.nodes[0].address
    for target in (scene.address["a1"][4], scene.mesh(1), "169.254.53.53"):
        run(*outside, "ip", "route", "add", f"{target}/32", "via", node)
        try:
            asked = [
                *everything(target),
                *(Target("tcp", target, port) for port in (2379, 4783)),
                Target("udp", target, 53),
            ]
            assert not any(scene.bench[1].ask_from_outside(*asked, patience=BRIEF))
        finally:
            run(*outside, "ip", "route", "del", f"{target}/32", "via", node)


def test_somebody_outside_gets_nowhere(scene: Scene, tmp_path: Path) -> None:
    """Garbage, a real WireGuard with a key that nobody knows, and packets of the mesh itself sent again.

    Nothing answers but WireGuard's "come again" (message 3), nobody takes the outsider for a peer, and the mesh goes on.
    """
    node, own = scene.bed.nodes[1].address, scene.bed.plan.gateway
    switch = Path("/run/netns", scene.bed.plan.switch)
    enter = ("ip", "netns", "exec", scene.bed.plan.switch)
    with capture(switch, tmp_path / "mesh", "n2", f"udp port {PORT}") as mesh:
        # A new key, so that the others begin handshakes with it.
        assert scene.bench[2].node.stackpad("node", "rotate-key", check=False).returncode == 0
        assert scene.reaches("a1", "a2", 4)
        assert scene.reaches("a2", "a1", 6)
        heard = [payload for _, target, payload in udp_payloads(mesh.seen) if target == node]
    assert {1, 4} <= {payload[0] for payload in heard}, "a handshake and data are what is sent again"
    before = endpoints(scene)
    with capture(switch, tmp_path / "answers", "n2", f"host {own} and host {node}") as answers:
        garbage = [os.urandom(size) for size in SIZES] + [bytes([kind, 0, 0, 0]) + os.urandom(144) for kind in range(6)]
        say(scene, node, [*garbage, *heard])
        with stranger(scene, tmp_path):
            # What it calls is in the tunnel: the handshake that this begins must stay without an answer.
            words = (*enter, "ping", "-c", "3", "-W", "2", "-I", "stranger", scene.mesh(2))
            assert run(*words, check=False).returncode != 0
        echo = b"the last of it.."  # sixteen bytes, after as many of a time stamp
        run(*enter, "ping", "-c", "1", "-W", "5", "-s", "32", "-p", echo.hex(), node)
        eventually(lambda: answers.seen.count(echo) == 2, "the last packet and its answer", 30)
        sent = [payload for source, _, payload in udp_payloads(answers.seen) if source == own]
        said = [payload for source, _, payload in udp_payloads(answers.seen) if source == node]
    assert {len(payload) for payload in garbage} <= {len(payload) for payload in sent}, "garbage of all sizes was sent"
    assert {1, 4} <= {payload[0] for payload in sent if payload in heard}, "and what was heard, again"
    assert any(payload[0] == 1 and payload not in [*garbage, *heard] for payload in sent), "and the stranger's handshake"
    assert [payload for payload in said if payload[0] != 3] == []
    assert endpoints(scene) == before
    for version in (4, 6):
        assert scene.reaches("a1", "a2", version)


def say(scene: Scene, node: str, payloads: list[bytes]) -> None:
    """Send datagrams to a node's WireGuard from outside."""
    words = ["ip", "netns", "exec", scene.bed.plan.switch, sys.executable, "-c", SAY, node, str(PORT)]
    run(*words, script=json.dumps([payload.hex() for payload in payloads]))


def endpoints(scene: Scene) -> dict[str, object]:
    """Where the second node takes its peers to be."""
    return {str(row["name"]): row["endpoint"] for row in scene.cluster(2)["nodes"]}


@contextlib.contextmanager
def stranger(scene: Scene, work: Path) -> Iterator[None]:
    """A WireGuard of somebody's own outside of the cluster, which knows a node's public key and address."""
    name, enter = "stranger", ["ip", "netns", "exec", scene.bed.plan.switch]
    (binary,) = (scene.bed.nodes[0].home / "data/plugins").glob("*/rootfs/usr/bin/wireguard-go")
    key = work / "key"
    key.write_text(generate())
    (row,) = [row for row in scene.cluster(2)["nodes"] if row["self"]]
    with subprocess.Popen([*enter, binary, "-f", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(name, Path(f"/var/run/wireguard/{name}.sock").exists, 60)
            peer = ["peer", str(row["public_key"]), "endpoint", f"{scene.bed.nodes[1].address}:{PORT}"]
            run(*enter, "wg", "set", name, "private-key", key, *peer, "allowed-ips", f"{scene.mesh(2)}/32")
            run(*enter, "ip", "link", "set", name, "up")
            run(*enter, "ip", "route", "add", f"{scene.mesh(2)}/32", "dev", name)
            yield
        finally:
            process.terminate()


def test_who_does_not_take_its_answers_keeps_nobody_from_theirs(scene: Scene) -> None:
    """An answer waits in the kernel until it is known who has the asker's address; some see to it that nobody has."""
    bench = scene.bench[1]
    bench.serve("deaf", "shop-staging", "--sysctl", "net.ipv4.conf.all.arp_ignore=8")
    nobody = [str(ipaddress.ip_address(scene.address["d1"][4]) + number) for number in range(100, 110)]

    def inside(who: str, script: str, *words: object) -> str:
        return bench.docker("exec", who, "python3", "-c", script, *map(str, words))

    try:
        with ThreadPoolExecutor(2) as pool:
            floods = [pool.submit(inside, "deaf", FLOOD, 16), pool.submit(inside, "d1", FLOOD, 16, *nobody)]
            time.sleep(8)
            asked, lost = map(int, inside("a1", ASK, 6).split())
            for flood in floods:
                flood.result()
        assert asked > 1
        assert not lost
    finally:
        bench.docker("rm", "--force", "deaf")
