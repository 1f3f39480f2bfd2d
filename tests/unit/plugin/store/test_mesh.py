"""From the cluster's records to peers, routes and rules."""

from __future__ import annotations

import base64
import ipaddress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.kernel.dataplane import FILTER, Element
from plugin.model import ip_network
from plugin.store import mesh
from plugin.store.mesh import Guest, View
from stackpad import records

SECRET = bytes(32)


def key(number: int) -> str:
    return base64.b64encode(bytes([number]) * 32).decode()


def node(number: int, **changes: Any) -> records.Node:
    values: dict[str, Any] = {
        "owner": f"n{number}",
        "name": f"worker-{number}",
        "public_keys": (key(number),),
        "endpoints": (f"192.0.2.{number}:51820",),
        "mesh4": f"10.192.{64 * number}.1",
        "mesh6": f"fd00:0:0:{number}00::1",
    }
    return records.Node(**{**values, **changes})


def block(number: int, owner: int | None = None) -> list[records.Range]:
    holder = f"n{number if owner is None else owner}"
    nets = (f"10.192.{64 * number}.0/18", f"fd00:0:0:{number}00::/56")
    return [records.Range(owner=holder, net=net, block=True) for net in nets]


def part(number: int, environment: str, *subnets: str) -> records.Network:
    return records.Network(owner=f"n{number}", id=f"{environment}-{number}", environment=environment, subnets=subnets)


def view(*nodes: records.Node, ranges: list[records.Range], networks: list[records.Network] | None = None) -> View:
    return View(
        nodes={one.owner: one for one in nodes},
        ranges={records.range_key(one.net): one for one in ranges},
        networks={one.id: one for one in networks or []},
    )


def plan(seen: View, **changes: Any) -> mesh.MeshPlan:
    values: dict[str, Any] = {
        "me": "n0",
        "secret": SECRET,
        "own_ranges": [ip_network("10.192.0.0/18"), ip_network("fd00::/56")],
        "addresses": ("10.192.0.1", "fd00::1"),
    }
    return mesh.plan(seen, **{**values, **changes})


def test_each_other_node_is_a_peer_with_its_ranges_and_no_more() -> None:
    claimed = records.Range(owner="n1", net="172.30.0.0/24", network="x")
    made = plan(view(node(0), node(1), node(2), ranges=[*block(0), *block(1), *block(2), claimed]))
    assert set(made.peers) == {key(1), key(2)}
    assert made.peers[key(1)].allowed == {
        ip_network("10.192.64.0/18"),
        ip_network("fd00:0:0:100::/56"),
        ip_network("172.30.0.0/24"),
    }
    assert made.peers[key(1)].endpoints == ("192.0.2.1:51820",)
    assert made.routes == made.peers[key(1)].allowed | made.peers[key(2)].allowed
    assert {Element(FILTER, "peers4", "10.192.64.1"), Element(FILTER, "mesh_self4", "10.192.0.1")} <= made.elements


def test_a_new_environment_changes_no_peer() -> None:
    ranges = [*block(0), *block(1)]
    before = plan(view(node(0), node(1), ranges=ranges))
    after = plan(view(node(0), node(1), ranges=ranges, networks=[part(1, "shop", "10.192.64.64/26")]))
    assert (before.peers, before.routes, before.elements) == (after.peers, after.routes, after.elements)
    assert after.remote == {"shop": {ip_network("10.192.64.64/26")}}


@pytest.mark.parametrize(
    "subnet", ["10.192.0.64/26", "10.192.128.64/26", "10.0.0.0/8", "0.0.0.0/0", "192.168.0.0/24", "10.192.0.0/17"]
)
def test_a_network_counts_only_within_its_own_nodes_ranges(subnet: str) -> None:
    """Whatever a node writes, it opens nothing but what it holds."""
    ranges = [*block(0), *block(1), *block(2)]
    made = plan(view(node(0), node(1), node(2), ranges=ranges, networks=[part(1, "shop", subnet)]))
    assert made.remote == {}


def test_a_range_over_our_own_is_left_out() -> None:
    seen = view(node(0), node(1), ranges=[*block(0, owner=1), *block(1)])
    assert not any(net.overlaps(ip_network("10.192.0.0/18")) for net in plan(seen).routes if net.version == 4)


