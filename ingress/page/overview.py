"""What the status page shows, put together from what the ingress and the plugin know; pure.

Nodes have environments, environments have services, and hosts lead to services. Everything is bounded: of ten thousand
hosts those in trouble come first, and the rest is a number. A search narrows down what is shown, and changes no count.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ingress.report import Facts
from ingress.routes import HostRoute, Member, PathRoute, Problem, State

ROUTES, PROBLEMS, NODES, ENVIRONMENTS, SERVICES = 200, 50, 24, 24, 24
"""Most that are shown: of routes and problems in all, of nodes, of environments of a node, of services of one."""

RUNNING, UNKNOWN = "running", "unknown"
"""States of a service that nobody looks into, since it is no web service; of one on a node that says nothing."""

WELL = frozenset({str(State.UP), "redirect", "maintenance", RUNNING})
_ORDER = (*map(str, State), "maintenance", RUNNING, UNKNOWN)
HERE = "this node"
LONGEST_QUERY = 100

_REPLICA = re.compile(r"(.+?)[-_][0-9]{1,4}")


@dataclass(frozen=True, slots=True)
class Attached:
    """A container on a network of ours, as the plugin tells it; ``node`` is a node's name, empty for this one."""

    environment: str
    container: str
    node: str = ""
    internal: bool = False


