"""What a name means, and for whom.

Pure. Who asks is known from the source address alone, and each container is told of the environments it is in and of
nothing else: a name of another environment is a name that nobody knows.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from plugin.mesh import View as ClusterView
from plugin.model import IPAddress

_SERVICE = re.compile(r"_([a-z0-9-]+)\._(tcp|udp)\.(.+)")


@dataclass(frozen=True, slots=True)
class Replica:
    """One container behind a name. ``ports`` are the ones its image or its user declares, as ``5432/tcp``."""

    container: str
    addresses: tuple[IPAddress, ...]
    ports: tuple[str, ...] = ()
    local: bool = False


@dataclass(frozen=True, slots=True)
class Environment:
    """``names`` in lower case; ``hidden`` are those whose node is not alive; ``internal`` has no way outside."""

    name: str
    names: Mapping[str, tuple[Replica, ...]] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()
    reverse: Mapping[IPAddress, str] = field(default_factory=dict)
    internal: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """Environments by name, and which of them the owner of each address is in."""

    clients: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    environments: Mapping[str, Environment] = field(default_factory=dict)

    def of(self, client: str) -> tuple[Environment, ...]:
        """The environments of whoever has the address ``client``; none for a stranger."""
        found = (self.environments.get(name) for name in self.clients.get(client, ()))
        return tuple(environment for environment in found if environment is not None)


class Unknown(Enum):
    """What becomes of a name that is not known."""

    FORWARD = "forward"
    """It is nobody's here: ask the host's servers."""

    GONE = "gone"
    """It is ours, and there is nobody behind it now."""


@dataclass(frozen=True, slots=True)
class Found:
    """A known name. ``replicas`` to be answered, local ones alone if there are any; ``port`` asked for by an SRV name."""

    environment: Environment
    replicas: tuple[Replica, ...]
    service: tuple[str, str] | None = None

    def addresses(self, version: int) -> list[IPAddress]:
        """The addresses of one family."""
        return [ip for replica in self.replicas for ip in replica.addresses if ip.version == version]

    def services(self) -> list[tuple[Replica, int]]:
        """Replicas with a port each: the one asked for, or every declared one."""
        found = []
        for replica in self.replicas:
            for text in replica.ports:
                number, _, protocol = text.partition("/")
                if self.service is None or (protocol == self.service[1] and self.service[0] in {number, ""}):
                    found.append((replica, int(number)))
        return found


def look_up(name: str, environments: Sequence[Environment]) -> Found | Unknown:
    """What ``name`` (lower case, without the final dot) means to somebody in ``environments``.

    Known are a container's names alone and with the environment's name behind: ``postgres`` and
    ``postgres.my-app-production``; and ``_5432._tcp.postgres`` for SRV (RFC 2782).
    """
    service = None
    matched = _SERVICE.fullmatch(name)
    if matched is not None:
        port, protocol, name = matched[1], matched[2], matched[3]
        service = (port if port.isdigit() else "", protocol)
    ours = False
    for environment in environments:
        suffix = f".{environment.name.lower()}"
        for candidate in (name, name.removesuffix(suffix)):
            replicas = environment.names.get(candidate)
            if replicas:
                local = tuple(replica for replica in replicas if replica.local)
                return Found(environment, local or replicas, service)
            ours = ours or candidate in environment.hidden
        ours = ours or name.endswith(suffix)
    return Unknown.GONE if ours or _closed(environments) else Unknown.FORWARD


def look_back(address: IPAddress, environments: Sequence[Environment]) -> str | Unknown:
    """The name of the container that has ``address``, as ``name.environment``."""
    for environment in environments:
        name = environment.reverse.get(address)
        if name is not None:
            return f"{name}.{environment.name}"
    return Unknown.GONE if _closed(environments) else Unknown.FORWARD


def _closed(environments: Sequence[Environment]) -> bool:
    """Whether nothing may be asked outside: all of the asker's networks are internal."""
    return bool(environments) and all(environment.internal for environment in environments)


@dataclass(frozen=True, slots=True)
class Own:
    """One of this node's endpoints: its container's id, environment and addresses."""

    container: str
    environment: str
    addresses: tuple[str, ...]
    internal: bool


def view(cluster: ClusterView, me: str, own: Iterable[Own]) -> View:
    """The names of every environment that has a container on this node (``me``, a node's id)."""
    own = list(own)
    of_container: dict[str, list[str]] = {}
    internal: dict[str, bool] = {}
    for endpoint in own:
        of_container.setdefault(endpoint.container, []).append(endpoint.environment)
        internal[endpoint.environment] = internal.get(endpoint.environment, True) and endpoint.internal
    clients = {
        address: tuple(dict.fromkeys(of_container[endpoint.container]))
        for endpoint in own
        for address in endpoint.addresses
    }
    names: dict[str, dict[str, list[Replica]]] = {name: {} for name in internal}
    hidden: dict[str, set[str]] = {name: set() for name in internal}
    reverse: dict[str, dict[IPAddress, str]] = {name: {} for name in internal}
    for there in cluster.endpoints.values():
        table = names.get(there.environment)
        if table is None:
            continue
        if there.owner not in cluster.alive and there.owner != me:
            hidden[there.environment].update(there.names)
            continue
        addresses = tuple(map(ipaddress.ip_address, there.addresses))
        replica = Replica(there.container.lower(), addresses, there.ports, there.owner == me)
        for name in there.names:
            table.setdefault(name, []).append(replica)
        reverse[there.environment].update((address, replica.container) for address in addresses)
    environments = {
        name: Environment(
            name,
            {key: tuple(replicas) for key, replicas in names[name].items()},
            frozenset(hidden[name] - names[name].keys()),
            reverse[name],
            internal[name],
        )
        for name in internal
    }
    return View(clients, environments)
