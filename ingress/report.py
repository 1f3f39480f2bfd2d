"""What there is to say about the table, for people and programs; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ingress.following.remote import Seen
from ingress.routes import HostRoute, PathRoute, Problem, Table, Waiting


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything a report is made of; ``rejected`` are hosts Caddy refuses, ``reason`` says why a domain waits.

    ``certificate`` says what is known of a host's certificate, ``number`` by which one the kernel knows a route.
    ``lacking`` says what to do about a plugin that should be there and is not. ``away`` says that Caddy does not run.
    """

    control: bool
    problem: str | None
    stale: bool
    seen: Seen
    table: Table
    problems: Iterable[Problem]
    rejected: Mapping[str, str] = field(default_factory=dict)
    reason: Callable[[Waiting], str] = lambda _: ""
    certificate: Callable[[HostRoute], Mapping[str, Any]] = lambda _: {}
    certificate_problems: Iterable[str] = ()
    lacking: str = ""
    away: bool = False
    number: Callable[[HostRoute, PathRoute], int | None] = lambda *_: None


def report(facts: Facts) -> dict[str, Any]:
    """The report, as ``stackpad routes --json`` shows it."""
    seen = facts.seen
    names = {node.owner: node.name for node in seen.nodes.values()}
    routes = [_route(facts, names, host, path) for host in facts.table.hosts for path in host.paths]
    return {
        "control": facts.control,
        "node": names.get(seen.node, ""),
        "nodes": list(_nodes(seen)),
        "problem": facts.problem,
        "away": facts.away,
        "stale": facts.stale,
        "routes": routes + [_waiting(one, facts.reason(one)) for one in facts.table.waiting],
        "problems": [
            {"container": p.name, "id": p.container, "problem": p.text, "node": names.get(p.node or seen.node, "")}
            for p in facts.problems
        ],
        "certificate_problems": list(facts.certificate_problems),
        "lacking": facts.lacking,
    }


def _nodes(seen: Seen) -> Iterable[dict[str, Any]]:
    for node in sorted(seen.nodes.values(), key=lambda node: node.name):
        ingress = seen.ingresses.get(node.owner)
        yield {
            "id": node.owner,
            "name": node.name,
            "self": node.owner == seen.node,
            "alive": node.owner in seen.alive,
            "control": ingress is not None and ingress.control,
            "ingress": ingress is not None,
            "stale": ingress is not None and ingress.stale,
        }


def _route(facts: Facts, names: Mapping[str, str], host: HostRoute, path: PathRoute) -> dict[str, Any]:
    return {
        "host": host.host,
        "path": path.path or "/",
        "owner": host.owner,
        "service": path.service,
        "state": "rejected" if host.host in facts.rejected else path.answers,
        "reason": facts.rejected.get(host.host) or path.reason,
        "upstreams": list(path.upstreams),
        "options": list(path.options.labels),
        "number": facts.number(host, path),
        "containers": [
            {
                "name": member.name,
                "state": member.state,
                "reason": member.reason or None,
                "node": names.get(member.node, ""),
            }
            for member in path.members
        ],
        "since": host.since,
        **facts.certificate(host),
    }


def _waiting(one: Waiting, reason: str) -> dict[str, Any]:
    return {
        "host": one.host,
        "path": "/",
        "owner": one.owner,
        "service": one.service,
        "state": one.standing,
        "reason": reason,
        "upstreams": [],
        "containers": [],
        "since": one.since,
    }
