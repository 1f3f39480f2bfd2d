"""What the ingress holds in its hands: web containers, and the table of hosts that is made of them; pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from ingress.owners.deciding import Standing
from ingress.owners.ledger import HERE, Claim, Ledger, Owner
from stackpad import routeoptions
from stackpad.labels import WebRequest, Wire
from stackpad.routeoptions import RouteOptions


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
    end. ``reason`` says why it is not up. ``node`` is the id of the node it runs on, empty for this one; ``network`` and
    ``labels`` are what ``request`` was read from. ``endpoint`` is the engine's id of its attachment to a network whose
    driver is not Docker's own, empty while it is stopped. ``joined`` is the environment that its network's option names,
    empty without one, and ``None`` where that is not known.
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
    node: str = HERE
    network: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    endpoint: str = ""
    joined: str | None = ""

    @property
    def apart(self) -> str | None:
        """What the plugin keeps apart from all else: networks of one environment are one, on whichever node; ``None``
        where that is not known.
        """
        return None if self.joined is None else self.joined or self.network

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
class Member:
    """One container behind a route, for people to read."""

    name: str
    state: State
    reason: str
    node: str = ""


@dataclass(frozen=True, slots=True)
class PathRoute:
    """Where requests below a path of a host go; no upstreams means that nobody is up.

    ``redirect`` is the host that visitors are sent on to instead. ``members`` are for people: two routes that differ in
    them alone are the same to Caddy, and equal.
    """

    path: str
    service: str
    upstreams: tuple[str, ...]
    wire: Wire
    state: State
    members: tuple[Member, ...] = field(default=(), compare=False)
    options: RouteOptions = routeoptions.NONE
    redirect: str = ""

    @property
    def answers(self) -> str:
        """What visitors meet, for people: a redirect, maintenance, or the state of those behind the route."""
        if self.redirect:
            return "redirect"
        return "maintenance" if self.options.maintenance else self.state

    @property
    def plain(self) -> bool:
        """Whether a line of the table can say it, but for the path: no options, HTTP/1.1, at most one upstream."""
        if self.redirect or self.options.maintenance or not self.upstreams:
            return True
        if len(self.upstreams) > 1 or self.wire is not Wire.HTTP:
            return False
        # Mostly nothing is asked for at all, and there are thousands of these at every change.
        return self.options is routeoptions.NONE or replace(self.options, canonical="") == routeoptions.NONE

    @property
    def reason(self) -> str | None:
        """Why visitors do not get an answer of the service; ``None`` where they do."""
        if self.redirect:
            return f"visitors are sent on to {self.redirect}"
        if self.options.maintenance:
            return f"its label {routeoptions.MAINTENANCE} says so"
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
        if len(self.paths) == 1:
            return self.paths[0].state
        states = {path.state for path in self.paths}
        return next(state for state in State if state in states)

    @property
    def simple(self) -> PathRoute | None:
        """The only route, if the table can say it in a line: the whole host, and plain."""
        first = self.paths[0]
        return first if len(self.paths) == 1 and not first.path and first.plain else None


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a container is not served, or not at a name it asked for; ``conflict`` if that is because another is.

    ``node`` is the id of its node, empty for this one.
    """

    container: str
    name: str
    text: str
    conflict: bool = False
    node: str = ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A custom domain that is not served (yet) for an owner that asks for it.

    ``rivals`` are other owners that ask for it, none of whom has it. ``dns_only`` says that its pointing here would prove
    nothing: it points here for others too. ``kept_for`` is whose it is on the operator's word.
    """

    host: str
    owner: Owner
    service: str
    since: float
    standing: Standing
    rivals: tuple[Owner, ...] = ()
    dns_only: bool = False
    kept_for: Owner = ""


@dataclass(frozen=True, slots=True)
class Made:
    """What one host of a table was made of, and what it came to: while the former is the same, so is the latter."""

    containers: tuple[WebContainer, ...]
    claim: Claim
    here: str
    route: HostRoute


@dataclass(frozen=True, slots=True)
class Table:
    """The hosts in order, the ledger that makes them so, and what is left to say.

    ``made`` has those hosts that need not be made anew for the next table; it is no part of what the table says.
    """

    hosts: tuple[HostRoute, ...] = ()
    ledger: Ledger = field(default_factory=Ledger)
    problems: tuple[Problem, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    made: Mapping[str, Made] = field(default_factory=dict, compare=False, repr=False)

    @property
    def claims(self) -> Mapping[str, Claim]:
        """Who owns which host name."""
        return self.ledger.claims
