"""Who reaches whom: the whole matrix, with the same servers everywhere, on IPv4 and IPv6, TCP, UDP and ICMP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.workbench import Target, Workbench, everything
from tests.testbed.testbed import Testbed

INTERNET, INTERNET6, METADATA = "198.51.100.1", "2001:db8:ffff::1", "169.254.169.254"
DUAL = ("--ipv6", "--ipam-driver", "stackpad")
SPOOFER = ("--cap-add", "NET_ADMIN", "--cap-add", "NET_RAW")


class Scene:
    """Two environments, an internal one, and a network of Docker's own, each with a server and somebody to ask."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.address: dict[str, dict[int, str]] = {}
        bench.network("shop-production", *DUAL)
        bench.network("shop-staging", *DUAL)
        bench.network("inner", *DUAL, "--internal")
        bench.docker("network", "create", "dockers-own")
        for name, network in (
            ("a1", "shop-production"), ("a2", "shop-production"), ("b1", "shop-staging"), ("i1", "inner"),
            ("i2", "inner"), ("d1", "dockers-own"),
        ):  # fmt: skip
            options = [*SPOOFER, *(["--network-alias", "postgres"] if name in {"a2", "b1"} else [])]
            bench.serve(name, network, *options)
            self.address[name] = {4: bench.node.address_of(name, network), 6: bench.node.address_of(name, network, 6)}

    def gateway(self, network: str, version: int) -> str:
        """The gateway address of a network."""
        found = next(row for row in self.bench.admin("/networks") if row["name"] == network)
        gateways = [str(text).partition("/")[0] for text in found["gateways"]]
        return next(text for text in gateways if (":" in text) == (version == 6))


@pytest.fixture(scope="module")
def scene(bed: Testbed) -> Iterator[Scene]:
    """The scene, once for all questions."""
    bench = Workbench(bed)
    yield Scene(bench)
    bench.clear()


@pytest.mark.replay("S4", "S6")
@pytest.mark.parametrize("version", [4, 6])
def test_same_environment_is_reachable(scene: Scene, version: int) -> None:
    assert scene.bench.reaches("a1", *everything(scene.address["a2"][version]))
    assert scene.bench.reaches("i1", *everything(scene.address["i2"][version]))


@pytest.mark.replay("S4", "S6")
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("who", "whom"), [("a1", "b1"), ("b1", "a1"), ("a1", "i1"), ("i1", "a1")])
def test_other_environment_is_not(scene: Scene, who: str, whom: str, version: int) -> None:
    assert scene.bench.cut_off(who, *everything(scene.address[whom][version]))


@pytest.mark.parametrize(("who", "whom"), [("a1", "d1"), ("d1", "a1"), ("i1", "d1"), ("d1", "i1")])
def test_dockers_own_networks_are_not_in_either_direction(scene: Scene, who: str, whom: str) -> None:
    assert scene.bench.cut_off(who, *everything(scene.address[whom][4]))


@pytest.mark.parametrize("version", [4, 6])
def test_internet_is_reachable_unless_internal(scene: Scene, version: int) -> None:
    outside = Target("icmp", INTERNET if version == 4 else INTERNET6)
    assert scene.bench.reaches("a1", outside)
    assert scene.bench.cut_off("i1", outside)


@pytest.mark.replay("S5")
def test_an_internal_network_has_no_way_out_even_by_a_route_of_its_own(scene: Scene) -> None:
    gateway = scene.gateway("inner", 4)
    scene.bench.docker("exec", "i1", "ip", "route", "add", "default", "via", gateway)
    try:
        assert scene.bench.cut_off("i1", Target("icmp", INTERNET))
        assert scene.bench.cut_off("i1", *everything(scene.address["a1"][4]))
        assert scene.bench.cut_off("i1", *(Target("tcp", scene.bench.node.address, port) for port in (80, 443)))
    finally:
        scene.bench.docker("exec", "i1", "ip", "route", "del", "default")


@pytest.mark.parametrize("who", ["a1", "i1"])
def test_metadata_service_is_not(scene: Scene, who: str) -> None:
    assert scene.bench.ask_from_node(Target("icmp", METADATA)) == ["ok"], "the node itself must reach it"
    assert scene.bench.cut_off(who, Target("icmp", METADATA))


