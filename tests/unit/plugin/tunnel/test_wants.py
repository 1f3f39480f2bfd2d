"""What a node wants of its tunnel."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import msgspec
import pytest

from plugin.kernel.node import Route
from plugin.model import ip_network
from plugin.ranges import blocks
from plugin.ranges.grounds import Grounds
from plugin.settings import Settings
from plugin.store import access, mesh
from plugin.store.membership import Membership
from plugin.store.mesh import View
from plugin.tunnel import wants
from plugin.wireguard.keys import generate, public_key
from stackpad import records
from tests.unit.plugin.joining.test_tokens import TOKEN

GATEWAY = records.Node(owner="n0", name="first", public_keys=("k0",), mesh4="10.192.0.1", endpoints=("192.0.2.1:51820",))
BLOCK = records.Range(owner="n0", net="10.192.0.0/18", block=True)
MINE = Membership(
    node="n1",
    name="second",
    cluster=records.Cluster(
        owner="n0", id="c", range4="10.192.0.0/10", range6="fd00::/48", block_prefix=18, network_prefix=26
    ),
    secret="AAAA",  # noqa: S106 - of a test
    mesh4="10.192.64.1",
    mesh6="fd00:0:0:100::1",
    ranges=(records.Range(owner="n1", net="10.192.64.0/18", block=True),),
    gateway=GATEWAY,
    gateway_ranges=(BLOCK,),
)


def test_until_the_store_speaks_the_node_it_joined_through_is_there() -> None:
    seen = wants.with_gateway(View(), MINE)
    assert set(seen.nodes) == {"n0"}
    other = replace(seen, nodes={"n2": GATEWAY})
    assert wants.with_gateway(other, MINE) is other
    assert not wants.with_gateway(View(), msgspec.structs.replace(MINE, gateway=None)).nodes


def test_a_member_wants_the_others_and_leaves_nothing_in_clear() -> None:
    view = replace(wants.with_gateway(View(), MINE), ranges={records.range_key(BLOCK.net): BLOCK, "x": CLAIM})
    private = generate()
    made = wants.of_member(MINE, view, private, 51820, guests=(), services=[mesh.METRICS_PORT], keys={})
    assert set(made.plan.peers) == {"k0"}
    assert (public_key(made.private_key), made.port) == (public_key(private), 51820)
    assert made.fenced == {ip_network("10.192.0.0/10"), ip_network("fd00::/48"), ip_network(CLAIM.net)}


@pytest.mark.parametrize(
    ("store", "set_", "found"),
    [
        ((), (), {"10.192.64.1 . 2379"}),
        (("http://10.192.0.1:2379",), (), {"10.192.0.1 . 2379"}),
        (("http://10.192.0.1:12379", "https://store.example:2379"), (), {"10.192.0.1 . 12379"}),
        (("http://[", "http://10.192.0.1:99999", "http://10.192.0.1:2379"), (), {"10.192.0.1 . 2379"}),
        (("http://10.192.0.1:2379",), ("https://192.0.2.7:2379",), set()),
    ],
)
def test_users_are_kept_from_a_store_that_asks_nobody(
    store: tuple[str, ...], set_: tuple[str, ...], found: set[str]
) -> None:
    membership = msgspec.structs.replace(MINE, store=store)
    guarded = access.guarded(Settings.load({"STORE": ",".join(set_)}), membership)
    assert set(guarded) == found
    made = wants.of_member(membership, View(), generate(), 51820, guests=(), services=(), keys={}, stores=guarded)
    assert {element.key for element in made.plan.elements if element.set == "stores"} == found


CLAIM = records.Range(owner="n0", net="172.30.0.0/24", network="x")


def test_a_guest_wants_its_gateway_and_nothing_else() -> None:
    token = msgspec.structs.replace(TOKEN, ranges=MINE.cluster.ranges)
    made = wants.of_guest(token, "192.0.2.1:51820", 51820)
    (peer,) = made.extra.values()
    assert (peer.public_key, peer.endpoint) == (TOKEN.gateway_key, ("192.0.2.1", 51820))
    assert peer.allowed == made.plan.routes == {ip_network(TOKEN.gateway_address)}
    assert made.fenced == made.cluster == set(CLUSTER), "as those of a member"
    nobody = wants.of_guest(token, "", 51820)
    assert (nobody.extra, nobody.fenced, nobody.cluster) == ({}, made.fenced, made.cluster)
    assert not wants.of_guest(TOKEN, "", 51820).fenced, "a token of old does not say what they are"
    assert TOKEN.private_key not in repr(made)


CLUSTER = [ip_network("10.192.0.0/10"), ip_network("fd00::/48")]


@pytest.mark.parametrize(
    ("net", "route", "on_link", "left", "told"),
    [
        pytest.param("172.18.0.0/16", "172.18.0.0/16", True, True, "range 172.18.0.0/16", id="the same"),
        pytest.param("172.18.0.0/16", "172.18.0.0/16", False, True, "range 172.18.0.0/16", id="the same elsewhere"),
        pytest.param("172.18.0.0/16", "172.18.5.0/24", True, True, "range 172.18.0.0/16", id="a part of it"),
        pytest.param("172.18.0.0/16", "172.18.5.0/24", False, True, "range 172.18.0.0/16", id="a part of it elsewhere"),
        pytest.param("172.18.0.0/16", "172.16.0.0/12", True, True, "range 172.18.0.0/16", id="in this node's own link"),
        pytest.param("172.18.0.0/16", "172.16.0.0/12", False, False, "", id="in what a router is asked for"),
        pytest.param("172.18.0.0/16", "172.19.0.0/16", True, False, "", id="beside it"),
        pytest.param("10.192.64.0/18", "10.192.64.0/18", True, True, "range 10.192.64.0/18", id="a whole block"),
        pytest.param("10.192.64.0/18", "10.192.65.0/24", True, False, "the part 10.192.65.0/24", id="in a block"),
        pytest.param("10.192.64.0/18", "10.192.0.0/17", True, True, "range 10.192.64.0/18", id="a block and more"),
        pytest.param("10.192.64.0/18", "10.0.0.0/8", True, False, "", id="the cluster within, as agreed"),
        pytest.param("fd12::/64", "fd12::/64", True, True, "range fd12::/64", id="IPv6"),
        pytest.param("fd12::/64", "172.18.0.0/16", True, False, "", id="the other family"),
    ],
)
def test_what_this_node_has_already_is_not_routed_away(
    net: str, route: str, on_link: bool, left: bool, told: str
) -> None:
    peer = mesh.MeshPeer("k", "", frozenset({ip_network(net)}), node="n2", name="third")
    found = wants.contested([peer], CLUSTER, [Route(ip_network(route), "br-x", on_link)])
    assert found.left == ({ip_network(net)} if left else frozenset())
    if told:
        (problem,) = found.problems
        assert problem.startswith(f"{told}")
        assert "of node third" in problem
        assert f"br-x for {route}" in problem
    else:
        assert not found.problems


def test_a_guest_contests_nothing() -> None:
    guest = mesh.MeshPeer("k", "", frozenset({ip_network("10.192.0.2")}))
    assert not wants.contested([guest], CLUSTER, [Route(ip_network("10.192.0.0/26"), "br-x", True)]).problems


def test_closed_ranges_do_not_overlap() -> None:
    nets = map(ip_network, ("10.192.0.0/10", "10.192.64.0/18", "192.0.2.1/32", "fd00::/48", "fd00::/48"))
    assert {(element.set, element.key) for element in wants.closed(nets)} == {
        ("tunnel_only4", "10.192.0.0/10"),
        ("tunnel_only4", "192.0.2.1"),
        ("tunnel_only6", "fd00::/48"),
    }


@pytest.mark.parametrize(
    ("net", "said"),
    [
        ("1.1.1.0/24", "1.1.1.0/24 is no private range"),
        ("0.0.0.0/2", "0.0.0.0/2 is no private range"),
        ("::/1", "::/1 is no private range"),
        ("8.0.0.0/6", "is no private range"),
        ("172.20.0.0/16", "172.20.0.0/16 has 172.20.0.53 in it, a name server"),
        ("10.255.0.0/16", "10.255.0.0/16 has 10.255.0.1 in it, a router"),
    ],
)
def test_a_record_takes_nothing_that_no_network_may_have(net: str, said: str) -> None:
    """Not by any way: no route, no peer's range, no part of an environment; and all else of its node stays."""
    needed = {ip_address("172.20.0.53"): "a name server", ip_address("10.255.0.1"): "a router"}
    claim = records.Range(owner="n0", net=net, network="x")
    network = records.Network(owner="n0", id="x", environment="shop", subnets=(net,))
    seen = wants.with_gateway(View(), MINE)
    seen = replace(seen, ranges={**seen.ranges, "x": claim}, networks={"x": network})
    grounds = Grounds(needed=needed, cluster=CLUSTER)
    found = wants.lawful(seen, MINE.node, grounds, MINE.cluster)
    (problem,) = found.problems
    made = wants.of_member(MINE, found.view, generate(), 51820, guests=(), services=(), keys={})
    made = replace(made, left=found.left)
    assert made.plan.routes == {ip_network(BLOCK.net)} == made.plan.peers["k0"].allowed
    assert made.plan.remote == {}
    assert made.fenced == set(CLUSTER)
    assert problem.startswith("a range of node first is not reached from here: ")
    assert said in problem
    closed = {"shop": {ip_network(net)}} if net.startswith("172.") else {}
    assert wants.barred(seen, MINE.node, grounds, made) == closed, "not the internet, nor the cluster's, closed anyway"
    assert wants.unreached(made, ()) == {"n0": set(blocks.without(ip_network(net), [ip_network(BLOCK.net)]))}


