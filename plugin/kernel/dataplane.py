"""What the kernel should hold for a network: the links and the firewall's elements, as plain values.

Pure. :func:`desired` says what a network needs, :func:`plan` what is missing and what is too much between that
and what is there. The same two functions serve a driver call (one network), a start with an empty memory and a
repair (all of them), so there is one path to be right.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from plugin import naming
from plugin.model import Endpoint, IPInterface, IPNet, Network

UNRESOLVED = 64 << 10
"""Bytes that wait for an address on a bridge until it is known who has it (``unres_qlen_bytes``, ip-sysctl.rst): some
thirty packets of 1500 bytes.

They count against who has sent them: a container that asks and does not answer ARP fills the resolver's socket, which is
everybody's, by no more than this.
"""


@dataclass(frozen=True, slots=True)
class Bridge:
    """A network's bridge on this node.

    ``addresses`` are the gateways with their prefix lengths. ``loopback`` lets the node's own 127.0.0.1 reach
    published ports through it (``route_localnet``), and is set only while there are any. ``unresolved`` is how many bytes
    wait for an address.
    """

    name: str
    mac: str
    mtu: int
    addresses: frozenset[IPInterface]
    ipv6: bool = False
    loopback: bool = False
    up: bool = True
    unresolved: int = UNRESOLVED


WIDEST = 65535
"""The MTU of a veth pair's end on the host: the most there can be. The end in the container is what counts. If this one
became narrower, when the node's way out does, it would swallow the container's packets without a word."""


@dataclass(frozen=True, slots=True)
class Port:
    """The host's end of an endpoint's veth pair, enslaved to the network's bridge.

    ``peer``, ``mac`` and ``peer_mtu`` are the container's end, made with it and moved by the engine.
    """

    name: str
    bridge: str
    mtu: int = WIDEST
    up: bool = True
    peer: str = field(compare=False, default="")
    mac: str = field(compare=False, default="")
    peer_mtu: int = field(compare=False, default=1500)


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a set (``value`` empty) or map of our firewall tables, as nftables writes it."""

    table: str
    set: str
    key: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Dataplane:
    """Links by name and firewall elements; of one network, or the union of all."""

    bridges: Mapping[str, Bridge] = field(default_factory=dict)
    ports: Mapping[str, Port] = field(default_factory=dict)
    elements: frozenset[Element] = frozenset()


EMPTY = Dataplane()

_ALL = {4: "0.0.0.0", 6: "::"}
"""What ``-p`` calls all of the node's addresses of one family; no packet is ever sent to it."""

FILTER = "inet stackpad"
SWITCH = "bridge stackpad"


PREFIXES = {4: (8, 12, 16, 18, 20, 22, 24, 26, 28, 30, 32), 6: (32, *range(40, 129, 4))}
"""Prefix lengths that the rules look remote ranges up by, each an exact look-up of a masked address.

A range of another length is written as several of the next one: an interval set would take all lengths, but a single
large one makes every element update on the machine slow.
"""


def desired(
    network: Network,
    endpoints: Iterable[Endpoint],
    *,
    uplink_mtu: int,
    lost: Collection[str] = (),
    remote: Iterable[IPNet] = (),
    barred: bool = False,
) -> Dataplane:
    """What ``network`` with ``endpoints`` needs in the kernel.

    ``uplink_mtu`` (bytes) is what a container gets when the network names none. ``remote`` are the ranges of other
    nodes' parts of the same environment; with ``barred``, flows that are under way end as well. Endpoints whose id is in
    ``lost`` have no veth pair any more although Docker has not taken them back: they get nothing, because a
    pair made anew would not be in their container.
    """
    mtu = network.mtu or uplink_mtu
    attached = [endpoint for endpoint in endpoints if endpoint.sandbox and endpoint.id not in lost]
    live = [endpoint for endpoint in attached if not endpoint.left]
    elements = {*_network_elements(network), *_remote_elements(network, remote)}
    elements |= {Element(FILTER, "barred", network.bridge)} if barred else set()
    ports = {}
    for endpoint in attached:
        port = Port(
            name=naming.port_name(endpoint.id),
            bridge=network.bridge,
            peer=naming.peer_name(endpoint.id),
            mac=endpoint.mac,
            peer_mtu=mtu,
        )
        ports[port.name] = port
    for endpoint in live:
        elements.update(_endpoint_elements(endpoint))
    bridge = Bridge(
        name=network.bridge,
        mac=naming.bridge_mac(network.id),
        mtu=mtu,
        addresses=frozenset(s.gateway_interface for s in network.subnets if s.gateway_interface is not None),
        ipv6=network.ipv6,
        loopback=any(endpoint.ports for endpoint in live),
    )
    return Dataplane({bridge.name: bridge}, ports, frozenset(elements))


