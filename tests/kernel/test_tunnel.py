"""The tunnel's addresses and routes, in a real kernel; one end of a pair stands where WireGuard's link would be."""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugin.kernel.tunnel import Tunnel, TunnelLink, resolvers
from plugin.model import IPNet, ip_network
from plugin.naming import MESH_LINK, RESOLVER, RESOLVERS
from stackpad.errors import Unavailable
from tests.netns import PROC

ADDRESSES = frozenset(map(ipaddress.ip_address, ("10.192.0.1", "fd00:53::1")))
CLUSTER = frozenset(map(ip_network, ("10.192.0.0/10", "fd00:53::/48")))


def nets(*given: str, mtu: int = 1420) -> dict[IPNet, int]:
    return {ip_network(text): mtu for text in given}


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def pair(name: str) -> None:
    """A link that is up: one end of a pair."""
    ip("link", "add", name, "mtu", "1420", "type", "veth", "peer", "name", f"{name}-far")
    ip("link", "set", f"{name}-far", "up")
    ip("link", "set", name, "up")


@pytest.fixture
def tunnel(netns: None) -> Iterator[TunnelLink]:
    """Addresses and routes of a namespace with a link where the tunnel's would be."""
    pair(MESH_LINK)
    made = TunnelLink()
    try:
        yield made
    finally:
        made.close()


def wanted(**changes: object) -> Tunnel:
    values: dict[str, object] = {
        "addresses": ADDRESSES,
        "routes": nets("10.192.64.0/18", "fd00:53:0:100::/56"),
        "fenced": CLUSTER,
        "loopback": resolvers() | ADDRESSES,
    }
    return Tunnel(**{**values, **changes})  # type: ignore[arg-type]


def test_what_is_wanted_is_there_and_a_second_time_nothing_is_written(tunnel: TunnelLink) -> None:
    assert tunnel.apply(wanted())
    assert tunnel.observe() == wanted()
    assert not tunnel.apply(wanted())
    assert {str(address) for address in resolvers()} == set(RESOLVERS)
    assert f"dev {MESH_LINK}" in ip("route", "get", "10.192.65.2")


@pytest.mark.parametrize(
    "changes",
    [
        {"mtu": 1320, "routes": nets("10.192.64.0/18", "fd00:53:0:100::/56", mtu=1320)},
        {"addresses": frozenset()},
        {"routes": nets("10.192.64.0/18", mtu=1320)},
        {"routes": nets("10.192.128.0/18", "192.0.2.0/24")},
        {"fenced": CLUSTER | {ip_network("192.0.2.0/24")}},
        {"loopback": frozenset()},
        {"loopback": resolvers()},
    ],
)
def test_a_change_is_made_and_taken_back(tunnel: TunnelLink, changes: dict[str, object]) -> None:
    for this in (wanted(), wanted(**changes), wanted()):
        tunnel.apply(this)
        assert tunnel.observe() == this


def test_without_its_link_nothing_leaves_by_another_way(tunnel: TunnelLink) -> None:
    pair("uplink0")
    ip("addr", "add", "198.51.100.9/24", "dev", "uplink0")
    ip("route", "add", "default", "via", "198.51.100.1")
    tunnel.apply(wanted())
    ip("link", "del", MESH_LINK)
    assert subprocess.run(["ip", "route", "get", "10.192.65.2"], capture_output=True, check=False).returncode == 2
    with pytest.raises(Unavailable, match=f"there is no link {MESH_LINK}"):
        tunnel.apply(wanted())
    tunnel.apply(Tunnel(0))
    assert "via 198.51.100.1" in ip("route", "get", "10.192.65.2")
    assert tunnel.observe() == Tunnel(0)


def test_what_the_node_says_to_itself_goes_on_without_the_link(tunnel: TunnelLink) -> None:
    ip("addr", "add", "203.0.113.7/32", "dev", "lo")
    tunnel.apply(wanted())
    ip("link", "del", MESH_LINK)
    for address in ADDRESSES:
        assert "dev lo" in ip("route", "get", str(address))
    tunnel.apply(Tunnel(0))
    assert "203.0.113.7" in ip("addr", "show", "dev", "lo"), "an address of the operator's stays"


@pytest.mark.parametrize(("net", "address"), [("172.18.0.0/16", "172.18.0.1/16"), ("fd00:18::/64", "fd00:18::1/64")])
def test_a_route_of_somebody_else_to_the_same_range_stays(tunnel: TunnelLink, net: str, address: str) -> None:
    """An ordinary Docker network's; whether it was there first or came later."""
    version = f"-{ip_network(net).version}"

    def theirs() -> str:
        return ip(version, "route", "show", net, "dev", "br-x")

    pair("br-x")
    ip("addr", "add", address, "dev", "br-x", *(["nodad"] if version == "-6" else []))
    if version == "-4":
        with pytest.raises(Unavailable, match=f"the kernel refused to route {net}"):
            tunnel.apply(wanted(routes=nets(net)))
        assert theirs()
        assert not ip("route", "show", net, "dev", MESH_LINK)
    ip("addr", "del", address, "dev", "br-x")
    tunnel.apply(wanted(routes=nets(net)))
    assert not theirs()
    assert ip(version, "route", "show", net, "dev", MESH_LINK)
    ip("addr", "add", address, "dev", "br-x", *(["nodad"] if version == "-6" else []))
    for this in (wanted(routes=nets(net, mtu=1300)), wanted()):
        tunnel.apply(this)
        assert theirs()
    assert not ip(version, "route", "show", net, "dev", MESH_LINK)


def test_what_an_operator_made_unreachable_stays_theirs(tunnel: TunnelLink) -> None:
    ip("route", "add", "unreachable", "10.192.0.0/10", "metric", str(2**31), "proto", "static")
    with pytest.raises(Unavailable, match=r"the kernel refused to route 10\.192\.0\.0/10"):
        tunnel.apply(wanted())
    tunnel.apply(wanted(fenced=frozenset()))
    assert "proto static" in ip("route", "show", "type", "unreachable")


def test_the_fence_needs_no_link_and_takes_nothing_away(tunnel: TunnelLink) -> None:
    tunnel.apply(wanted())
    more = wanted(fenced=frozenset({ip_network("172.30.0.0/24")}), routes={}, addresses=frozenset())
    tunnel.fence(more)
    assert tunnel.observe() == wanted(fenced=CLUSTER | more.fenced)
    ip("link", "del", MESH_LINK)
    tunnel.apply(Tunnel(0))
    tunnel.fence(wanted())
    assert tunnel.observe() == Tunnel(0, fenced=CLUSTER, loopback=resolvers() | ADDRESSES)


def test_without_ipv6_the_resolver_has_its_other_address(tunnel: TunnelLink) -> None:
    Path(PROC / "sys/net/ipv6/conf/lo/disable_ipv6").write_text("1")
    assert {str(address) for address in resolvers()} == {RESOLVER}
    only4 = Tunnel(
        addresses=frozenset(address for address in ADDRESSES if address.version == 4),
        routes=nets("10.192.64.0/18"),
        loopback=resolvers(),
    )
    assert tunnel.apply(only4)
    assert tunnel.observe() == only4
