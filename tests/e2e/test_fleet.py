"""Three nodes, one cluster: who reaches and finds whom, and who does not. The servers are the same everywhere."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.workbench import BRIEF, Target, Workbench, eventually, everything
from tests.testbed.plan import INTERNET_NAME
from tests.testbed.testbed import Testbed

DUAL = ("--ipv6", "--ipam-driver", "stackpad")
MIGHTY = ("--cap-add", "NET_ADMIN", "--cap-add", "NET_RAW")
INTERNET = "198.51.100.1"
NODES = (1, 2, 3)
PLACES = {
    **{f"a{number}": (number, "shop-production") for number in NODES},
    **{f"b{number}": (number, "shop-staging") for number in NODES},
    "i1": (1, "inner"),
    "i2": (2, "inner"),
}
"""Containers by name: their node and their environment."""

RESOLVE = """
import socket, sys
try:
    print(*sorted({found[4][0].removeprefix("::ffff:") for found in socket.getaddrinfo(sys.argv[1], 80)}))
except OSError:
    print()
"""


class Scene:
    """Two environments on all nodes, an internal one on two, each with a server that may forge what it likes."""

    def __init__(self, bed: Testbed) -> None:
        self.bed = bed
        self.bench = {number: Workbench(bed, number) for number in NODES}
        self.address: dict[str, dict[int, str]] = {}
        for number in NODES:
            for environment in ("shop-production", "shop-staging"):
                self.bench[number].network(environment, *DUAL)
        for number in (1, 2):
            self.bench[number].network("inner", *DUAL, "--internal")
        for name, (number, environment) in PLACES.items():
            bench = self.bench[number]
            alias = ["--network-alias", "postgres"] if name in {"a2", "b3"} else []
            bench.serve(name, environment, *MIGHTY, *alias)
            self.address[name] = {
                4: bench.node.address_of(name, environment),
                6: bench.node.address_of(name, environment, 6),
            }

    def at(self, name: str) -> Workbench:
        """The node a container is on."""
        return self.bench[PLACES[name][0]]

    def resolve(self, who: str, name: str) -> set[str]:
        """What a container finds by a name, with its own C library."""
        return set(self.at(who).docker("exec", who, "python3", "-c", RESOLVE, name).split())

    def reaches(self, who: str, whom: str, version: int) -> bool:
        """Whether a container gets an answer from another by TCP, UDP and ICMP."""
        return self.at(who).reaches(who, *everything(self.address[whom][version]))

    def gets_nothing(self, who: str, address: str, port: int = 80) -> bool:
        """Whether a container gets no answer of any kind."""
        return self.at(who).cut_off(who, *everything(address, port))

    def mesh(self, number: int) -> str:
        """A node's address in the tunnel."""
        (row,) = [row for row in self.cluster(number)["nodes"] if row["self"]]
        return str(row["mesh"][0])

    def cluster(self, number: int = 1) -> dict[str, list[dict[str, list[str]]]]:
        """What a node says of the cluster."""
        return dict(json.loads(self.bench[number].node.stackpad("node", "ls", "--json", check=False).stdout))


@pytest.fixture(scope="module")
def scene(fleet: Testbed) -> Iterator[Scene]:
    """The scene, once for all questions."""
    made = Scene(fleet)
    others = [(who, whom) for who in ("a1", "a2", "a3") for whom in ("a1", "a2", "a3") if who != whom]
    eventually(lambda: all(made.resolve(*pair) and made.reaches(*pair, 4) for pair in others), "the nodes to meet", 60)
    yield made
    for bench in made.bench.values():
        bench.clear()


@pytest.mark.replay("S4")
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("who", "whom"), [("a1", "a2"), ("a2", "a3"), ("a3", "a1"), ("i1", "i2"), ("i2", "i1")])
def test_same_environment_is_reached_on_other_nodes(scene: Scene, who: str, whom: str, version: int) -> None:
    assert scene.reaches(who, whom, version)


@pytest.mark.replay("S4")
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("who", "whom"), [("a1", "b2"), ("a2", "b3"), ("b3", "a1"), ("a3", "b1"), ("i1", "a2"), ("a1", "i2"), ("b2", "i1")]
)
def test_other_environments_are_not(scene: Scene, who: str, whom: str, version: int) -> None:
    assert scene.gets_nothing(who, scene.address[whom][version])


@pytest.mark.replay("S22")
@pytest.mark.parametrize("who", ["a1", "a2", "a3"])
def test_names_are_those_of_the_environment(scene: Scene, who: str) -> None:
    for name in ("a1", "a2", "a3"):
        assert scene.address[name][4] in scene.resolve(who, name)
        if name != who:
            assert set(scene.address[name].values()) == scene.resolve(who, name)
            if PLACES[name][0] != PLACES[who][0]:
                assert set(scene.address[name].values()) == scene.resolve(who, f"{name}.shop-production")
    assert scene.resolve(who, "postgres") == set(scene.address["a2"].values())
    for name in ("b1", "b2", "b3", "i1", "i2", "b2.shop-staging", "postgres.shop-staging"):
        assert scene.resolve(who, name) == set()


@pytest.mark.replay("S12")
def test_containers_without_ipv4_have_names_too(scene: Scene) -> None:
    able = [number for number in NODES if int(scene.bench[number].node.engine_version().split(".")[0]) >= 28]
    if len(able) < 2:
        pytest.skip("two engines of version 28 or later are needed: older ones have no networks without IPv4")
    names = dict(zip(("x1", "x2"), able, strict=False))
    for name, number in names.items():
        scene.bench[number].network("six-production", "--ipam-driver", "stackpad", "--ipv6", "--ipv4=false")
        scene.bench[number].serve(name, "six-production")
    (one, first), (other, second) = names.items()
    there = scene.bench[second].node.address_of(other, "six-production", 6)
    resolve = ("exec", one, "python3", "-c", RESOLVE)
    eventually(lambda: set(scene.bench[first].docker(*resolve, other).split()) == {there}, "the name", 15)
    assert scene.bench[first].reaches(one, *everything(there))
    assert scene.bench[first].docker(*resolve, INTERNET_NAME).split() == [INTERNET]
    assert not scene.bench[first].docker(*resolve, "a1").split()


