"""From containers to the table of hosts: who is served where, who is not, and why.

Pure. The inputs are what the engine says of the web containers, whether their ports accept, and who has claimed which
host name before; the output is the whole table anew. First come, first served: a claim stays with its owner for as long
as a container of the owner's asks for the name, running or not, and the others are told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from stackpad.labels import WebRequest, Wire

Owner = str
"""Organisation, project and environment, as ``acme/my-app/production``."""


class State(StrEnum):
    """What a container or a host is doing."""

    UP = "up"
    STARTING = "starting"
    UNHEALTHY = "unhealthy"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class WebContainer:
    """A container of type ``web``, with checked labels. ``address`` has no port; IPv6 without brackets.

    ``since`` is when it was made (Unix time, seconds), ``started`` when it was last started, as the engine writes it.
    ``checked`` says that Docker itself watches over its health; ``last_signals`` are the numbers of those that ask it to
    end. ``reason`` says why it is not up.
    """

    id: str
    name: str
    request: WebRequest
    address: str | None
    port: int | None
    state: State
    since: float
    checked: bool = False
    started: str = ""
    last_signals: frozenset[str] = frozenset()
    reason: str = ""

    @property
    def owner(self) -> Owner:
        """Who its host names belong to."""
        return f"{self.request.org}/{self.request.project}/{self.request.environment}"

    @property
    def upstream(self) -> str:
        """Address and port as Caddy dials them."""
        host = f"[{self.address}]" if self.address and ":" in self.address else self.address
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Claim:
    """Who owns a host name, and which of its services each path; ``since`` is Unix time, seconds."""

    owner: Owner
    since: float
    paths: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Member:
    """One container behind a route, for people to read."""

    name: str
    state: State
    reason: str


@dataclass(frozen=True, slots=True)
class PathRoute:
    """Where requests below a path of a host go; no upstreams means that nobody is up.

    ``members`` are for people: two routes that differ in them alone are the same to Caddy, and equal.
    """

    path: str
    service: str
    upstreams: tuple[str, ...]
    wire: Wire
    state: State
    members: tuple[Member, ...] = field(default=(), compare=False)

    @property
    def reason(self) -> str | None:
        """Why nobody is up; ``None`` where somebody is."""
        if self.state is State.UP:
            return None
        return "; ".join(f"{member.name}: {member.reason}" for member in self.members if member.reason) or None


@dataclass(frozen=True, slots=True)
class HostRoute:
    """One host of the table; ``paths`` are sorted with the longest first."""

    host: str
    owner: Owner
    since: float
    paths: tuple[PathRoute, ...]

    @property
    def state(self) -> State:
        """Up if anything behind the host is."""
        states = {path.state for path in self.paths}
        return next(state for state in State if state in states)

    @property
    def simple(self) -> PathRoute | None:
        """The only route, if the table can say it in a line: whole host, plain HTTP, at most one upstream."""
        first = self.paths[0]
        plain = len(self.paths) == 1 and not first.path and first.wire is Wire.HTTP
        return first if plain and len(first.upstreams) < 2 else None


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a container is not served, or not at a name it asked for."""

    container: str
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """The hosts in order, the claims that make them so, and what is left to say."""

    hosts: tuple[HostRoute, ...] = ()
    claims: Mapping[str, Claim] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


def table(containers: Iterable[WebContainer], claims: Mapping[str, Claim], *, base_domain: str, now: float) -> Table:
    """The table for ``containers``, given the ``claims`` of the last one.

    Containers claim in the order of their start, so that of two newcomers the earlier wins, whatever order they are
    listed in. A claim nobody asks for any more is not in the result.
    """
    asked: dict[tuple[str, str], list[WebContainer]] = {}
    kept: dict[str, Claim] = {}
    problems: list[Problem] = []
    # Those who own a name already come first: a restarted container does not lose its place to one started before.
    ordered = sorted(containers, key=lambda c: (c.since, c.id))
    for owners_only in (True, False):
        for container in ordered:
            path, service = container.request.path, container.request.service
            for host in (container.request.platform_host(base_domain), *container.request.domains):
                before = claims.get(host)
                owns = before is not None and (before.owner, before.paths.get(path)) == (container.owner, service)
                if owns is not owners_only:
                    continue
                fresh = Claim(container.owner, now, {path: service})
                claim = kept.setdefault(host, before if owns and before else fresh)
                problem = _refused(claim, container, host)
                if problem is not None:
                    problems.append(problem)
                    continue
                if path not in claim.paths:
                    kept[host] = Claim(claim.owner, claim.since, {**claim.paths, path: service})
                asked.setdefault((host, path), []).append(container)
    claims_left = {
        host: Claim(claim.owner, claim.since, {p: s for p, s in sorted(claim.paths.items()) if (host, p) in asked})
        for host, claim in sorted(kept.items())
    }
    hosts = tuple(
        HostRoute(
            host,
            claim.owner,
            claim.since,
            tuple(_route(path, asked[host, path]) for path in sorted(claim.paths, key=lambda path: (-len(path), path))),
        )
        for host, claim in claims_left.items()
        if claim.paths
    )
    return Table(hosts, {h: c for h, c in claims_left.items() if c.paths}, tuple(problems))


def _refused(claim: Claim, container: WebContainer, host: str) -> Problem | None:
    path, service = container.request.path, container.request.service
    if claim.owner != container.owner:
        text = f"{host} belongs to {claim.owner}; ask for another name, or remove that one first"
    elif claim.paths.get(path, service) != service:
        holder = claim.paths[path]
        text = (
            f"{host}{path or '/'} is served by {holder} of the same environment; "
            f"give {service} a path of its own with stackpad.path"
        )
    else:
        return None
    return Problem(container.id, container.name, text)


def _route(path: str, containers: list[WebContainer]) -> PathRoute:
    # What a service speaks is the word of its oldest container that is up: a route can speak one thing only.
    up = sorted((container for container in containers if container.state is State.UP), key=lambda c: (c.since, c.id))
    first = (up or containers)[0].request
    same = sorted({container.upstream for container in up if container.request.wire is first.wire})
    states = {container.state for container in containers}
    members = tuple(sorted((Member(c.name, c.state, c.reason) for c in containers), key=lambda member: member.name))
    return PathRoute(path, first.service, tuple(same), first.wire, next(s for s in State if s in states), members)
