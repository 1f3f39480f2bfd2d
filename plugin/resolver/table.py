"""From the cluster's records to a :class:`~plugin.resolver.zone.View`.

Pure. At ten thousand names a change must not mean ten thousand names: what is not touched is taken over from the view
before, as the same objects, so that answers kept for it stay good.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from types import MappingProxyType

import msgspec

from plugin.model import IPAddress, IPNet
from plugin.resolver.zone import Environment, Replica, View
from plugin.store.mesh import View as ClusterView
from stackpad import records
from stackpad.prefixes import Prefixes


@dataclass(frozen=True, slots=True)
class Own:
    """One of this node's endpoints: its container's id, environment (empty while that is not known) and addresses."""

    container: str
    environment: str
    addresses: tuple[str, ...]
    internal: bool


_UNNAMED = {False: "/open", True: "/internal"}
"""What the environments are called here that have no name yet: as no network can be."""


def of_nodes(cluster: ClusterView, nodes: Set[str]) -> set[str]:
    """The environments that have a container on any of ``nodes``."""
    return {there.environment for there in cluster.endpoints.values() if there.owner in nodes} if nodes else set()


def view(
    cluster: ClusterView,
    me: str,
    own: Iterable[Own],
    before: View | None = None,
    changed: Set[str] = frozenset(),
    unreached: Mapping[str, Iterable[IPNet]] = MappingProxyType({}),
) -> View:
    """The names of every environment that has a container on this node (``me``, a node's id).

    Given the view ``before``, only environments that have ``changed`` since, or are new here, are made anew.
    ``unreached`` are, by node, ranges in which its containers are not reached from here: who is there is somebody else.
    """
    clients, internal = _here(own)
    kept = before.environments if before is not None else {}
    environments = {
        name: there
        for name, there in kept.items()
        if name not in changed and name in internal and there.internal == internal[name]
    }
    new = {name: closed for name, closed in internal.items() if name not in environments}
    # Without a name there are no names of others; but whether there is a way outside holds from the beginning.
    environments.update({name: Environment(name, internal=new.pop(name)) for name in _UNNAMED.values() if name in new})
    environments.update(_environments(cluster, me, new, {node: Prefixes(nets) for node, nets in unreached.items()}))
    return View(clients, environments)


def _here(own: Iterable[Own]) -> tuple[dict[str, tuple[str, ...]], dict[str, bool]]:
    """The environments of each address here, and which environments have no way outside."""
    own = list(own)
    of_container: dict[str, dict[str, None]] = {}
    internal: dict[str, bool] = {}
    for endpoint in own:
        environment = endpoint.environment or _UNNAMED[endpoint.internal]
        of_container.setdefault(endpoint.container, {})[environment] = None
        internal[environment] = internal.get(environment, True) and endpoint.internal
    clients = {address: tuple(of_container[endpoint.container]) for endpoint in own for address in endpoint.addresses}
    return clients, internal


def reached(there: records.Endpoint, unreached: Prefixes | None) -> tuple[str, ...]:
    """Those of a container's addresses that are in none of the ranges of its node's that are not reached."""
    if unreached is None:
        return there.addresses
    return tuple(address for address in there.addresses if ipaddress.ip_address(address) not in unreached)


def _environments(
    cluster: ClusterView, me: str, wanted: dict[str, bool], unreached: Mapping[str, Prefixes]
) -> dict[str, Environment]:
    """``wanted`` says of each whether it is internal."""
    if not wanted:
        return {}
    names: dict[str, dict[str, list[Replica]]] = {name: {} for name in wanted}
    hidden: dict[str, set[str]] = {name: set() for name in wanted}
    reverse: dict[str, dict[IPAddress, str]] = {name: {} for name in wanted}
    for there in cluster.endpoints.values():
        table = names.get(there.environment)
        if table is None:
            continue
        if there.owner != me and there.owner not in cluster.alive:
            hidden[there.environment].update(there.names)
            continue
        addresses = reached(there, unreached.get(there.owner))
        if addresses != there.addresses:
            if not addresses:
                hidden[there.environment].update(there.names)
                continue
            there = msgspec.structs.replace(there, addresses=addresses)
        replica = _replica(there, local=there.owner == me)
        for name in dict.fromkeys(there.names):
            table.setdefault(name, []).append(replica)
        if replica.container:
            for address in replica.addresses:
                reverse[there.environment][address] = replica.container
    return {
        name: Environment(
            name,
            {key: tuple(replicas) for key, replicas in names[name].items()},
            frozenset(hidden[name] - names[name].keys()),
            reverse[name],
            internal,
        )
        for name, internal in wanted.items()
    }


@functools.lru_cache(maxsize=65536)
def _replica(there: records.Endpoint, *, local: bool) -> Replica:
    own = there.container.lower()
    # A container's name may be one that DNS cannot say, such as "a..b"; then it goes by another of its names.
    told = own if own in there.names else next(iter(there.names), "")
    return Replica(
        told, tuple(map(ipaddress.ip_address, there.addresses)), tuple(filter(None, map(_port, there.ports))), local
    )


@functools.lru_cache(maxsize=4096)
def _port(text: str) -> tuple[int, str] | None:
    number, _, protocol = text.partition("/")
    if protocol in {"tcp", "udp"} and re.fullmatch("[0-9]{1,5}", number) and 0 < int(number) < 65536:
        return int(number), protocol
    return None
