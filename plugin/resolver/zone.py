"""What a name means, and for whom.

Pure. Who asks is known from the source address alone, and each container is told of the environments it is in and of
nothing else: a name of another environment is a name that nobody knows.

What nobody knows is passed on to the host's servers, single words too: an operator's own server may know them, and
Docker's resolver passes them on as well. What ends in the asker's environment is not, unless that could be a name on the
internet: an environment may be called ``dev``, and ``go.dev`` is somebody else's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from plugin.model import IPAddress

_SERVICE = re.compile(r"_([a-z0-9-]+)\._(tcp|udp)\.(.+)")


@dataclass(frozen=True, slots=True)
class Replica:
    """One container behind a name. ``ports`` are the ones its image or its user declares, with ``tcp`` or ``udp``."""

    container: str
    addresses: tuple[IPAddress, ...]
    ports: tuple[tuple[int, str], ...] = ()
    local: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Environment:
    """``names`` in lower case; ``hidden`` are those whose node is not alive, or where nobody is reached from here;
    ``internal`` has no way outside.

    Two of them are equal only if they are the same object: what is kept for one is not taken for its successor.
    """

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
        return self.named(self.clients.get(client, ()))

    def named(self, names: Sequence[str]) -> tuple[Environment, ...]:
        """The environments with these names."""
        found = map(self.environments.get, names)
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
            for number, protocol in replica.ports:
                if self.service is None or (protocol == self.service[1] and self.service[0] in {str(number), ""}):
                    found.append((replica, number))
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
        ours = ours or (name.endswith(suffix) and not _maybe_public(environment.name))
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


def _maybe_public(environment: str) -> bool:
    """Whether the name ends as names on the internet do: a top level is letters, or ``xn--…`` (RFC 3696 §2)."""
    last = environment.rpartition(".")[2].lower()
    return last.isalpha() or last.startswith("xn--")
