"""What the records of the cluster mean for this node: peers, routes, and who belongs to which environment.

Pure. :func:`plan` reads a :class:`View`, everything known of the cluster, and says what the tunnel and the firewall
should hold. It grows with nodes and with the networks of environments that have a part on this node, never with
other nodes' containers: a peer's allowed IPs are its blocks and claimed ranges, not its endpoints.

A peer that is not alive stays a peer (its names go, its tunnel does not): only removing the node ends it.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from plugin.kernel.dataplane import FILTER, Element
from plugin.model import IPAddress, IPNet, ip_network
from plugin.ranges import blocks
from stackpad import records

OVERHEAD = 80
"""Bytes that WireGuard adds to a packet over IPv6: 40 (IP) + 8 (UDP) + 32 (header and tag); over IPv4, 20 less."""

LEAST_MTU = 1280
"""RFC 8200 §5: an IPv6 link carries at least this much."""

STORE_PORT, JOIN_PORT, METRICS_PORT = 2379, 4783, 9483
"""TCP ports on a node's mesh address: the embedded store, joining, and metrics where asked for."""

WIDEST6 = 32
"""Prefix length of the largest IPv6 range a network may have: the rules look its parts up by exact addresses."""

KEEPALIVE = 25
"""Seconds between packets that keep a NAT's mapping open."""


@dataclass(frozen=True, slots=True)
class View:
    """Everything known of the cluster, by id or key; ``endpoints`` are running containers' attachments."""

    cluster: records.Cluster | None = None
    nodes: Mapping[str, records.Node] = field(default_factory=dict)
    alive: frozenset[str] = frozenset()
    ranges: Mapping[str, records.Range] = field(default_factory=dict)
    networks: Mapping[str, records.Network] = field(default_factory=dict)
    endpoints: Mapping[str, records.Endpoint] = field(default_factory=dict)
    removed: frozenset[str] = frozenset()
    ingresses: Mapping[str, records.Ingress] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Guest:
    """Somebody who joins through this node: the key of its token, and the one address it may use meanwhile."""

    public_key: str
    preshared_key: str = field(repr=False)
    address: IPAddress
    until: float


@dataclass(frozen=True, slots=True)
class Choice:
    """A node's peer has ``key``, or there is none, if it is empty; ``former`` is whose place it took.

    ``standby`` is a second peer without ranges that is called, ``leaving`` one that only sends what it has begun to.
    """

    key: str
    former: str = ""
    standby: str = ""
    leaving: str = ""


@dataclass(frozen=True, slots=True)
class MeshPeer:
    """A peer as it is wanted. ``endpoints`` are candidates, ``address:port``; ``node`` is its id, empty for a guest,
    and ``name`` the node's.

    ``former`` is the key whose place this one took: what was learnt of it holds for this one.
    ``mtu`` is what fits into the tunnel by the peer's own account (bytes, 0 if it gives none): what is narrower than that
    only near to it, nobody else can see.
    """

    public_key: str
    preshared_key: str = field(repr=False)
    allowed: frozenset[IPNet]
    endpoints: tuple[str, ...] = ()
    keepalive: int = 0
    node: str = ""
    name: str = ""
    former: str = ""
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class MeshPlan:
    """``addresses`` and ``routes`` go on the tunnel's link, ``elements`` into the firewall.

    ``remote`` are the ranges of other nodes' parts of an environment, by the environment's name. ``keyless`` are nodes
    that are no peers for want of a key of their own: their ranges are routed, so that nothing for them leaves in clear.
    """

    peers: Mapping[str, MeshPeer] = field(default_factory=dict)
    addresses: frozenset[IPAddress] = frozenset()
    routes: frozenset[IPNet] = frozenset()
    elements: frozenset[Element] = frozenset()
    remote: Mapping[str, frozenset[IPNet]] = field(default_factory=dict)
    keyless: tuple[MeshPeer, ...] = ()


def preshared_key(secret: bytes, one: str, other: str) -> str:
    """The symmetric key of a pair of nodes, base64: an HMAC of both ids under the cluster's secret.

    It is mixed into every handshake (WireGuard paper §5.4.3), so that traffic recorded today stays closed to whoever
    breaks Curve25519 later. Of ids, not of public keys, so that it stays when one of these is changed.
    """
    pair = b"\0".join(sorted((one.encode(), other.encode())))
    return b64encode(hmac.new(secret, b"stackpad preshared key" + pair, hashlib.sha256).digest()).decode()


