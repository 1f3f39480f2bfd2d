"""Stable upstreams: a number for each web service, and what the kernel and Caddy are told of it; pure.

Caddy's upstream for a service is a number that stays; which containers are behind it is the kernel's business. So a
redeploy, a replica that comes or goes, or a restart writes nothing to Caddy.

Caddy keeps connections for later visits, and those would go on to a container that is to get nothing new. So the address
has two forms that mean the same, and Caddy goes over from one to the other every five seconds, by its clock; what it has
kept at the other one is closed before that one's turn comes again.

A service whose containers are on several nodes has a number for each of them: what cannot be reached any more is mostly a
whole node, and Caddy, which passes over what does not answer, can do so only with what it can tell apart. A number whose
node has nobody of the service leads to all the others, and nodes that come and go change the numbers only after a while:
so a service that moves from node to node is no change to Caddy either.

What guards a service is Caddy's part and who is behind its number the kernel's, and the two do not change in the same
moment. So a number is for one guard only: containers that ask for another one have another number, and are never behind
the old one, whatever Caddy has. A host that not the same containers ask for as for the service's others, such as a domain
of the new version alone, has their addresses.

Services that speak HTTP/2 without TLS have no number: Caddy has one connection for all their visits, and never leaves it.
Neither have those with sticky sessions, whose replicas Caddy must tell apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ingress.routes import HostRoute, PathRoute, Table
from ingress.upstreams.pace import Shown, step
from stackpad.labels import Wire
from stackpad.upstreams import FIRST, LAST, MOST, STEM4, STEM6

_NOTHING: Mapping[str, tuple[HostRoute, HostRoute]] = {}

TURN = "{sp_turn}"
"""What stands in a stable dial for the form of the address; a placeholder of ours in Caddy."""

HOLD = 5.0
"""Seconds a service without any container stays up in Caddy: for so long its visitors are made to wait there."""


LOOK = 30.0
"""Seconds for which a service has to be on more or fewer nodes before Caddy is told more or fewer numbers."""

PARTS = 8
"""Numbers a service has at most; on more nodes than that, some share one."""


class Service(NamedTuple):
    """Who a number belongs to; ``part`` counts the numbers of a service on several nodes, ``guard`` says who may come in
    (:attr:`stackpad.routeoptions.RouteOptions.guard`).

    A tuple: there are thousands of them at every change.
    """

    owner: str
    service: str
    path: str
    part: int = 0
    guard: str = ""


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers that are given; ``last`` is the latest. One that was given back is the last to be given again."""

    last: int = FIRST - 1
    given: Mapping[Service, int] = field(default_factory=dict)


Carried = Mapping[str, str]
"""Addresses with port that the kernel may be told to send visitors to, each with the endpoint that is meant; of other
nodes' containers that is not known, and it is empty."""

Nodes = Mapping[str, str]
"""On which node an address with port is; those that are not in it are all on one."""


class Key(NamedTuple):
    """Who the number of a path of a host belongs to, and whether there may be one."""

    service: Service
    numbered: bool


Known = Mapping[str, tuple[HostRoute, tuple[Key, ...]]]
"""By name, a host and the keys of its paths: while it is the same object, so are they. Saves work, changes nothing."""

_NOBODY: Known = {}


def known(table: Table, last: Known = _NOBODY) -> Known:
    """The keys of all hosts of a table; those that are in ``last`` are not made anew."""
    return {host.host: (host, _keys(host, last)) for host in table.hosts}


def services(table: Table, last: Known = _NOBODY) -> dict[Service, tuple[str, ...]]:
    """The services of a table that may have a number, and the addresses of those that are up at their oldest host."""
    found: dict[Service, tuple[float, tuple[str, ...]]] = {}
    for host in table.hosts:
        for path, (key, numbered) in zip(host.paths, _keys(host, last), strict=True):
            if numbered:
                there = found.get(key)
                if there is None or host.since < there[0]:
                    found[key] = host.since, path.upstreams
    return {key: upstreams for key, (_, upstreams) in found.items()}


def parts(ready: Mapping[Service, tuple[str, ...]], nodes: Nodes) -> set[Service]:
    """The services with all the parts they should have."""
    return {
        service._replace(part=part)
        for service, upstreams in ready.items()
        for part in range(max(1, _count(_of_one_family(upstreams), nodes)))
    }


def used(table: Table) -> set[int]:
    """The numbers that stand in a table as Caddy has it."""
    there = (dial for host in table.hosts for path in host.paths for dial in path.upstreams if is_stable(dial))
    return {int(dial.rpartition(":")[2]) for dial in there}


def allocate(numbers: Numbers, wanted: Iterable[Service], taken: Collection[int] = ()) -> Numbers:
    """Numbers for all that are ``wanted``, and for no others, for as long as there are any; ``taken`` are not given."""
    keep = set(wanted)
    if keep == numbers.given.keys():
        return numbers
    given = {service: number for service, number in numbers.given.items() if service in keep}
    used = {*numbers.given.values(), *taken}
    last = numbers.last
    for service in sorted(keep - given.keys()):
        if len(used) > LAST - FIRST:
            break
        last = _next(last)
        while last in used:
            last = _next(last)
        given[service] = last
        used.add(last)
    return Numbers(last, given)


def spread(
    numbers: Numbers,
    ready: Mapping[Service, tuple[str, ...]],
    carried: Carried,
    nodes: Nodes,
    applied: Collection[Service] = (),
) -> dict[int, tuple[str, ...]]:
    """What the kernel is told: every number, and where it leads, each address with the endpoint that is meant.

    As long as not all parts of a service are among the ``applied``, which Caddy has, those that are lead to everybody.
    """
    told: dict[int, tuple[str, ...]] = {}
    count = Counter(_whole(service) for service in applied if service in numbers.given)
    for service, number in numbers.given.items():
        whole = _whole(service)
        upstreams = _of_one_family(ready.get(whole, ()))
        fit = all(upstream in carried for upstream in upstreams)
        some = _part(upstreams, service.part, max(count[whole], 1), nodes)[:MOST] if fit else ()
        told[number] = tuple(_named(upstream, carried[upstream]) for upstream in some)
    return told


