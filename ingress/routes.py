"""From containers to the table of hosts: who is served where, who is not, and why.

Pure. The inputs are what the engine says of the web containers, whether their ports accept, and the ledger of who owns
which host name; the output is the whole table anew, with the ledger as it is from now on. Who gets a name is decided in
:mod:`ingress.deciding`, name by name; here the names meet their containers, and those who do not get one are told.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from ingress.deciding import Ask, Decision, Standing, decide
from ingress.ledger import HERE, Claim, How, Ledger, Owner, Released, remembered
from stackpad.labels import WebRequest, Wire


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
    ``labels`` are what ``request`` was read from.
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
    """Why a container is not served, or not at a name it asked for; ``conflict`` if that is because another is."""

    container: str
    name: str
    text: str
    conflict: bool = False


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
class Table:
    """The hosts in order, the ledger that makes them so, and what is left to say."""

    hosts: tuple[HostRoute, ...] = ()
    ledger: Ledger = field(default_factory=Ledger)
    problems: tuple[Problem, ...] = ()
    waiting: tuple[Waiting, ...] = ()

    @property
    def claims(self) -> Mapping[str, Claim]:
        """Who owns which host name."""
        return self.ledger.claims


def table(
    containers: Iterable[WebContainer],
    ledger: Ledger,
    *,
    base_domain: str,
    now: float,
    heard: Collection[str] = (HERE,),
    here: str = HERE,
    believe: bool = False,
) -> Table:
    """The table for ``containers``, given the ``ledger`` of the last one.

    Containers ask in the order of their start, so that of two newcomers the earlier wins, whatever order they are listed
    in. ``heard`` are the nodes whose lists are complete: a claim is over when none of its nodes can have anybody left who
    asks, so that a node that is not heard releases nothing. ``here`` is this node, whose containers come
    first. ``believe`` needs no proof of custom domains.
    """
    asking: dict[str, list[WebContainer]] = {}
    for container in sorted(containers, key=lambda c: (c.since, c.id)):
        for host in dict.fromkeys((container.request.platform_host(base_domain), *container.request.domains)):
            asking.setdefault(host, []).append(container)
    claims: dict[str, Claim] = {}
    released: dict[str, Released] = {}
    hosts: list[HostRoute] = []
    problems: list[Problem] = []
    waiting: list[Waiting] = []
    for host in sorted(asking.keys() | ledger.claims.keys()):
        there = asking.get(host, [])
        before = ledger.claims.get(host)
        made = decide(
            [Ask(c.owner, c.request.path, c.request.service, c.node) for c in there],
            before,
            now=now,
            platform=_is_platform(host, base_domain),
            ruling=ledger.rulings.get(host),
            released=ledger.released.get(host),
            heard=heard,
            believe=believe,
        )
        if made.released is not None and before is not None and _is_worth_remembering(before):
            released[host] = made.released
        if made.claim is None:
            continue
        claims[host] = made.claim
        own = [container for container in there if container.owner == made.claim.owner]
        problems += _losers(host, there, made)
        if made.standing is Standing.ACTIVE:
            hosts += _host(host, made.claim, own, here)
        else:
            waiting += _waiting(host, there, made, ledger)
    marks = remembered({**ledger.released, **released} if released else ledger.released, now)
    found = Ledger(claims, ledger.rulings, marks)
    return Table(tuple(hosts), found, tuple(problems), tuple(_strict(one, claims) for one in waiting))


def _is_platform(host: str, base_domain: str) -> bool:
    return host.endswith(f".{base_domain}")


def _is_worth_remembering(claim: Claim) -> bool:
    """A proof that is over must not come back with an old ledger; other claims lose nothing by it."""
    return claim.proof is not None and claim.proof.how is not How.PLATFORM


def _host(host: str, claim: Claim, own: list[WebContainer], here: str) -> Iterable[HostRoute]:
    serving: dict[str, list[WebContainer]] = {}
    for container in own:
        if claim.paths[container.request.path] == container.request.service:
            serving.setdefault(container.request.path, []).append(container)
    if serving:
        paths = sorted(serving, key=lambda path: (-len(path), path))
        yield HostRoute(host, claim.owner, claim.since, tuple(_route(path, serving[path], here) for path in paths))


def _losers(host: str, there: list[WebContainer], made: Decision) -> Iterable[Problem]:
    """Those who ask and do not get it. Nobody has lost a domain that nobody has proved."""
    claim = made.claim
    if claim is None:
        return
    for container in there:
        path, service = container.request.path, container.request.service
        if container.owner != claim.owner:
            if made.standing is Standing.ACTIVE:
                text = f"{host} belongs to {claim.owner}; ask for another name, or remove that one first"
                yield Problem(container.id, container.name, text, conflict=True)
        elif claim.paths[path] != service:
            text = (
                f"{host}{path or '/'} is served by {claim.paths[path]} of the same environment; "
                f"give {service} a path of its own with stackpad.path"
            )
            yield Problem(container.id, container.name, text, conflict=True)


def _waiting(host: str, there: list[WebContainer], made: Decision, ledger: Ledger) -> Iterable[Waiting]:
    """What is to be said of a domain that is not served, for each owner that asks for it."""
    first: dict[Owner, WebContainer] = {}
    for container in there:
        first.setdefault(container.owner, container)
    ruling = ledger.rulings.get(host)
    for owner, container in first.items():
        mine = made.claim is not None and made.claim.owner == owner
        since = made.claim.since if made.claim is not None and mine else container.since
        yield Waiting(
            host,
            owner,
            container.request.service,
            since,
            made.standing,
            rivals=tuple(other for other in first if other != owner),
            kept_for=ruling.owner if ruling is not None and ruling.allowed else "",
        )


def _strict(one: Waiting, claims: Mapping[str, Claim]) -> Waiting:
    """With what its pointing here is worth: nothing where others ask for it, or have a domain above it."""
    return replace(one, dns_only=bool(one.rivals) or one.host.startswith("*.") or _is_below(one, claims))


def _is_below(one: Waiting, claims: Mapping[str, Claim]) -> bool:
    """Whether a domain above it is another owner's: its wildcard record would have any name below it point here."""
    parent = one.host.partition(".")[2]
    while "." in parent:
        for name in (parent, f"*.{parent}"):
            claim = claims.get(name)
            if claim is not None and claim.proof is not None and claim.owner != one.owner:
                return True
        parent = parent.partition(".")[2]
    return False


def _route(path: str, containers: list[WebContainer], here: str) -> PathRoute:
    # What a service speaks is the word of its oldest container that is up: a route can speak one thing only.
    up = sorted((container for container in containers if container.state is State.UP), key=lambda c: (c.since, c.id))
    first = (up or containers)[0].request
    # Those on this node come first: what need not go through the tunnel does not.
    near = [container for container in up if container.node == here] or up
    same = sorted({container.upstream for container in near if container.request.wire is first.wire})
    states = {container.state for container in containers}
    members = tuple(
        sorted((Member(c.name, c.state, c.reason, c.node) for c in containers), key=lambda member: member.name)
    )
    return PathRoute(path, first.service, tuple(same), first.wire, next(s for s in State if s in states), members)
