"""What ``stackpad doctor`` has found on a node; pure values, the border between looking and concluding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stackpad.cli.reports import NetworkReport, Routes, Status

DRIVERS = frozenset({"stackpad", "stackpad/net:latest"})
"""The names by which the engine knows our network driver."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Stands where something could not be found out, and says why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found on the node.

    ``engine_networks`` are names by id of those that Docker knows with a driver of ours. ``filters`` is what
    ``-S`` prints of the table ``filter``, by the command asked. ``mtus`` are those of the bridges that are there.
    ``ingress`` and ``caddy`` are ``None`` where there is no such socket.
    """

    status: Status | Unknown
    networks: tuple[NetworkReport, ...] | Unknown
    plain_socket: str | Unknown
    engine_version: str | Unknown
    engine_networks: Mapping[str, str] | Unknown
    forwarding: Mapping[str, bool] = field(default_factory=dict)
    tables: frozenset[str] | Unknown = frozenset()
    filters: Mapping[str, str | Unknown] = field(default_factory=dict)
    mtus: Mapping[str, int] = field(default_factory=dict)
    ingress: Routes | Unknown | None = None
    caddy: str | Unknown | None = None