def plan(
    view: View,
    *,
    me: str,
    secret: bytes,
    guests: Iterable[Guest] = (),
    reachable: bool = True,
    services: Iterable[int] = (),
    own_ranges: Iterable[IPNet] = (),
    addresses: Iterable[str] = (),
    keys: Mapping[str, Choice] | None = None,
) -> MeshPlan:
    """What this node (``me``) needs in tunnel and firewall.

    ``services`` are TCP ports that members may reach on this node's mesh address; ``reachable`` is false where no
    other node can call this one, so that it keeps its NAT's mapping open. ``own_ranges`` are this node's own: a
    record of another node that covers any of them is left out, whatever the store says. ``addresses`` are this node's
    in the tunnel. ``keys`` says by node which of its keys it is a peer under, no two under the same; the first one, where
    it does not.
    """
    own = tuple(own_ranges)
    by_owner: dict[str, set[IPNet]] = {}
    for record in view.ranges.values():
        if record.freed or record.owner == me:
            continue
        net = ip_network(record.net)
        if not any(net.version == mine.version and net.overlaps(mine) for mine in own):
            by_owner.setdefault(record.owner, set()).add(net)
    peers: dict[str, MeshPeer] = {}
    keyless: list[MeshPeer] = []
    elements: set[Element] = set()
    routes: set[IPNet] = set()
    for node in view.nodes.values():
        if node.owner == me or not node.public_keys or node.owner in view.removed:
            continue
        allowed = frozenset(by_owner.get(node.owner, ()))
        routes |= allowed
        choice = (keys or {}).get(node.owner) or Choice(node.public_keys[0])
        peer = MeshPeer(
            public_key=choice.key,
            preshared_key=preshared_key(secret, me, node.owner),
            allowed=allowed,
            endpoints=node.endpoints,
            keepalive=0 if reachable or not node.endpoints else KEEPALIVE,
            node=node.owner,
            name=node.name,
            former=choice.former,
            mtu=mtu(node.mtu),
        )
        if not choice.key:
            keyless.append(peer)
            continue
        peers[choice.key] = peer
        if choice.standby:
            # Called as well: a node that knows no better key for the one with the store cannot wait to be called.
            beside = replace(peer, public_key=choice.standby, allowed=frozenset(), keepalive=KEEPALIVE)
            peers[choice.standby] = beside
        if choice.leaving:
            beside = replace(peer, public_key=choice.leaving, allowed=frozenset(), keepalive=0)
            peers[choice.leaving] = beside
        for text in filter(None, (node.mesh4, node.mesh6)):
            address = ipaddress.ip_address(text)
            if any(address in net for net in allowed if net.version == address.version):
                elements.add(Element(FILTER, f"peers{address.version}", str(address)))
                there = view.ingresses.get(node.owner)
                if there is not None and there.control:
                    elements.add(Element(FILTER, f"gateways{address.version}", str(address)))
    for guest in guests:
        peers[guest.public_key] = MeshPeer(
            guest.public_key, guest.preshared_key, frozenset({ip_network(str(guest.address))})
        )
        routes.add(ip_network(str(guest.address)))
        elements.add(Element(FILTER, f"guests{guest.address.version}", str(guest.address)))
        elements.add(Element(FILTER, "join_service", str(JOIN_PORT)))
    mine = frozenset(ipaddress.ip_address(text) for text in addresses if text)
    elements.update(Element(FILTER, f"mesh_self{address.version}", str(address)) for address in mine)
    elements.update(Element(FILTER, "mesh_services", str(port)) for port in services)
    remote = by_environment(view, me, by_owner)
    return MeshPlan(peers, mine, frozenset(routes), frozenset(elements), remote, tuple(keyless))


def by_environment(view: View, me: str, by_owner: Mapping[str, Iterable[IPNet]]) -> Mapping[str, frozenset[IPNet]]:
    """The ranges of other nodes' networks by environment, only those that lie in what is their node's ``by_owner``."""
    found: dict[str, set[IPNet]] = {}
    for network in view.networks.values():
        if network.owner == me or network.owner in view.removed:
            continue
        for text in network.subnets:
            net = ip_network(text)
            if net.version == 6 and net.prefixlen < WIDEST6:
                continue  # it would be an element for each part of it
            if any(blocks.within(net, held) for held in by_owner.get(network.owner, ())):
                found.setdefault(network.environment, set()).add(net)
    return {environment: frozenset(nets) for environment, nets in found.items()}


def mtu(link: int) -> int:
    """What fits into the tunnel over a link or path of ``link`` bytes."""
    return max(link - OVERHEAD, LEAST_MTU)


def held_by(view: View, node: str, *, block: bool | None = None) -> list[IPNet]:
    """The ranges a node holds, its oldest block first; only blocks, or only claims, if ``block`` says so."""
    found = [r for r in view.ranges.values() if r.owner == node and not r.freed and block in {None, r.block}]
    return [ip_network(record.net) for record in sorted(found, key=lambda record: (not record.block, record.net))]