def dials(
    path: PathRoute,
    numbers: Mapping[Service, int],
    service: Service,
    ready: tuple[str, ...],
    carried: Carried,
    nodes: Nodes,
) -> tuple[str, ...]:
    """Where Caddy is to send visitors: to the numbers, where there are such that lead to just those who are up."""
    upstreams = _of_one_family(ready)
    if service not in numbers or not path.upstreams or path.upstreams != ready:
        return path.upstreams
    if not all(upstream in carried for upstream in upstreams):
        return path.upstreams
    stem = f"[{STEM6}{TURN}]" if upstreams[0].startswith("[") else f"{STEM4}{TURN}"
    wanted = (service._replace(part=part) for part in range(_count(upstreams, nodes)))
    return tuple(f"{stem}:{numbers[part]}" for part in wanted if part in numbers)


def _whole(service: Service) -> Service:
    return service._replace(part=0) if service.part else service


def _count(upstreams: tuple[str, ...], nodes: Nodes) -> int:
    """How many numbers a service with these should have."""
    return 1 if len(upstreams) == 1 else min(len({nodes.get(upstream, "") for upstream in upstreams}), PARTS)


def _part(upstreams: tuple[str, ...], part: int, count: int, nodes: Nodes) -> tuple[str, ...]:
    """Those that one of ``count`` numbers leads to: what is on its nodes, or else all."""
    if (part, count) == (0, 1):
        return upstreams
    there = sorted({nodes.get(upstream, "") for upstream in upstreams})[part::count]
    return tuple(upstream for upstream in upstreams if nodes.get(upstream, "") in there) or upstreams


def is_stable(dial: str) -> bool:
    """Whether a dial is a number."""
    return TURN in dial


Place = tuple[str, str, str]
"""Host, path and guard: what waits to be told to Caddy waits for nobody who is guarded otherwise."""


def shown(
    table: Table,
    numbers: Mapping[Service, int],
    ready: Mapping[Service, tuple[str, ...]],
    carried: Carried,
    before: Mapping[Place, Shown],
    now: float,
    nodes: Nodes,
    last: Mapping[str, tuple[HostRoute, HostRoute]] = _NOTHING,
    keys: Known = _NOBODY,
) -> tuple[Table, dict[Place, Shown], float | None]:
    """The table as Caddy is to have it now, what to remember for the next time, and when to look again at the latest.

    Its hosts are in the same order. ``last`` are by name the hosts of the last table and what was shown of them: what is
    the same stays the same object. ``keys`` saves work.
    """
    memory: dict[Place, Shown] = {}
    dues: list[float] = []
    hosts: list[HostRoute] = []
    for host in table.hosts:
        there: list[tuple[str, ...]] = []
        for path, (key, numbered) in zip(host.paths, _keys(host, keys), strict=True):
            place = host.host, path.path, key.guard
            own = numbers if numbered else {}
            wanted = dials(path, own, key, ready.get(key, ()), carried, nodes)
            was = before.get(place)
            look = LOOK if was is not None and _differ_in_parts(was.dials, wanted) else 0.0
            memory[place], due = step(was, wanted, now, HOLD if key in own else 0.0, look)
            dues += [due] if due is not None else []
            there.append(memory[place].dials)
        hosts.append(_with_dials(host, there, *last.get(host.host, (None, None))))
    return replace(table, hosts=tuple(hosts)), memory, min(dues, default=None)


def _differ_in_parts(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether these are numbers of one service, more of them or fewer."""
    return one[:1] == other[:1] and all(map(is_stable, (*one, *other)))


def _with_dials(
    host: HostRoute, there: list[tuple[str, ...]], was: HostRoute | None, last: HostRoute | None
) -> HostRoute:
    """The host with these dials; the one that was shown of it last, where that says the same."""
    if was is host and last is not None and all(p.upstreams == d for p, d in zip(last.paths, there, strict=True)):
        return last
    if all(path.upstreams == dials for path, dials in zip(host.paths, there, strict=True)):
        return host
    paths = tuple(replace(path, upstreams=dials) for path, dials in zip(host.paths, there, strict=True))
    fresh = replace(host, paths=paths)
    return last if last == fresh else fresh


def _keys(host: HostRoute, last: Known) -> tuple[Key, ...]:
    there = last.get(host.host)
    if there is not None and there[0] is host:
        return there[1]
    return tuple(Key(service(host, path), _may_have_one(path)) for path in host.paths)


def _may_have_one(path: PathRoute) -> bool:
    return path.wire is Wire.HTTP and not path.options.sticky and not path.redirect


def service(host: HostRoute, path: PathRoute) -> Service:
    """Who the number of a route belongs to, if there is one."""
    return Service(host.owner, path.service, path.path, guard=path.options.guard)


def _next(number: int) -> int:
    return FIRST if number >= LAST else number + 1


def _of_one_family(upstreams: tuple[str, ...]) -> tuple[str, ...]:
    """Those of IPv4, or else all: the kernel changes addresses, and never the family."""
    if len(upstreams) == 1:
        return upstreams
    return tuple(upstream for upstream in upstreams if not upstream.startswith("[")) or upstreams


def _named(upstream: str, endpoint: str) -> str:
    return f"{upstream}@{endpoint}" if endpoint else upstream