@dataclass(frozen=True, slots=True)
class PluginWord:
    """What the plugin says: containers and networks without any; ``problem`` where it does not answer."""

    attached: tuple[Attached, ...] = ()
    networks: tuple[tuple[str, bool], ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ServiceView:
    """Containers of one name in an environment on one node. ``hosts`` lead here; only web services have any."""

    name: str
    state: str
    up: int
    total: int
    web: bool = False
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EnvironmentView:
    """One node's part of an environment; ``more`` are services that are not shown."""

    name: str
    node: str
    services: tuple[ServiceView, ...]
    internal: bool = False
    more: int = 0

    @property
    def troubled(self) -> bool:
        """Whether one of its services is not as it should be."""
        return any(service.state not in WELL for service in self.services)


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node and its environments; ``more`` of them are not shown."""

    name: str
    alive: bool = True
    control: bool = False
    here: bool = False
    stale: bool = False
    ingress: bool = True
    engine: str = ""
    version: str = ""
    environments: tuple[EnvironmentView, ...] = ()
    more: int = 0


@dataclass(frozen=True, slots=True)
class RouteView:
    """One path of a host, for people; ``since`` is Unix time, ``certificate`` a sentence."""

    host: str
    path: str
    owner: str
    service: str
    state: str
    reason: str = ""
    containers: tuple[str, ...] = ()
    upstreams: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    certificate: str = ""
    certificate_ends: float | None = None
    since: float = 0.0

    @property
    def troubled(self) -> bool:
        """Whether visitors do not get what they come for."""
        return self.state not in WELL


@dataclass(frozen=True, slots=True)
class Overview:
    """The whole page; the numbers are of everything, whatever is shown."""

    base_domain: str
    control: bool
    controls: tuple[str, ...] = ()
    problem: str = ""
    nodes: tuple[NodeView, ...] = ()
    more_nodes: int = 0
    routes: tuple[RouteView, ...] = ()
    more_routes: int = 0
    problems: tuple[str, ...] = ()
    more_problems: int = 0
    conflicts: int = 0
    states: Mapping[str, int] = field(default_factory=dict)
    environments: int = 0
    services: int = 0
    query: str = ""

    @property
    def troubled(self) -> bool:
        """Whether something needs somebody's attention."""
        return bool(self.problem or self.problems) or any(not node.alive or node.stale for node in self.nodes)


def overview(facts: Facts, word: PluginWord, *, base_domain: str, query: str = "") -> Overview:
    """The page's content. ``query`` keeps routes, environments and services whose names have it in them."""
    wanted = query.strip().lower()[:LONGEST_QUERY]
    names = {node.owner: node.name for node in facts.seen.nodes.values()}
    here = names.get(facts.seen.node, HERE)
    pairs = [(host, path) for host in facts.table.hosts for path in host.paths]
    chosen = [(host, path) for host, path in pairs if _has(wanted, host.host, host.owner, path.service)]
    waiting = [one for one in facts.table.waiting if _has(wanted, one.host, one.owner, one.service)]
    # Those in trouble first, then by name, as the table has them.
    chosen.sort(key=lambda pair: _state(facts, *pair) in WELL)
    routes = [
        RouteView(w.host, "/", w.owner, w.service, w.standing, reason=facts.reason(w), since=w.since)
        for w in waiting[:ROUTES]
    ]
    routes += [_route(facts, names, here, host, path) for host, path in chosen[: ROUTES - len(routes)]]
    states = Counter(_state(facts, host, path) for host, path in pairs)
    states.update(one.standing for one in facts.table.waiting)
    services = _services(pairs, word, names, here)
    nodes = [_node(node, services, wanted) for node in _nodes(facts, here, services)]
    problems = [*(_problem(p, names, facts.seen.node) for p in facts.problems), *facts.certificate_problems]
    problems += [said for said in (word.problem, facts.lacking) if said]
    return Overview(
        base_domain=base_domain,
        control=facts.control,
        controls=facts.seen.controls(),
        problem=facts.problem or "",
        nodes=tuple(nodes[:NODES]),
        more_nodes=max(0, len(nodes) - NODES),
        routes=tuple(routes),
        more_routes=len(waiting) + len(chosen) - len(routes),
        problems=tuple(problems[:PROBLEMS]),
        more_problems=max(0, len(problems) - PROBLEMS),
        conflicts=sum(problem.conflict for problem in facts.table.problems),
        states=dict(sorted(states.items())),
        environments=len({environment for _, environment in services}),
        services=len({(environment, name) for (_, environment), there in services.items() for name in there.services}),
        query=wanted,
    )


@dataclass(slots=True)
class _Part:
    """What is gathered of one environment on one node."""

    internal: bool = False
    services: dict[str, dict[str, str]] = field(default_factory=dict)
    """By service, the state of each container by its name."""

    hosts: dict[str, list[str]] = field(default_factory=dict)


_Parts = dict[tuple[str, str], _Part]
"""By names of node and environment."""


def _services(
    pairs: Iterable[tuple[HostRoute, PathRoute]], word: PluginWord, names: Mapping[str, str], here: str
) -> _Parts:
    parts: _Parts = {(here, environment): _Part(internal) for environment, internal in word.networks}
    where: dict[tuple[str, str], list[str]] = {}
    for one in word.attached:
        node = one.node or here
        part = parts.setdefault((node, one.environment), _Part(one.internal))
        part.services.setdefault(_service(one.container), {})[one.container] = RUNNING
        where.setdefault((node, one.container), []).append(one.environment)
    for host, path in pairs:
        for member in path.members:
            node = names.get(member.node, here) if member.node else here
            # Its network's name is the plugin's to say; without it, the one that projects have by themselves.
            for environment in where.get((node, member.name)) or ["-".join(host.owner.split("/")[1:])]:
                _web(parts.setdefault((node, environment), _Part()), host, path, member)
    return parts


def _web(part: _Part, host: HostRoute, path: PathRoute, member: Member) -> None:
    plain = _service(member.name)
    if member.name in part.services.get(plain, {}) and plain != path.service:
        del part.services[plain][member.name]
        if not part.services[plain]:
            del part.services[plain]
    part.services.setdefault(path.service, {})[member.name] = (
        "maintenance" if path.options.maintenance else str(member.state)
    )
    hosts = part.hosts.setdefault(path.service, [])
    if host.host not in hosts:
        hosts.append(host.host)


def _nodes(facts: Facts, here: str, parts: _Parts) -> Iterator[NodeView]:
    seen = facts.seen
    if not seen.node:
        yield NodeView(HERE, control=facts.control, here=True, stale=facts.stale)
        return
    for node in sorted(seen.nodes.values(), key=lambda node: (node.owner != seen.node, node.name)):
        ingress = seen.ingresses.get(node.owner)
        mine = node.owner == seen.node
        yield NodeView(
            node.name,
            alive=node.owner in seen.alive or mine,
            control=ingress is not None and ingress.control,
            here=mine,
            stale=facts.stale if mine else ingress is not None and ingress.stale,
            ingress=ingress is not None or mine,
            engine=node.engine,
            version=node.version,
        )
    known = {here, *(node.name for node in seen.nodes.values())}
    for name in sorted({node for node, _ in parts} - known):
        yield NodeView(name, alive=False)


def _node(node: NodeView, parts: _Parts, wanted: str) -> NodeView:
    found = [
        one
        for (where, environment), part in sorted(parts.items())
        if where == node.name and (one := _environment(environment, node, part, wanted)) is not None
    ]
    found.sort(key=lambda one: not one.troubled)
    return NodeView(
        node.name,
        node.alive,
        node.control,
        node.here,
        node.stale,
        node.ingress,
        node.engine,
        node.version,
        tuple(found[:ENVIRONMENTS]),
        max(0, len(found) - ENVIRONMENTS),
    )


def _environment(name: str, node: NodeView, part: _Part, wanted: str) -> EnvironmentView | None:
    whole = _has(wanted, name)
    services = [
        _view(service, containers, part.hosts.get(service, []), alive=node.alive)
        for service, containers in sorted(part.services.items())
        if whole or _has(wanted, service, *part.hosts.get(service, []))
    ]
    if not services and not whole:
        return None
    # Web services first: they are what the lines lead to.
    services.sort(key=lambda service: (not service.web, service.state in WELL))
    return EnvironmentView(name, node.name, tuple(services[:SERVICES]), part.internal, max(0, len(services) - SERVICES))


def _view(name: str, containers: Mapping[str, str], hosts: Sequence[str], *, alive: bool) -> ServiceView:
    if not alive:
        containers = {name: UNKNOWN if state == RUNNING else state for name, state in containers.items()}
    states = set(containers.values())
    up = sum(state in WELL for state in containers.values())
    state = next((state for state in _ORDER if state in states), RUNNING)
    return ServiceView(name, state, up, len(containers), web=bool(hosts), hosts=tuple(hosts))


def _problem(problem: Problem, names: Mapping[str, str], here: str) -> str:
    node = names.get(problem.node or here, "")
    return f"{problem.name or problem.container[:12]}{f' on {node}' if node else ''}: {problem.text}"


def _route(facts: Facts, names: Mapping[str, str], here: str, host: HostRoute, path: PathRoute) -> RouteView:
    known = facts.certificate(host)
    found = known.get("certificate")
    several = bool(names)
    return RouteView(
        host.host,
        path.path or "/",
        host.owner,
        path.service,
        _state(facts, host, path),
        facts.rejected.get(host.host) or path.reason or "",
        tuple(f"{m.name} on {names.get(m.node, here) if m.node else here}" if several else m.name for m in path.members),
        path.upstreams,
        path.options.labels,
        found["issuer"] if found else str(known.get("certificate_reason") or ""),
        found["not_after"] if found else None,
        host.since,
    )


def _state(facts: Facts, host: HostRoute, path: PathRoute) -> str:
    return "rejected" if host.host in facts.rejected else str(path.answers)


def _service(container: str) -> str:
    replica = _REPLICA.fullmatch(container)
    return replica[1] if replica else container


def _has(wanted: str, *texts: str) -> bool:
    return not wanted or any(wanted in text.lower() for text in texts)