def _network_elements(network: Network) -> Iterable[Element]:
    name = network.bridge
    yield Element(FILTER, "same_network", f"{name} . {name}")
    if network.internal:
        yield Element(FILTER, "internal", name)
    elif not network.egress:
        yield Element(FILTER, "no_egress", name)
    for subnet in network.subnets:
        gateway = subnet.gateway_interface
        if gateway is not None:
            yield Element(FILTER, f"own_gateway{gateway.version}", f"{name} . {gateway.ip}")


def _remote_elements(network: Network, remote: Iterable[IPNet]) -> Iterable[Element]:
    for net in remote:
        length = next(length for length in PREFIXES[net.version] if length >= net.prefixlen)
        for part in net.subnets(new_prefix=length):
            yield Element(FILTER, f"remote{net.version}_{length}", f"{network.bridge} . {part.network_address}")


def _endpoint_elements(endpoint: Endpoint) -> Iterable[Element]:
    port = naming.port_name(endpoint.id)
    sender = f"{port} . {endpoint.mac}"
    if endpoint.ip4 is not None:
        yield Element(SWITCH, "senders4", f"{sender} . {endpoint.ip4}")
        yield Element(SWITCH, "own4", f"{port} . {int(endpoint.ip4)}")
    if endpoint.ip6 is not None:
        local = naming.link_local(endpoint.mac)
        # Neighbour discovery speaks from the link-local address, and from :: while that one is tentative.
        for source in (endpoint.ip6, local, "::"):
            yield Element(SWITCH, "senders6", f"{sender} . {source}")
        for own in (endpoint.ip6, local):
            yield Element(SWITCH, "own6", f"{port} . {int(own):#x}")
    for published in endpoint.ports:
        at = published.host_address
        where = f"{published.protocol} . {published.host_port}"
        for address in endpoint.addresses:
            to = f"{address} . {published.container_port}"
            if at is None or at == _ALL[address.version]:
                yield Element(FILTER, f"published{address.version}", where, to)
            elif at not in _ALL.values() and (":" in at) == (address.version == 6):
                yield Element(FILTER, f"published{address.version}_at", f"{at} . {where}", to)


@dataclass(frozen=True, slots=True)
class Plan:
    """What brings the observed to the desired, in the order it is to be done.

    Links come before the elements that open them, and elements that close before links go: at no moment does
    an element admit a link that is not there for it. ``changed_bridges`` are updated in place: a bridge is never
    made anew under running containers.
    """

    new_bridges: tuple[Bridge, ...] = ()
    changed_bridges: tuple[tuple[Bridge, Bridge], ...] = ()
    new_ports: tuple[Port, ...] = ()
    changed_ports: tuple[Port, ...] = ()
    new_elements: frozenset[Element] = frozenset()
    old_elements: frozenset[Element] = frozenset()
    old_links: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return any(
            (
                self.new_bridges,
                self.changed_bridges,
                self.new_ports,
                self.changed_ports,
                self.new_elements,
                self.old_elements,
                self.old_links,
            )
        )


def plan(wanted: Dataplane, observed: Dataplane) -> Plan:
    """The steps from ``observed`` to ``wanted``; empty when they agree."""
    return Plan(
        new_bridges=tuple(b for name, b in wanted.bridges.items() if name not in observed.bridges),
        changed_bridges=tuple(
            (before, bridge)
            for name, bridge in wanted.bridges.items()
            if (before := observed.bridges.get(name)) is not None and before != bridge
        ),
        new_ports=tuple(p for name, p in wanted.ports.items() if name not in observed.ports),
        changed_ports=tuple(
            port for name, port in wanted.ports.items() if name in observed.ports and observed.ports[name] != port
        ),
        new_elements=wanted.elements - observed.elements,
        old_elements=observed.elements - wanted.elements,
        old_links=tuple(
            name
            for there, want in ((observed.ports, wanted.ports), (observed.bridges, wanted.bridges))
            for name in there
            if name not in want
        ),
    )


def union(parts: Iterable[Dataplane]) -> Dataplane:
    """All of ``parts`` as one."""
    bridges: dict[str, Bridge] = {}
    ports: dict[str, Port] = {}
    elements: set[Element] = set()
    for part in parts:
        bridges.update(part.bridges)
        ports.update(part.ports)
        elements.update(part.elements)
    return Dataplane(bridges, ports, frozenset(elements))