@pytest.mark.parametrize("version", [4, 6])
def test_services_of_the_node_are_not_but_ping_is(scene: Scene, version: int) -> None:
    node = scene.bench.node
    address = node.address if version == 4 else node.address6
    own, other = scene.gateway("shop-production", version), scene.gateway("shop-staging", version)
    with scene.bench.node_service(2222):
        assert all(scene.bench.ask_from_outside(Target("tcp", address, 2222))), "the outside must reach it"
        for target in (address, own, other):
            assert scene.bench.cut_off("a1", Target("tcp", target, 2222))
            assert scene.bench.cut_off("a1", Target("udp", target, 2222))
        assert scene.bench.reaches("a1", Target("icmp", address), Target("icmp", own))
        assert scene.bench.cut_off("a1", Target("icmp", other)), "another environment's gateway"


def test_the_nodes_web_ports_are_reachable_by_its_address(scene: Scene) -> None:
    code, text = scene.bench.node.inside(
        "a1", "curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", f"http://{scene.bench.node.address}/"
    )
    assert (code, text) == (0, "308")


@pytest.mark.parametrize("version", [4, 6])
def test_spoofed_source_addresses_go_nowhere(scene: Scene, version: int) -> None:
    forged = scene.address["b1"][version]
    bits = "32" if version == 4 else "128"
    scene.bench.docker("exec", "a1", "ip", "addr", "add", f"{forged}/{bits}", "dev", "eth0", *_nodad(version))
    try:
        neighbour = scene.address["a2"][version]
        assert scene.bench.cut_off("a1", *(Target(kind, neighbour, 80, forged) for kind in ("udp", "icmp")))
        outside = INTERNET if version == 4 else INTERNET6
        assert scene.bench.cut_off("a1", Target("icmp", outside, 0, forged))
    finally:
        scene.bench.docker("exec", "a1", "ip", "addr", "del", f"{forged}/{bits}", "dev", "eth0")


def test_a_neighbours_address_cannot_be_taken_by_arp(scene: Scene) -> None:
    victim = scene.address["a2"][4]
    code, _ = scene.bench.node.inside("a1", "arping", "-c1", "-w2", "-U", "-s", victim, "-I", "eth0", victim)
    assert scene.bench.reaches("a2", Target("icmp", scene.address["a1"][4]))
    table = scene.bench.exec("ip", "neigh", "show", victim).stdout
    mac = scene.bench.docker("exec", "a1", "cat", "/sys/class/net/eth0/address").strip()
    assert mac not in table, f"the node believed it (arping ended with {code})"


def test_another_mac_address_goes_nowhere(scene: Scene) -> None:
    before = scene.bench.docker("exec", "a1", "cat", "/sys/class/net/eth0/address").strip()
    scene.bench.docker("exec", "a1", "ip", "link", "set", "eth0", "address", "02:de:ad:be:ef:01")
    try:
        assert scene.bench.cut_off("a1", *everything(scene.address["a2"][4]))
    finally:
        scene.bench.docker("exec", "a1", "ip", "link", "set", "eth0", "address", before)
    assert scene.bench.reaches("a1", Target("icmp", scene.address["a2"][4]))


def test_names_are_the_environments_own(scene: Scene) -> None:
    resolve = "import socket; print(socket.gethostbyname('postgres'))"
    for who, expected in (("a1", "a2"), ("b1", "b1")):
        assert scene.bench.docker("exec", who, "python3", "-c", resolve).strip() == scene.address[expected][4]
    code, text = scene.bench.node.inside("a1", "python3", "-c", "import socket; socket.gethostbyname('i1')")
    assert code != 0, text


def test_the_rules_stay_when_the_plugin_is_gone(scene: Scene) -> None:
    scene.bench.docker("plugin", "disable", "--force", "stackpad/net")
    try:
        assert scene.bench.reaches("a1", *everything(scene.address["a2"][4]), Target("icmp", INTERNET))
        assert scene.bench.cut_off("a1", *everything(scene.address["b1"][4]))
        assert scene.bench.cut_off("a1", Target("icmp", METADATA))
    finally:
        scene.bench.docker("plugin", "enable", "stackpad/net")
        scene.bench.wait_plugin()


def _nodad(version: int) -> list[str]:
    return ["nodad"] if version == 6 else []