def test_a_mesh_address_that_is_not_the_nodes_own_is_no_member() -> None:
    seen = view(node(0), node(1, mesh4="10.192.128.1"), node(2), ranges=[*block(1), *block(2)])
    assert Element(FILTER, "peers4", "10.192.128.1") in plan(seen).elements  # that of node 2
    alone = view(node(0), node(1, mesh4="10.192.128.1"), ranges=[*block(1)])
    assert Element(FILTER, "peers4", "10.192.128.1") not in plan(alone).elements


def test_a_dead_node_stays_a_peer_and_a_freed_range_does_not() -> None:
    freed = [records.Range(owner="n1", net="172.30.0.0/24", freed=1.0)]
    made = plan(view(node(0), node(1), ranges=[*block(0), *block(1), *freed]))
    assert key(1) in made.peers
    assert ip_network("172.30.0.0/24") not in made.routes


@pytest.mark.parametrize(
    ("reachable", "endpoints", "keepalive"), [(True, 1, 0), (False, 1, mesh.KEEPALIVE), (False, 0, 0)]
)
def test_keepalive_only_where_nobody_can_call(reachable: bool, endpoints: int, keepalive: int) -> None:
    one = node(1, endpoints=("192.0.2.1:51820",) * endpoints)
    made = plan(view(node(0), one, ranges=[*block(0), *block(1)]), reachable=reachable)
    assert made.peers[key(1)].keepalive == keepalive


def test_a_guest_has_one_address_and_reaches_one_service() -> None:
    guest = Guest(key(9), key(8), ipaddress.ip_address("10.192.0.2"), 0.0)
    made = plan(view(node(0), ranges=block(0)), guests=[guest])
    assert made.peers[key(9)].allowed == {ip_network("10.192.0.2/32")}
    assert Element(FILTER, "guests4", "10.192.0.2") in made.elements
    assert Element(FILTER, "join_service", str(mesh.JOIN_PORT)) in made.elements
    assert not any(element.set.startswith("peers") for element in made.elements)


def test_services_are_open_to_members_only_when_asked() -> None:
    seen = view(node(0), ranges=block(0))
    assert not any(element.set == "mesh_services" for element in plan(seen).elements)
    assert Element(FILTER, "mesh_services", "2379") in plan(seen, services=[2379]).elements


IDS = st.text("0123456789abcdef", min_size=12, max_size=12)


@given(IDS, IDS, st.binary(min_size=1, max_size=64))
def test_a_pair_has_one_preshared_key_whoever_asks(first: str, second: str, secret: bytes) -> None:
    made = mesh.preshared_key(secret, first, second)
    assert made == mesh.preshared_key(secret, second, first)
    assert len(base64.b64decode(made)) == 32
    assert made != mesh.preshared_key(secret + b"x", first, second)


def test_the_secret_is_never_shown() -> None:
    made = plan(view(node(0), node(1), ranges=[*block(0), *block(1)]))
    assert made.peers[key(1)].preshared_key not in repr(made)


@pytest.mark.parametrize(("link", "fits"), [(1500, 1420), (1400, 1320), (1300, 1280), (9000, 8920)])
def test_mtu(link: int, fits: int) -> None:
    assert mesh.mtu(link) == fits


def test_a_node_that_was_removed_is_no_peer_whatever_else_is_left_of_it() -> None:
    seen = view(node(1), ranges=block(1), networks=[part(1, "shop", "10.192.64.64/26")])
    assert plan(seen).peers
    assert plan(seen).remote
    made = plan(replace(seen, removed=frozenset({"n1"})))
    assert (made.peers, made.remote) == ({}, {})


def test_an_ipv6_range_too_wide_for_the_rules_is_left_out() -> None:
    held = [*block(1), records.Range(owner="n1", net="fc00::/8")]
    seen = view(node(1), ranges=held, networks=[part(1, "shop", "fc00::/8", "10.192.64.64/26")])
    assert plan(seen, own_ranges=[]).remote == {"shop": frozenset({ip_network("10.192.64.64/26")})}


def test_a_node_without_a_key_of_its_own_is_no_peer_and_nothing_for_it_leaves_in_clear() -> None:
    claimed = records.Range(owner="n1", net="172.30.0.0/24", network="x")
    seen = view(node(0), node(1), node(2), ranges=[*block(1), claimed, *block(2)])
    made = plan(seen, keys={"n1": mesh.Choice("")})
    assert set(made.peers) == {key(2)}
    assert {ip_network("172.30.0.0/24"), ip_network("10.192.64.0/18")} <= made.routes
    assert [peer.node for peer in made.keyless] == ["n1"]
    assert Element(FILTER, "peers4", "10.192.64.1") not in made.elements