def test_a_refused_range_is_closed_to_its_environment_but_for_what_goes_through_the_tunnel() -> None:
    """Who wrote it is not to open a way into the tunnel either, nor to close one."""
    wide = records.Range(owner="n0", net="172.16.0.0/12", network="x")
    network = records.Network(owner="n0", id="x", environment="shop", subnets=(wide.net,))
    other = records.Network(owner="n0", id="y", environment="blog", subnets=("172.31.0.0/16",))
    strange = records.Network(owner="n2", id="z", environment="mail", subnets=("172.31.0.0/16",))
    seen = wants.with_gateway(View(), MINE)
    ranges = {**seen.ranges, "claim": CLAIM, "wide": wide}
    seen = replace(seen, ranges=ranges, networks={"x": network, "y": other, "z": strange})
    grounds = Grounds(needed={ip_address("172.20.0.53"): "a name server"}, cluster=CLUSTER)
    found = wants.lawful(seen, MINE.node, grounds, MINE.cluster)
    made = wants.of_member(MINE, found.view, generate(), 51820, guests=(), services=(), keys={})
    made = replace(made, left=found.left)
    closed = wants.barred(seen, MINE.node, grounds, made)
    assert set(closed) == {"shop", "blog"}, "of whom it is not is not believed"
    assert not any(net.overlaps(ip_network(CLAIM.net)) for net in closed["shop"])
    assert sum(net.num_addresses for net in closed["shop"]) == 2**20 - 2**8
    assert closed["blog"] == {ip_network("172.31.0.0/16")}


