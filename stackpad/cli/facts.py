"""The values between looking at a node and what ``stackpad doctor`` concludes; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from stackpad.cli.render import clean
from stackpad.cli.reports import ClusterReport, NetworkReport, Routes, Status

DRIVERS = frozenset({"stackpad", "stackpad/net:latest"})
"""The names by which the engine knows our network driver."""

MAX_NAMED = 5


@dataclass(frozen=True, slots=True)
class Unknown:
    """Stands where something could not be found out, and says why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found on the node.

    ``engine_networks`` are names by id of those that Docker knows with a driver of ours, ``engine_endpoints`` the ids of
    its containers' endpoints on any network. ``filters`` is what
    ``-S`` prints of the table ``filter``, by the command asked. ``mtus`` are those of the bridges that are there.
    ``engine_pools`` are the bases of the engine's default address pools, ``daemon_json`` is what Docker's configuration
    says, ``resolver`` the address at which ours has answered, and ``resolvers_away`` are those of its addresses that this
    node could have and has not. ``firewalld`` is that firewall's table, empty if none.
    ``ingress`` is ``None`` where there is none and never was, ``caddy`` where there is no such socket. ``left`` are files
    of an earlier ingress that the one of today has others for.
    ``connections`` are how many the kernel tracks and how many it can, ``None`` where it tracks none.
    """

    status: Status | Unknown
    networks: tuple[NetworkReport, ...] | Unknown
    plain_socket: str | Unknown
    engine_version: str | Unknown
    engine_networks: Mapping[str, str] | Unknown
    engine_endpoints: frozenset[str] | Unknown
    forwarding: Mapping[str, bool] = field(default_factory=dict)
    tables: frozenset[str] | Unknown = frozenset()
    filters: Mapping[str, str | Unknown] = field(default_factory=dict)
    mtus: Mapping[str, int] = field(default_factory=dict)
    ingress: Routes | Unknown | None = None
    caddy: str | Unknown | None = None
    cluster: ClusterReport | Unknown | None = None
    engine_pools: frozenset[str] | Unknown = frozenset()
    daemon_json: Mapping[str, Any] | Unknown = field(default_factory=dict)
    resolver: str | Unknown = ""
    resolvers_away: frozenset[str] | Unknown = frozenset()
    left: tuple[str, ...] = ()
    firewalld: str | Unknown = ""
    connections: tuple[int, int] | None = None


class Level(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Check:
    """One check's outcome; ``remedy`` is empty if there is nothing to do."""

    name: str
    level: Level
    detail: str
    remedy: str = ""


def skipped(name: str, reason: str) -> Check:
    """A check that could not be made."""
    return Check(name, Level.SKIPPED, reason)


def named(names: Sequence[str]) -> str:
    """The first few of these, and how many more there are."""
    shown = ", ".join(map(clean, names[:MAX_NAMED]))
    more = len(names) - MAX_NAMED
    return f"{shown} and {more} more" if more > 0 else shown
