"""What the plugin believes of the node: addresses, ways out, routes of others."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address

import pytest

from plugin.kernel.dataplane import FILTER, Element
from plugin.kernel.node import DEFAULT_MTU, Node, NodeFacts, Route
from tests.netns import PROC, ip


@pytest.fixture
def node(netns: None) -> Iterator[Node]:
    opened = Node(PROC)
    yield opened
    opened.close()


def pair(name: str, *addresses: str, mtu: int = 1500) -> None:
    """A link that is up, with addresses; its other end is up too, or it would have no carrier."""
    ip("link", "add", name, "mtu", str(mtu), "type", "veth", "peer", "name", f"{name}-far")
    ip("link", "set", f"{name}-far", "up")
    up(name, *addresses)


def bridge(name: str, *addresses: str) -> None:
    ip("link", "add", name, "type", "bridge")
    up(name, *addresses)


def up(name: str, *addresses: str) -> None:
    for address in addresses:
        ip("addr", "add", address, "dev", name, *(["nodad"] if ":" in address else []))
    ip("link", "set", name, "up")


def texts(facts: NodeFacts) -> set[str]:
    return {str(address) for address in facts.addresses}


def test_a_node_with_nothing(node: Node) -> None:
    assert node.facts() == NodeFacts(DEFAULT_MTU, frozenset(), frozenset())
    assert node.routes() == []


def test_a_node_with_an_uplink(node: Node) -> None:
    pair("eth0", "192.0.2.5/24", "2001:db8::5/64", mtu=1450)
    ip("route", "add", "default", "via", "192.0.2.1")
    facts = node.facts()
    own, router = frozenset(map(ip_address, ("192.0.2.5", "2001:db8::5"))), frozenset({ip_address("192.0.2.1")})
    assert facts == NodeFacts(1450, own, frozenset(), router)
    assert facts.elements == {Element(FILTER, "node4", "192.0.2.5"), Element(FILTER, "node6", "2001:db8::5")}


def test_a_bridge_with_a_way_out_is_an_uplink_and_one_without_is_some_engines(node: Node) -> None:
    bridge("br0", "192.0.2.5/24")
    bridge("docker0", "172.17.0.1/16")
    bridge("sp-0123456789ab", "10.192.0.1/24")
    ip("route", "add", "default", "via", "192.0.2.1")
    facts = node.facts()
    assert texts(facts) == {"192.0.2.5"}
    assert facts.uplink_bridges == {"br0"}


def test_a_way_out_may_be_for_ipv6_only(node: Node) -> None:
    bridge("br0", "2001:db8::5/64")
    ip("-6", "route", "add", "default", "via", "2001:db8::1")
    facts = node.facts()
    assert facts.uplink_bridges == {"br0"}
    assert facts.gateways == {ip_address("2001:db8::1")}


def test_a_way_out_may_have_no_gateway(node: Node) -> None:
    """As with PPP, and in clouds that route a single address."""
    pair("ppp0", "192.0.2.5/32", mtu=1492)
    ip("route", "add", "default", "dev", "ppp0")
    assert node.facts().mtu == 1492


def test_the_least_mtu_of_all_ways_out_counts(node: Node) -> None:
    pair("eth0", "192.0.2.5/24", mtu=9000)
    pair("wg0", "203.0.113.5/24", mtu=1420)
    pair("eth9", "198.51.100.5/24", mtu=1280)
    ip("route", "add", "default", "via", "192.0.2.1")
    ip("route", "add", "10.0.0.0/8", "via", "203.0.113.1")
    assert node.facts().mtu == 1420


def test_a_bridges_port_has_no_address_of_its_own(node: Node) -> None:
    bridge("br0", "192.0.2.5/24")
    pair("eth0", "203.0.113.5/24")
    ip("link", "set", "eth0", "master", "br0")
    ip("route", "add", "default", "via", "192.0.2.1")
    assert texts(node.facts()) == {"192.0.2.5"}


def test_routes_of_others_are_told_apart(node: Node) -> None:
    pair("eth0", "192.0.2.5/24", "2001:db8::5/64")
    bridge("sp-0123456789ab", "10.192.0.1/24", "fd00::1/64")
    ip("route", "add", "default", "via", "192.0.2.1")
    ip("route", "add", "10.0.0.0/8", "via", "192.0.2.1")
    ip("route", "add", "172.20.128.0/17", "dev", "eth0")
    ip("route", "add", "unreachable", "172.31.0.0/16")
    ip("-6", "route", "add", "fd77::/48", "via", "2001:db8::1")
    found = node.routes()
    assert set(found) == {
        Route(IPv4Network("192.0.2.0/24"), "eth0", on_link=True),
        Route(IPv4Network("10.0.0.0/8"), "eth0", on_link=False, gateway=ip_address("192.0.2.1")),
        Route(IPv4Network("172.20.128.0/17"), "eth0", on_link=True),
        Route(IPv6Network("2001:db8::/64"), "eth0", on_link=True),
        Route(IPv6Network("fd77::/48"), "eth0", on_link=False, gateway=ip_address("2001:db8::1")),
    }
    assert sorted(map(str, found)) == ["a route through device eth0"] * 2 + ["device eth0"] * 3
