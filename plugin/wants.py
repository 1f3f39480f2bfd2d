"""What a node wants of its tunnel, as a member of a cluster and as a guest who joins one; pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from plugin import joining, mesh
from plugin.membership import Membership
from plugin.mesh import Choice, Guest, MeshPlan, View
from plugin.model import IPNet, ip_network
from plugin.wireguard.model import Peer
from stackpad import records


@dataclass(frozen=True, slots=True)
class Wanted:
    """The plan, and what belongs to it: the device's key and port, and the ranges that never leave in clear.

    ``due`` is when the plan will be another one by itself (Unix time), 0 for never.
    """

    plan: MeshPlan
    private_key: str = field(repr=False)
    port: int
    fenced: frozenset[IPNet]
    due: float = 0.0
    extra: Mapping[str, Peer] = field(default_factory=dict)


def of_member(
    membership: Membership,
    view: View,
    private_key: str,
    port: int,
    *,
    guests: Iterable[Guest],
    services: Iterable[int],
    keys: Mapping[str, Choice],
) -> Wanted:
    """A member's: all other nodes, its guests, and what it serves to the others (TCP ``services``)."""
    plan = mesh.plan(
        view,
        me=membership.node,
        secret=membership.key,
        guests=guests,
        reachable=not membership.nat,
        services=services,
        own_ranges=membership.held(),
        addresses=(membership.mesh4, membership.mesh6),
        keys=keys,
    )
    return Wanted(plan, private_key, port, fenced(membership.cluster, plan))


def of_guest(token: joining.Token, endpoint: str, port: int) -> Wanted:
    """That of one who joins: the token's gateway only, called at one of its addresses; without one, nobody."""
    gateway = ip_network(token.gateway_address)
    plan = MeshPlan(addresses=frozenset({ipaddress.ip_address(token.address)}), routes=frozenset({gateway}))
    if not endpoint:
        return Wanted(plan, token.private_key, port, frozenset())
    address, gateway_port = records.split_endpoint(endpoint)
    peer = Peer(
        public_key=token.gateway_key,
        preshared_key=token.preshared_key,
        endpoint=(address, gateway_port),
        allowed=frozenset({gateway}),
        keepalive=5,
    )
    return Wanted(plan, token.private_key, port, frozenset(), extra={token.gateway_key: peer})


def with_gateway(view: View, membership: Membership) -> View:
    """The view, with the node we joined through in it for as long as the store has not said anything."""
    if view.nodes or membership.gateway is None:
        return view
    ranges = {records.range_key(record.net): record for record in membership.gateway_ranges}
    return replace(view, nodes={membership.gateway.owner: membership.gateway}, ranges=ranges)


def fenced(cluster: records.Cluster, plan: MeshPlan) -> frozenset[IPNet]:
    """The ranges that never leave in clear: the cluster's, and claimed ones outside of them."""
    whole = {ip_network(cluster.range4), ip_network(cluster.range6)}
    outside = {
        net
        for net in plan.routes
        if not any(net.version == one.version and one.overlaps(net) and one.prefixlen <= net.prefixlen for one in whole)
    }
    return frozenset(whole | outside)
