"""Three nodes, one cluster: who reaches and finds whom, and who does not. The servers are the same everywhere."""

from __future__ import annotations

import contextlib

import pytest

from tests.e2e.scene import INTERNET, NODES, PLACES, PUBLISHED, RESOLVE, Scene
from tests.e2e.workbench import PATIENT, Target, eventually, everything
from tests.testbed.plan import INTERNET_NAME

METADATA = "169.254.169.254"


@pytest.fixture
def scene(three: Scene) -> Scene:
    """Short for it."""
    return three


def others(who: str) -> list[str]:
    """The containers with addresses of ours, this one left out."""
    return [name for name in PLACES if name != who and not name.startswith("d")]


@pytest.mark.replay("S4")
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("who", ["a1", "a2", "a3", "b1", "b2", "b3", "i1", "i2"])
def test_same_environment_is_reached_on_other_nodes(scene: Scene, who: str, version: int) -> None:
    """Every one from every one, by TCP, UDP and ping."""
    same = {name: everything(scene.address[name][version]) for name in others(who) if name[0] == who[0]}
    assert scene.answered(who, same, PATIENT) == dict.fromkeys(same, 3)


@pytest.mark.replay("S4")
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("who", ["a1", "a2", "a3", "b1", "b2", "b3", "i1", "i2"])
def test_other_environments_are_not(scene: Scene, who: str, version: int) -> None:
    other = {name: everything(scene.address[name][version]) for name in others(who) if name[0] != who[0]}
    assert scene.answered(who, other) == dict.fromkeys(other, 0)


@pytest.mark.parametrize("who", ["d1", "d2", "d3"])
def test_dockers_own_bridge_reaches_no_container_of_any_node(scene: Scene, who: str) -> None:
    assert scene.at(who).reaches(who, Target("icmp", INTERNET)), "it has a way out"
    ours = {name: everything(scene.address[name][4]) for name in others(who)}
    assert scene.answered(who, ours) == dict.fromkeys(ours, 0)


@pytest.mark.parametrize("who", ["a1", "a2", "a3"])
def test_dockers_own_bridges_of_other_nodes_are_not_reached(scene: Scene, who: str) -> None:
    """Also where a container sends to its address by a route of its own: ``docker0`` has the same range everywhere."""
    theirs = {name: everything(scene.address[name][4]) for name in ("d1", "d2", "d3")}
    assert scene.answered(who, theirs) == dict.fromkeys(theirs, 0)


@pytest.mark.parametrize(
    ("who", "version"),
    [*((f"a{number}", version) for number in NODES for version in (4, 6)), *((f"d{number}", 4) for number in NODES)],
)
def test_what_other_nodes_publish_is_reached_by_their_addresses(scene: Scene, who: str, version: int) -> None:
    """As from anywhere; of another environment, too. (Docker's own bridge has no IPv6 unless it is set up.)"""
    nodes = {node.name: node.address if version == 4 else node.address6 for node in scene.bed.nodes}
    asked = {name: [Target(kind, address, PUBLISHED) for kind in ("tcp", "udp")] for name, address in nodes.items()}
    assert scene.answered(who, asked, PATIENT) == dict.fromkeys(asked, 2)


@pytest.mark.parametrize("who", ["i1", "i2"])
def test_an_internal_network_reaches_nothing_that_is_published(scene: Scene, who: str) -> None:
    asked = {
        node.name: [
            Target(kind, address, PUBLISHED) for kind in ("tcp", "udp") for address in (node.address, node.address6)
        ]
        for node in scene.bed.nodes
    }
    assert scene.answered(who, asked) == dict.fromkeys(asked, 0)


@pytest.mark.parametrize("who", ["a1", "a2", "a3"])
def test_no_container_reaches_the_clouds_metadata(scene: Scene, who: str) -> None:
    assert scene.at(who).ask_from_node(Target("icmp", METADATA)) == ["ok"], "the node itself must reach it"
    assert scene.gets_nothing(who, METADATA)


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
    eventually(lambda: set(scene.bench[first].docker(*resolve, other).split()) == {there}, "the name")
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
    ports, own = (80, 2379, 4783, 53, 9483), 2222
    mesh = [scene.mesh(number, version) for number in NODES for version in (4, 6)]
    with contextlib.ExitStack() as stack:
        for number in NODES:
            stack.enter_context(scene.bench[number].node_service(own))
            assert all(scene.bench[number].ask_from_node(Target("tcp", scene.mesh(number), own))), "it must be there"
        targets = {address: [t for port in (*ports, own) for t in everything(address, port)] for address in mesh}
        for who in ("a1", "a2", "a3"):
            assert scene.answered(who, targets) == dict.fromkeys(targets, 0)


@pytest.mark.parametrize("version", [4, 6])
def test_large_packets_pass(scene: Scene, version: int) -> None:
    """10 kB in one ping: in pieces on the bridge, whole again in the other container."""
    done = scene.at("a1").node.inside("a1", "ping", "-c", "3", "-i", "0.3", "-s", "10000", scene.address["a2"][version])
    assert done[0] == 0, done[1]
    mtu = scene.at("a1").docker("exec", "a1", "cat", "/sys/class/net/eth0/mtu").strip()
    assert int(mtu) == 1420
