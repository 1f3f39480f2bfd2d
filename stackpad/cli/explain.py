"""Why one container reaches another, or which step stops it; pure.

Walks the way of a connection: the asking container, the name, the address, the environment, the rule at the sender, the
tunnel, the rule at the receiver, the other container; or, to what is no container's, the way out. The sender's rule is
what this node's firewall has been given; the receiver's is told from the records that its node makes it of: a part of
the environment counts with those of its ranges that the node it belongs to really holds.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from stackpad.cli.daemonjson import RESOLVERS
from stackpad.cli.render import Grid, clean, duration
from stackpad.cli.reports import ClusterReport, EndpointReport, NetworkReport, NodeReport, ServiceReport
from stackpad.metadata import METADATA_AND_DNS, is_closed

EGRESS = "stackpad.egress"


@dataclass(frozen=True, slots=True)
class Step:
    """One step: ``ok`` or what stops here; ``remedy`` is empty where there is none to give."""

    name: str
    ok: bool
    text: str
    remedy: str = ""


def explain(
    who: str,
    whom: str,
    networks: Sequence[NetworkReport],
    services: Sequence[ServiceReport],
    cluster: ClusterReport,
    node: Sequence[str] = (),
) -> list[Step]:
    """The steps from container ``who`` of this node to ``whom``, a name or an address, up to the one that stops it.

    ``node`` are the addresses by which the outside reaches this node.
    """
    steps = []
    for step in _walk(who, whom, networks, services, cluster, node):
        steps.append(step)
        if not step.ok:
            break
    return steps


def grid(steps: Sequence[Step]) -> Grid:
    """The steps as a table."""
    rows = tuple(
        (step.name, "ok" if step.ok else "stops here", clean(step.text + (f"; {step.remedy}" if step.remedy else "")))
        for step in steps
    )
    return Grid(("STEP", "RESULT", "WHAT"), rows, prose=True)


def _walk(
    who: str,
    whom: str,
    networks: Sequence[NetworkReport],
    services: Sequence[ServiceReport],
    cluster: ClusterReport,
    node_addresses: Sequence[str],
) -> Iterator[Step]:
    own = [(network, end) for network in networks for end in network.endpoints if who in {end.container, end.id}]
    if not own:
        ends = [end for network in networks for end in network.endpoints]
        there = f"there are: {', '.join(sorted({end.name for end in ends})) or 'none'}"
        if any(end.container is None for end in ends):
            there += "; one has just started and its name is not known yet: ask again in a second"
        yield Step("from", False, f"no container {who} on a network of ours here", there)
        return
    environments = {network.environment or network.shown_name for network, _ in own}
    addresses = ", ".join(address for _, end in own for address in end.addresses)
    yield Step("from", True, f"{who} has {addresses} in {', '.join(sorted(environments))}")
    found = _targets(whom, networks, services)
    if any(whom == gateway.partition("/")[0] for network, _ in own for gateway in network.gateways):
        yield Step("address", True, f"{whom} is the gateway of its network: ping and DNS (53) are reached there")
        return
    if not found and _is_outside(whom, networks, cluster, environments):
        yield from _way_out(who, whom, own, whom in node_addresses)
        return
    yield _name(whom, found, environments)
    shared = [target for target in found if target.environment in environments]
    target = next((target for target in shared if target.alive and target.reached), (shared or found)[0])
    yield _environment(whom, target, environments)
    network, end = next((n, e) for n, e in own if (n.environment or n.shown_name) == target.environment)
    yield _sender(network, end)
    if target.local:
        yield Step("way", True, f"both are on this node, over bridge {network.bridge}")
    else:
        node = next((node for node in cluster.nodes if node.name == target.node), NodeReport(name=target.node))
        yield _admitted(network, target)
        yield _tunnel(node)
        yield _receiver(network, end, node, cluster)
    yield Step(
        "to", True, f"{target.container} has {', '.join(target.addresses)}; a server must listen there on all addresses"
    )


@dataclass(frozen=True, slots=True)
class _Target:
    environment: str
    container: str
    addresses: tuple[str, ...]
    node: str
    alive: bool
    local: bool
    reached: bool = True


def _targets(whom: str, networks: Sequence[NetworkReport], services: Sequence[ServiceReport]) -> list[_Target]:
    """Whoever has the name or address: on this node by its own word, on others by the records."""
    found = [
        _Target(network.environment or network.shown_name, end.name, end.addresses, "this node", alive=True, local=True)
        for network in networks
        for end in network.endpoints
        if whom in {end.container, *end.addresses}
    ]
    known = {address for target in found for address in target.addresses}
    for service in services:
        called = {*service.names, *(f"{name}.{service.environment}" for name in service.names), *service.addresses}
        if whom.lower() in called and not known & set(service.addresses):
            local = any(set(service.addresses) & set(end.addresses) for n in networks for end in n.endpoints)
            node, alive, reached = service.node or "this node", service.alive, service.reached
            found.append(_Target(service.environment, service.container, service.addresses, node, alive, local, reached))
    return found


def _name(whom: str, found: Sequence[_Target], environments: set[str]) -> Step:
    kind = "address" if _is_address(whom) else "name"
    if not found:
        remedy = "stackpad services lists the names; a container has to run to have one"
        if kind == "address":
            remedy = "it is in a range of ours, or none that is routed; a container has to run to have it"
        return Step(kind, False, f"no container of ours has {whom}", remedy)
    shared = [target for target in found if target.environment in environments]
    if shared and not any(target.alive for target in shared):
        gone = ", ".join(sorted({target.node for target in shared}))
        return Step(kind, False, f"{whom} is on {gone}, which gives no sign of life", "its name is hidden until it does")
    if shared and not any(target.alive and target.reached for target in shared):
        there = ", ".join(sorted({f"{', '.join(target.addresses)} on {target.node}" for target in shared}))
        text = f"{whom} is {there}, in a range that is not reached from here"
        return Step(kind, False, text, "its name is hidden; stackpad status says what is in the way")
    shown = ", ".join(f"{', '.join(t.addresses)} on {t.node}" for t in shared or found)
    return Step(kind, True, f"{whom} is {shown}")


def _is_outside(
    whom: str, networks: Sequence[NetworkReport], cluster: ClusterReport, environments: Iterable[str]
) -> bool:
    """Whether what is no container's is sought outside: by an address in no range of ours, or a name of several parts."""
    if not _is_address(whom):
        return "." in whom and not any(whom.lower().endswith(f".{name.lower()}") for name in environments)
    ours = {subnet for network in networks for subnet in (*network.subnets, *(network.remote or ()))}
    ours |= {subnet for network in networks for part in network.parts or () for subnet in part.subnets}
    ours |= {net for net in (cluster.range4, cluster.range6) if net and cluster.member}
    ip = ipaddress.ip_address(whom)
    return not (ip.is_loopback or ip.is_multicast or ip.is_unspecified or _lies(whom, ours))


