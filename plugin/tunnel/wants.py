"""What a node wants of its tunnel, as a member of a cluster and as a guest who joins one; pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from plugin.joining import tokens
from plugin.kernel.dataplane import FILTER, Element
from plugin.kernel.node import Route
from plugin.model import IPNet, ip_network
from plugin.ranges import blocks
from plugin.ranges.grounds import Grounds
from plugin.store import mesh
from plugin.store.membership import Membership
from plugin.store.mesh import Choice, Guest, MeshPeer, MeshPlan, View
from plugin.wireguard.model import Peer
from stackpad import records
from stackpad.errors import plain


@dataclass(frozen=True, slots=True)
class Wanted:
    """The plan, and what belongs to it: the device's key and port, and the ranges that never leave in clear.

    ``cluster`` are those of them that are the cluster's by agreement. ``left`` are ranges that are left out, and
    ``refused`` what is wrong with them.
    ``barred`` are those of them, by environment, that its containers are kept from: only the way out would lead there.
    ``due`` is when the plan will be another one by itself (:func:`plugin.steady.now`), 0 for never.
    """

    plan: MeshPlan
    private_key: str = field(repr=False)
    port: int
    fenced: frozenset[IPNet]
    cluster: frozenset[IPNet] = frozenset()
    due: float = 0.0
    extra: Mapping[str, Peer] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    left: tuple[records.Range, ...] = ()
    barred: Mapping[str, frozenset[IPNet]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contested:
    """Ranges to be left out of routes and fence, and what a person should know of them."""

    left: frozenset[IPNet] = frozenset()
    problems: tuple[str, ...] = ()


def of_member(
    membership: Membership,
    view: View,
    private_key: str,
    port: int,
    *,
    guests: Iterable[Guest],
    services: Iterable[int],
    keys: Mapping[str, Choice],
    stores: Iterable[str] = (),
) -> Wanted:
    """A member's: all other nodes, its guests, and what it serves to the others (TCP ``services``).

    ``stores`` are addresses and ports of stores that ask nobody who he is, and that this node's users are kept from.
    """
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
    plan = replace(plan, elements=plan.elements | {Element(FILTER, "stores", store) for store in stores})
    whole = frozenset({ip_network(membership.cluster.range4), ip_network(membership.cluster.range6)})
    return Wanted(plan, private_key, port, fenced(membership.cluster, plan), whole)


def of_guest(token: tokens.Token, endpoint: str, port: int) -> Wanted:
    """That of one who joins: the token's gateway only, called at one of its addresses; without one, nobody.

    It is in no cluster yet, but its containers may call the others' from its first moment as a member on, and before: the
    cluster's ranges are closed as a member's are.
    """
    gateway, whole = ip_network(token.gateway_address), frozenset(map(ip_network, token.ranges))
    plan = MeshPlan(addresses=frozenset({ipaddress.ip_address(token.address)}), routes=frozenset({gateway}))
    if not endpoint:
        return Wanted(plan, token.private_key, port, whole, whole)
    address, gateway_port = records.split_endpoint(endpoint)
    peer = Peer(
        public_key=token.gateway_key,
        preshared_key=token.preshared_key,
        endpoint=(address, gateway_port),
        allowed=frozenset({gateway}),
        keepalive=5,
    )
    return Wanted(plan, token.private_key, port, whole, whole, extra={token.gateway_key: peer})


def with_gateway(view: View, membership: Membership) -> View:
    """The view, with the node we joined through in it for as long as the store has not said anything."""
    if view.nodes or membership.gateway is None:
        return view
    ranges = {records.range_key(record.net): record for record in membership.gateway_ranges}
    return replace(view, nodes={membership.gateway.owner: membership.gateway}, ranges=ranges)


class Lawful(NamedTuple):
    """A ``view`` without what is not lawful in it, what a person should know of that, and the ranges ``left`` out."""

    view: View
    problems: tuple[str, ...] = ()
    left: tuple[records.Range, ...] = ()


def lawful(view: View, me: str, grounds: Grounds, cluster: records.Cluster) -> Lawful:
    """The view without those of other nodes' ranges that no network may have.

    Whoever wrote them: they are no peer's, and neither routed nor in an environment. A block of the cluster's own is told
    only: to such this node has agreed at its join, and without one a whole node would be out of reach, for an address
    that a router or a name server has come to since.
    """
    against = {
        key: reason
        for key, record in view.ranges.items()
        if record.owner != me and not record.freed and (reason := grounds.against(ip_network(record.net)))
    }
    if not against:
        return Lawful(view)
    names = {node.owner: plain(node.name) for node in view.nodes.values()}
    agreed = {key for key in against if _is_agreed(view.ranges[key], cluster)}
    problems = tuple(
        f"a range of node {names.get(owner) or plain(owner)} is {how} reached from here: {reason}"
        for owner, how, reason in sorted(
            (view.ranges[key].owner, "only partly" if key in agreed else "not", why) for key, why in against.items()
        )
    )
    left = against.keys() - agreed
    out = tuple(view.ranges[key] for key in sorted(left))
    return Lawful(replace(view, ranges={key: one for key, one in view.ranges.items() if key not in left}), problems, out)


def barred(view: View, me: str, grounds: Grounds, wanted: Wanted) -> Mapping[str, frozenset[IPNet]]:
    """What of the ranges left out is to be closed to this node's containers, by the environment it is a part of.

    They call others of the environment there, and would do so by the node's own way, in clear. Others mean something else
    by such an address, as the node itself does. What is routed into the tunnel, or closed to all anyway, is not in it.
    Nor is what is not private: nobody closes the internet to others by a record.
    """
    by_owner: dict[str, list[IPNet]] = {}
    for record in wanted.left:
        if grounds.allows(net := ip_network(record.net)):
            by_owner.setdefault(record.owner, []).append(net)
    if not by_owner:
        return {}
    others = wanted.plan.routes | wanted.cluster
    parts = {
        environment: frozenset(part for net in nets for part in blocks.without(net, others))
        for environment, nets in mesh.by_environment(view, me, by_owner).items()
    }
    return {environment: nets for environment, nets in parts.items() if nets}


def unreached(wanted: Wanted, contested: Collection[IPNet]) -> Mapping[str, frozenset[IPNet]]:
    """By node, the ranges in which its containers are not reached from here: left out, or ``contested``."""
    ways: dict[str, set[IPNet]] = {}
    for peer in (*wanted.plan.peers.values(), *wanted.plan.keyless):
        ways.setdefault(peer.node, set()).update(peer.allowed)
    none = {node: nets.intersection(contested) for node, nets in ways.items() if node}
    for record in wanted.left:
        none.setdefault(record.owner, set()).add(ip_network(record.net))
    return {
        node: frozenset(part for net in nets for part in blocks.without(net, ways.get(node, set()).difference(contested)))
        for node, nets in none.items()
        if nets
    }


def _is_agreed(record: records.Range, cluster: records.Cluster) -> bool:
    """Whether a range is one of the blocks that the cluster's ranges are for; a shorter one would be a way round."""
    net = ip_network(record.net)
    longest = cluster.block_prefix if net.version == 4 else blocks.BLOCK6_PREFIX
    whole = map(ip_network, cluster.ranges)
    return record.block and net.prefixlen <= longest and any(blocks.within(net, one) for one in whole)