@pytest.mark.replay("S5")
def test_an_internal_environment_has_names_and_no_outside(scene: Scene) -> None:
    assert scene.resolve("i1", "i2") == set(scene.address["i2"].values())
    assert scene.resolve("i1", "a2") == set()
    assert scene.resolve("a1", INTERNET_NAME) == {INTERNET}
    assert scene.resolve("i1", INTERNET_NAME) == set()
    assert scene.gets_nothing("i1", INTERNET)


@pytest.mark.replay("S30")
def test_a_container_reaches_nothing_of_other_nodes(scene: Scene) -> None:
    """Not their addresses in the tunnel, nor store, join service and resolver there, nor those of its own node."""
    ports = (80, 2379, 4783, 53, 9483)
    targets = [target for number in NODES for port in ports for target in everything(scene.mesh(number), port)]
    for who in ("a1", "a2"):
        assert scene.at(who).cut_off(who, *targets)


@pytest.mark.parametrize("version", [4, 6])
def test_a_forged_source_of_another_environment_gets_nowhere(scene: Scene, version: int) -> None:
    """As root in a container, with the address of one of the other environment, on its own and on another node."""
    prefix = 32 if version == 4 else 128
    for victim in ("b1", "b2"):
        forged = scene.address[victim][version]
        scene.at("a1").docker("exec", "a1", "ip", "addr", "add", f"{forged}/{prefix}", "dev", "eth0")
        try:
            for kind in ("tcp", "udp", "icmp"):
                assert scene.at("a1").cut_off("a1", Target(kind, scene.address["b3"][version], source=forged))
                assert scene.at("a1").cut_off("a1", Target(kind, scene.address["a3"][version], source=forged))
        finally:
            scene.at("a1").docker("exec", "a1", "ip", "addr", "del", f"{forged}/{prefix}", "dev", "eth0")


def test_the_receiver_does_not_trust_the_sender(scene: Scene) -> None:
    """Root on another node is a member and no more: neither with its own address nor with one of a third node."""
    asked = [Target(kind, scene.address["a2"][4]) for kind in ("tcp", "udp", "icmp")]
    assert not any(scene.bench[1].ask_from_node(*asked, patience=BRIEF))
    third = scene.address["a3"][4]
    scene.bench[1].exec("ip", "addr", "add", f"{third}/32", "dev", "eth0")
    try:
        forged = [Target(target.kind, target.address, source=third) for target in asked]
        assert not any(scene.bench[1].ask_from_node(*forged, patience=BRIEF))
    finally:
        scene.bench[1].exec("ip", "addr", "del", f"{third}/32", "dev", "eth0")


def test_somebody_outside_gets_nowhere(scene: Scene) -> None:
    """With a route to the cluster's range by a node, and with words for its WireGuard port."""
    outside = ["ip", "netns", "exec", scene.bed.plan.switch]
    targets = [scene.address["a1"][4], scene.mesh(1), "169.254.53.53"]
    node = scene.bed.nodes[0].address
    assert scene.bench[1].ask_from_outside(Target("udp", node, 51820), patience=BRIEF) == [""]
    for target in targets:
        subprocess.run([*outside, "ip", "route", "add", f"{target}/32", "via", node], check=True)
        try:
            asked = [
                *everything(target),
                Target("tcp", target, 2379),
                Target("tcp", target, 4783),
                Target("udp", target, 53),
            ]
            heard = scene.bench[1].ask_from_outside(*(t for t in asked if t.kind != "icmp"), patience=BRIEF)
            assert not any(heard)
        finally:
            subprocess.run([*outside, "ip", "route", "del", f"{target}/32", "via", node], check=True)
    assert scene.reaches("a1", "a2", 4)


@pytest.mark.replay("S29", "S42")
def test_nothing_is_in_clear_on_the_underlay(scene: Scene) -> None:
    words = [
        "ip",
        "netns",
        "exec",
        scene.bed.nodes[0].spec.netns,
        "tcpdump",
        "--immediate-mode",
        "-i",
        "eth0",
        "-U",
        "-w",
        "-",
        "-s",
        "0",
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as capture:
        assert capture.stderr is not None
        while b"listening on" not in capture.stderr.readline():
            assert capture.poll() is None
        for version in (4, 6):
            assert scene.reaches("a1", "a2", version)
        scene.resolve("a1", "a3")
        capture.terminate()
        seen, _ = capture.communicate(timeout=20)
    assert (51820).to_bytes(2, "big") in seen
    assert b"hello" not in seen
    for name in ("a1", "a2"):
        packed = bytes(int(part) for part in scene.address[name][4].split("."))
        assert packed not in seen


@pytest.mark.parametrize("version", [4, 6])
def test_large_packets_pass(scene: Scene, version: int) -> None:
    """10 kB in one ping: in pieces on the bridge, whole again in the other container."""
    done = scene.at("a1").node.inside("a1", "ping", "-c", "3", "-i", "0.3", "-s", "10000", scene.address["a2"][version])
    assert done[0] == 0, done[1]
    mtu = scene.at("a1").docker("exec", "a1", "cat", "/sys/class/net/eth0/mtu").strip()
    assert int(mtu) == 1420