def test_contested_ranges_are_not_reached_but_for_what_else_their_node_has_there() -> None:
    wide = ip_network("172.16.0.0/12")
    view = replace(wants.with_gateway(View(), MINE), ranges={"b": BLOCK, "c": CLAIM})
    choices = {"n0": mesh.Choice("k0", standby="k1")}
    made = wants.of_member(MINE, view, generate(), 51820, guests=(), services=(), keys=choices)
    assert wants.unreached(made, ()) == {}
    assert wants.unreached(made, {ip_network(CLAIM.net)}) == {"n0": {ip_network(CLAIM.net)}}
    made = replace(made, left=tuple(records.Range(owner=who, net=str(wide)) for who in ("n0", "n2")))
    found = wants.unreached(made, ())
    assert found["n2"] == {wide}, "the one's word is not the other's"
    assert sum(net.num_addresses for net in found["n0"]) == wide.num_addresses - 256
    assert wants.unreached(made, {ip_network(CLAIM.net)})["n0"] >= {wide}


def test_a_block_stays_whatever_address_in_it_somebody_has_come_to() -> None:
    """Else a VPN, or a second name server, would cut a whole node off. A part of it is no block, whatever it says."""
    inside = ip_network(BLOCK.net)[77]
    grounds = Grounds(needed={inside: "a router of this node's"}, cluster=CLUSTER)
    small = records.Range(owner="n0", net=f"{inside}/32", block=True)
    claimed = records.Range(owner="n0", net=f"{inside}/32", network="x")
    seen = View(ranges={"block": BLOCK, "small": small, "claimed": claimed})
    view, problems, left = wants.lawful(seen, MINE.node, grounds, MINE.cluster)
    assert view.ranges == {"block": BLOCK}
    assert left == (claimed, small)
    assert [" only partly reached " in problem for problem in problems].count(True) == 1
    assert len(problems) == 3


def test_what_is_lawful_stays_and_our_own_is_not_asked_about() -> None:
    public = records.Range(owner="n1", net="203.0.113.0/24", network="y")
    freed = records.Range(owner="n0", net="198.51.100.0/24", freed=1.0)
    seen = View(ranges={"a": BLOCK, "b": CLAIM, "c": public, "d": freed})
    assert wants.lawful(seen, "n1", Grounds(cluster=CLUSTER), MINE.cluster) == wants.Lawful(seen)