def _way_out(who: str, whom: str, own: Sequence[tuple[NetworkReport, EndpointReport]], at_node: bool) -> Iterator[Step]:
    """To the outside, or the node itself: what the rules let a container begin that is on these networks."""
    address = _is_address(whom)
    if whom in RESOLVERS:
        yield Step("address", True, f"{whom} is the resolver's: DNS (53) is reached there")
        return
    if whom == METADATA_AND_DNS:
        yield Step("address", True, f"{whom} is of a cloud's metadata: DNS (53) is reached there, and nothing else")
        return
    if address and is_closed(whom):
        yield Step(
            "address", False, f"{whom} is one of a link, or of cloud metadata", "no container of ours reaches these"
        )
        return
    yield Step("address" if address else "name", True, f"{whom} is no container of ours")
    called = ", ".join(network.shown_name for network, _ in own)
    open_ = [(network, end) for network, end in own if not network.internal]
    if not open_:
        remedy = "connect it to a network without --internal as well (docker network connect)"
        yield Step("way out", False, f"{called} is internal: nothing outside is reached", remedy)
        return
    if address and ":" in whom and not any(":" in one for _, end in open_ for one in end.addresses):
        yield Step("way out", False, f"{who} has no IPv6 address with a way out", "create the network with --ipv6")
        return
    if at_node:
        text = (
            f"{whom} is this node's own: ping, DNS (53), HTTP and HTTPS (80, 443) and published ports are reached there"
        )
        yield Step("node", True, text)
        return
    let = [network.shown_name for network, _ in open_ if network.egress]
    shut = [network.shown_name for network, _ in open_ if not network.egress]
    if not let:
        text = f"{', '.join(shut)} has {EGRESS}=false: its containers begin no connections to the outside"
        yield Step("way out", False, text, "only answers leave; the option is set where the network is made")
        return
    text = f"{', '.join(let)} lets its containers out, by the node's address; not to Docker's own networks here"
    if shut:
        text += (
            f". {', '.join(shut)} does not, and which of them leads out is Docker's choice (ip route in the container)"
        )
    yield Step("way out", True, text)


