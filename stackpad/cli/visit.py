"""Why a visitor of a host gets an answer, or which step stops the visit; pure.

Walks the way of a visit: the node, the name in DNS, the HTTP port where the visit begins there, the table, the owner
and the proof, Caddy, the certificate, what the route itself answers, its upstreams, its containers. What DNS and the
HTTP port say does not end the walk: the name may be known elsewhere, and other visitors come by HTTPS.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from stackpad import hosts
from stackpad.cli.explain import Step
from stackpad.cli.render import START_CADDY, certificate, duration
from stackpad.cli.reports import ContainerReport, DomainReport, RouteReport, Routes
from stackpad.errors import InvalidRequest

CONTAINER_REMEDIES = {
    "down": "start it, or see why it has ended: docker logs {name}",
    "unhealthy": "its own health check says so: docker inspect --format '{{{{json .State.Health}}}}' {name}",
    "starting": "it is served when its port accepts, on all addresses, or its health check is passed; "
    "stackpad.port says which port that is",
}


SILENT = "gives no sign of life"
"""What the reason of a container ends with whose node is silent: the container itself may well run."""

MAX_NEAR = 5
"""Hosts that are named as near to a word that is none."""

WAITING = frozenset({"unproved", "forbidden"})
"""States of a domain that is not served for the one who asks for it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What DNS has said: the addresses of a name, or why it has none."""

    addresses: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Plain:
    """What this node has answered at its HTTP port: the status and where it leads to; 0 and a problem for no answer."""

    port: int = 80
    status: int = 0
    location: str = ""
    problem: str = ""


def is_visit(text: str) -> bool:
    """Whether somebody who writes ``text`` means a host that is visited."""
    return "://" in text or "." in text


def instead(text: str, report: Routes) -> str:
    """What to ask instead of ``text``, which is no host of the table."""
    if is_visit(text):
        return f"stackpad explain {text} says why"
    names = sorted({route.host for route in report.routes}, key=lambda name: name.split("."))
    firsts: dict[str, list[str]] = {}
    for name in names:
        firsts.setdefault(name.partition(".")[0], []).append(name)
    close = [name for first in difflib.get_close_matches(text.lower(), firsts, MAX_NEAR) for name in firsts[first]]
    near = list(dict.fromkeys([name for name in names if text.lower() in name] + close))[:MAX_NEAR]
    return f"there is {' and '.join(near)}" if near else "stackpad routes lists the hosts"


def target(text: str) -> tuple[str, str]:
    """Host and path of an address or a bare host; raises :class:`InvalidRequest`."""
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        name, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise InvalidRequest(f"{ascii(text)[:80]} is no address such as https://www.example.org/: {error}") from error
    if parts.scheme not in {"http", "https"}:
        raise InvalidRequest(f"{ascii(text)[:80]} is no address of a web service, such as https://www.example.org/")
    return hosts.host_name(name), parts.path or "/"


def plain_port(text: str) -> int | None:
    """The HTTP port that the visit of an address begins at; ``None`` where it begins with HTTPS.

    What :func:`target` refuses is refused there.
    """
    parts = urlsplit(text if "://" in text else f"https://{text}")
    return (parts.port or 80) if parts.scheme == "http" else None


def explain(
    host: str,
    path: str,
    report: Routes,
    domains: Sequence[DomainReport],
    answer: Answer,
    own: Sequence[str],
    now: float,
    plain: Plain | None = None,
) -> list[Step]:
    """The steps of a visit, up to the one that stops it. ``own`` are this node's addresses.

    ``plain`` is what the HTTP port has answered, where the visit begins there.
    """
    steps = [_node(report)]
    if not steps[0].ok:
        return [*steps, *_refusals(host, report)]
    steps.append(_name(answer, own))
    if plain is not None:
        steps.append(_plain(host, plain))
    for step in _walk(host, path, report, domains, now):
        steps.append(step)
        if not step.ok:
            break
    return steps


def _node(report: Routes) -> Step:
    if report.control is False:
        return Step("node", False, "visitors do not come in on this node", elsewhere(report))
    return Step("node", True, "visitors come in here")


def _refusals(host: str, report: Routes) -> Iterator[Step]:
    """What a node without a table knows of a host: that one of its own containers does not get it."""
    for name in filter(None, (host, hosts.above(host))):
        for route in report.routes:
            if route.host == name and route.state in WAITING:
                yield _owner(route, (), 0.0)
        for one in report.problems:
            if one.problem.startswith((f"{name} ", f"{name}/")):
                yield Step("owner", False, f"{one.container}: {one.problem}")


def elsewhere(report: Routes) -> str:
    """Where to ask instead, on a node that has no table."""
    names = ", ".join(node.name for node in report.nodes if node.control)
    return (
        f"ask on a control node: {names}" if names else "no control node is known here; stackpad node ls shows the nodes"
    )


def _name(answer: Answer, own: Sequence[str]) -> Step:
    if not answer.addresses:
        where = ", ".join(own) or "the control nodes"
        text = f"DNS does not know it: {answer.problem or 'no address'}"
        return Step("name", False, text, f"have an A or AAAA record point to {where}")
    shown = ", ".join(answer.addresses)
    if set(answer.addresses) & set(own):
        return Step("name", True, f"points to {shown}, which is this node")
    return Step(
        "name", True, f"points to {shown}; right if that is another control node, or a router in front of this one"
    )


def _plain(host: str, plain: Plain) -> Step:
    https = "what follows is of https"
    if not plain.status:
        text = f"nobody answers at port {plain.port} ({plain.problem or 'no reason known'})"
        return Step("HTTP", False, text, f"{https}; is that port Caddy's, or another program's?")
    if not (300 <= plain.status < 400 and plain.location):
        text = f"port {plain.port} has an answer of its own ({plain.status}): a site of yours, or redirects are off"
        return Step("HTTP", False, text, https)
    text = f"port {plain.port} sends visitors on to {plain.location} ({plain.status})"
    if _leads_to(plain.location) == ("https", host):
        return Step("HTTP", True, f"{text}; {https}")
    return Step("HTTP", False, f"{text}, a redirect of yours", f"explain that address instead; {https} at this host")


def _leads_to(location: str) -> tuple[str, str]:
    """Scheme and host of where a redirect leads; both empty if that is no address."""
    try:
        parts = urlsplit(location)
        return parts.scheme, parts.hostname or ""
    except ValueError:
        return "", ""


def _walk(host: str, path: str, report: Routes, domains: Sequence[DomainReport], now: float) -> Iterator[Step]:
    entries = [one for one in domains if one.domain in {host, hosts.above(host)}]
    found = _found(host, path, report)
    yield _table(host, path, report, found)
    if found is None:
        return
    yield _owner(found, entries, now)
    yield _caddy(found, report)
    yield _certificate(found, now)
    yield from _route(found)
    yield _upstreams(found)
    for container in found.containers:
        if container.state == "up":
            yield Step("container", True, f"{_named(container)} is up")


def _found(host: str, path: str, report: Routes) -> RouteReport | None:
    for name in (host, hosts.above(host)):
        routes = [route for route in report.routes if route.host == name]
        fitting = [r for r in routes if r.path == "/" or path == r.path or path.startswith(f"{r.path}/")]
        if fitting:
            # Who has the name comes before those who would like to have it.
            return max(fitting, key=lambda route: (route.state not in WAITING, len(route.path)))
        if routes:
            return None
    return None


def _table(host: str, path: str, report: Routes, found: RouteReport | None) -> Step:
    if found is not None:
        where = f" by {found.host}" if found.host != host else ""
        below = f", requests below {found.path}" if found.path != "/" else ""
        return Step("table", True, f"known{where}: service {found.service} of {found.owner}{below}")
    paths = [route.path for route in report.routes if route.host == host]
    if paths:
        return Step(
            "table", False, f"{host} serves {', '.join(paths)} only, not {path}", "a container without stackpad.path"
        )
    told = [f"{one.container}: {one.problem}" for one in report.problems if host in one.problem]
    if told:
        more = f"stackpad routes lists {len(told) - 3} more" if len(told) > 3 else ""
        return Step("table", False, "; ".join(sorted(told)[:3]), more)
    near = _near(host, report)
    remedy = f"did you mean {near}? " if near else ""
    remedy += "stackpad routes lists the hosts and what is not served; a container asks for a name with its labels"
    return Step("table", False, "no container asks for this name", remedy)


def _near(host: str, report: Routes) -> str | None:
    """A host that is alike also in its first label: of most hosts, all that follows is the same."""
    label = host.partition(".")[0]
    for near in difflib.get_close_matches(host, {route.host for route in report.routes}):
        if difflib.get_close_matches(label, [near.partition(".")[0]]):
            return near
    return None


def _owner(route: RouteReport, entries: Sequence[DomainReport], now: float) -> Step:
    entry = next((one for one in entries if one.domain == route.host and one.owner == route.owner), None)
    if route.state in WAITING:
        return Step(
            "owner", False, f"{route.owner} asks for it, and it is {route.state}: {route.reason or 'no reason known'}"
        )
    since = f"since {duration(now - route.since)} ago"
    if entry is None or entry.how is None:
        return Step("owner", True, f"{route.owner}, {since}")
    how = "its name follows from the project" if entry.platform else f"proved by {entry.how}"
    return Step("owner", True, f"{route.owner}, {since}; {how}")


def _caddy(route: RouteReport, report: Routes) -> Step:
    if route.state == "rejected":
        return Step("Caddy", False, f"Caddy refuses this host: {route.reason or 'no reason known'}")
    if report.away:
        return Step("Caddy", False, f"does not run: {report.problem or 'no reason known'}", START_CADDY)
    if report.problem is not None:
        return Step("Caddy", False, f"not in step with the table: {report.problem}", "visitors get what was there before")
    return Step("Caddy", True, "has what the table says")


def _certificate(route: RouteReport, now: float) -> Step:
    text = certificate(route, now)
    if route.certificate is None and route.certificate_failed:
        return Step("certificate", False, text, "the log of Caddy says more: journalctl -u caddy")
    return Step("certificate", True, text if text != "-" else "had at the first visit")


def _route(route: RouteReport) -> Iterator[Step]:
    if route.state == "redirect":
        yield Step("answer", False, route.reason or "visitors are sent on", "explain that host instead")
    if route.state == "maintenance":
        yield Step("answer", False, "a maintenance page (503)", "take the label stackpad.maintenance away")
    if route.options:
        yield Step("options", True, f"asked for by labels: {', '.join(route.options)}")


def _upstreams(route: RouteReport) -> Step:
    if route.upstreams:
        way = f"by the number {route.number}, which the kernel leads to " if route.number is not None else ""
        return Step("upstreams", True, f"{way}{', '.join(route.upstreams)}")
    said = "; ".join(f"{_named(one)} is {one.state}{f': {one.reason}' if one.reason else ''}" for one in route.containers)
    first = next((one for one in route.containers if one.state in CONTAINER_REMEDIES), None)
    remedy = "" if first is None else CONTAINER_REMEDIES[first.state].format(name=first.name)
    if first is not None and first.node and (first.reason or "").endswith(SILENT):
        remedy = f"see on {first.node} whether the plugin and the engine run: stackpad doctor"
    return Step("upstreams", False, said or route.reason or "nobody is up", remedy)


def _named(container: ContainerReport) -> str:
    return f"{container.name} on {container.node}" if container.node else container.name
