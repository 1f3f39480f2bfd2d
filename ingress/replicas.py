"""From the containers that share a path of a host to the route of that path; pure.

What a service speaks and asks for is the word of its oldest container that is up: a route can be one thing only. Who says
something else is not served meanwhile, since what it asks for may be what protects it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ingress.routes import Member, PathRoute, Problem, State, WebContainer
from stackpad.labels import PROTOCOL

Serving = Mapping[tuple[str, str], list[WebContainer]]
"""The containers by host and path."""


def route(host: str, path: str, serving: Serving, here: str) -> PathRoute:
    """The route of one path; ``here`` is this node, whose containers come first."""
    containers = serving[host, path]
    first, *others = _in_order(containers)
    same = [first, *(other for other in others if not _differences(first, other))]
    up = [container for container in same if container.state is State.UP]
    # What need not go through the tunnel does not.
    near = [container for container in up if container.node == here] or up
    states = {container.state for container in containers}
    members = sorted((Member(c.name, c.state, c.reason, c.node) for c in containers), key=lambda member: member.name)
    # Only where the same container is served there: never to a name that is somebody else's.
    canonical = first.request.options.canonical
    there = bool(canonical) and canonical != host and first in serving.get((canonical, path), ())
    return PathRoute(
        path,
        first.request.service,
        tuple(sorted({container.upstream for container in near})),
        first.request.wire,
        next(state for state in State if state in states),
        tuple(members),
        first.request.options,
        canonical if there else "",
    )


def differing(serving: Serving) -> Iterable[Problem]:
    """Those that say something else than the one that decides."""
    # A container that asks for several hosts differs at each of them.
    return dict.fromkeys(
        problem for replicas in serving.values() if len(replicas) > 1 for problem in _differing(replicas)
    )


def _differing(replicas: list[WebContainer]) -> Iterable[Problem]:
    first, *others = _in_order(replicas)
    for other in others:
        labels = _differences(first, other)
        if other.state is State.UP and labels:
            text = (
                f"it says something else in {', '.join(labels)} than {first.name}, the oldest of {first.request.service} "
                "that is up; it is served when that one is gone, or when both say the same"
            )
            yield Problem(other.id, other.name, text, node=other.node)


def _in_order(containers: Iterable[WebContainer]) -> list[WebContainer]:
    """Those that decide: the ones that are up, or all where none is, the oldest first."""
    ordered = sorted(containers, key=lambda c: (c.since, c.id))
    return [container for container in ordered if container.state is State.UP] or ordered


def _differences(first: WebContainer, other: WebContainer) -> tuple[str, ...]:
    """The labels in which two replicas differ, of those that a route can be given once only."""
    wire = (PROTOCOL,) if first.request.wire is not other.request.wire else ()
    return wire + first.request.options.differences(other.request.options)