def _environment(whom: str, target: _Target, environments: set[str]) -> Step:
    if target.environment not in environments:
        own = " or ".join(sorted(environments))
        if _is_address(whom):
            text = f"{whom} is in {target.environment}, not in {own}"
            remedy = "environments are kept apart; what is meant to meet is on one network (docker network connect)"
            return Step("environment", False, text, remedy)
        text = f"nobody in {own} has the name {whom}; what has it is in {target.environment}, which is kept apart"
        return Step("environment", False, text, "does the container run that should have it? docker ps --all")
    return Step("environment", True, f"both are in {target.environment}")


def _sender(network: NetworkReport, end: EndpointReport) -> Step:
    if end.lost:
        return Step("sender", False, "the container's link is gone", "restart the container")
    if network.problem:
        return Step("sender", False, f"network {network.shown_name} is not settled: {network.problem}")
    return Step("sender", True, f"rules and bridge {network.bridge} are in place, MTU {network.mtu}")


def _admitted(network: NetworkReport, target: _Target) -> Step:
    """The sender's rule: its firewall lets packets of this network into the tunnel to these ranges only."""
    if network.remote is None:
        return Step("admitted", True, "the plugin does not say what its firewall admits; it is an older one")
    admitted = [address for address in target.addresses if _lies(address, network.remote)]
    if admitted:
        return Step("admitted", True, f"this node's firewall admits {', '.join(admitted)} for this network")
    shut = target.addresses[0]
    published = [subnet for part in network.parts or () for subnet in part.subnets if _lies(shut, (subnet,))]
    if published:
        text = f"{shut} lies in {published[0]}, which {target.node} has published but does not hold"
        return Step("admitted", False, text, f"remove that network on {target.node} and create it again")
    text = f"this node's firewall admits {', '.join(network.remote) or 'no range'} for this network, not {shut}"
    return Step("admitted", False, text, f"has {target.node} published its part? stackpad doctor there, and here")


def _tunnel(node: NodeReport) -> Step:
    if not node.id:
        return Step("tunnel", False, f"node {node.name} is not known here", "stackpad node ls shows the nodes")
    if node.round_trip is None:
        since = "never" if node.handshake is None else f"{duration(node.handshake)} ago"
        if node.endpoint:
            remedy = f"it is called at {node.endpoint}; is that UDP port open there?"
        else:
            remedy = "its address is not known: it has to call first"
        return Step("tunnel", False, f"{node.name} does not answer through the tunnel; last handshake {since}", remedy)
    text = f"{node.name} at {node.endpoint}, round trip {node.round_trip * 1000:.2f} ms, MTU {node.mtu}"
    return Step("tunnel", True, text)


def _receiver(network: NetworkReport, end: EndpointReport, node: NodeReport, cluster: ClusterReport) -> Step:
    """The receiver's rule: it admits what this node has published as its part and holds."""
    if not node.alive:
        return Step("receiver", False, f"{node.name} gives no sign of life", f"stackpad doctor on {node.name}")
    if network.parts is None:
        return Step("receiver", True, f"{node.name} is alive; what is published is not known, the plugin is an older one")
    mine = [subnet for part in network.parts if part.node == cluster.node for subnet in part.subnets]
    here = next((one for one in cluster.nodes if one.self), NodeReport())
    unpublished = [address for address in end.addresses if not _lies(address, mine)]
    if unpublished == list(end.addresses):
        text = f"this node has not published the range of {', '.join(unpublished)}, so {node.name} admits nothing from it"
        return Step("receiver", False, text, "is the store there? stackpad doctor here")
    held = [subnet for subnet in mine if any(_within(subnet, net) for net in (*here.blocks, *here.ranges))]
    if not any(_lies(address, held) for address in end.addresses):
        text = f"{', '.join(mine)} is published but not held by this node, so {node.name} does not admit it"
        return Step(
            "receiver", False, text, "remove the network and create it again; stackpad node ls shows who holds it"
        )
    if not any(part.node == node.id for part in network.parts):
        text = f"{node.name} has not published its part of this environment"
        return Step("receiver", False, text, f"stackpad doctor on {node.name}")
    return Step("receiver", True, f"{node.name} is alive, and admits {', '.join(held)}: published, and held by this node")


def _lies(address: str, ranges: Iterable[str]) -> bool:
    """Whether an address, perhaps with a prefix length, lies in one of the ranges."""
    ip = ipaddress.ip_address(address.partition("/")[0])
    return any(ip in ipaddress.ip_network(net) for net in ranges)


def _within(net: str, other: str) -> bool:
    one, whole = ipaddress.ip_network(net), ipaddress.ip_network(other)
    return one.version == whole.version and one.overlaps(whole) and one.prefixlen >= whole.prefixlen


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