def fenced(cluster: records.Cluster, plan: MeshPlan) -> frozenset[IPNet]:
    """The ranges that never leave in clear: the cluster's, and claimed ones outside of them."""
    whole = {ip_network(cluster.range4), ip_network(cluster.range6)}
    outside = {
        net
        for net in plan.routes
        if not any(net.version == one.version and one.overlaps(net) and one.prefixlen <= net.prefixlen for one in whole)
    }
    return frozenset(whole | outside)


def closed(ranges: Iterable[IPNet]) -> frozenset[Element]:
    """Elements of the firewall that close ``ranges`` to containers on every way but the tunnel."""
    by_version: dict[int, list[IPNet]] = {4: [], 6: []}
    for net in ranges:
        by_version[net.version].append(net)
    return frozenset(
        Element(FILTER, f"tunnel_only{version}", str(net.network_address) if net.num_addresses == 1 else str(net))
        for version, nets in by_version.items()
        # A set of intervals takes none that overlap.
        for net in ipaddress.collapse_addresses(nets)  # type: ignore[type-var]
    )


def contested(peers: Iterable[MeshPeer], cluster: Iterable[IPNet], foreign: Iterable[Route]) -> Contested:
    """What of other nodes' ranges this node reaches in another way already, by its ``foreign`` routes.

    A route into the tunnel would take over addresses of this node's own: such a range is left out. Not left out is what
    lies in the cluster's range, to which the node has agreed at its join, unless there is a route to the very same range:
    a narrower one, an ordinary network in another node's block, keeps its part by itself, and without the block's route
    a whole node would be out of reach. A wider route leaves room for a range in it, except one to the node's own link.
    """
    routes = [(int(route.net[0]), int(route.net[-1]), route) for route in foreign]
    agreed = list(cluster)
    left: set[IPNet] = set()
    problems: list[str] = []
    for peer in peers:
        for net in sorted(peer.allowed, key=str) if peer.node else ():
            low, high = int(net[0]), int(net[-1])
            within = [whole for whole in agreed if blocks.within(net, whole)]
            for first, last, route in routes:
                if first > high or last < low or route.net.version != net.version:
                    continue
                wider, narrower = route.net.prefixlen < net.prefixlen, route.net.prefixlen > net.prefixlen
                if wider and (not route.on_link or any(route.net.prefixlen < whole.prefixlen for whole in within)):
                    continue
                kept = narrower and within
                what = f"the part {route.net} of {net}" if kept else f"range {net}"
                problems.append(
                    f"{what} of node {peer.name} is not reached from here: this node has {route} for {route.net}; "
                    "give one of the two networks another range (docker network create with --subnet, or with "
                    "--ipam-driver stackpad)"
                )
                left |= set() if kept else {net}
    return Contested(frozenset(left), tuple(problems))
