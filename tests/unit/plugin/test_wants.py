"""What a node wants of its tunnel."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from plugin import mesh, wants
from plugin.membership import Membership
from plugin.mesh import View
from plugin.model import ip_network
from plugin.wireguard.keys import generate, public_key
from stackpad import records
from tests.unit.plugin.test_joining import TOKEN

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


CLAIM = records.Range(owner="n0", net="172.30.0.0/24", network="x")


def test_a_guest_wants_its_gateway_and_nothing_else() -> None:
    made = wants.of_guest(TOKEN, "192.0.2.1:51820", 51820)
    (peer,) = made.extra.values()
    assert (peer.public_key, peer.endpoint) == (TOKEN.gateway_key, ("192.0.2.1", 51820))
    assert peer.allowed == made.plan.routes == {ip_network(TOKEN.gateway_address)}
    assert not made.fenced, "it is in no cluster, whose ranges these would be"
    assert TOKEN.private_key not in repr(made)
