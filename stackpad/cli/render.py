"""From reports to rows and words; pure.

A :class:`Grid` is a table before it is drawn: :func:`text` draws it for a pipe, :mod:`stackpad.cli.output` for a
terminal. What a tenant chose, such as a container's name, is made safe to show here.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stackpad.cli.reports import (
    ContainerReport,
    DomainCheck,
    DomainReport,
    NetworkReport,
    Plan,
    PortReport,
    RouteReport,
    Routes,
    Status,
)

NOTHING = "-"

START_INGRESS = (
    "docker start stackpad-ingress, or the container of your Compose file, starts it, and docker logs says why it has "
    "ended; where none is to run any more, move its state away (/var/lib/stackpad/ingress)"
)
"""What to do about an ingress that does not answer."""

START_CADDY = (
    "start it: systemctl start caddy, or its container; where it runs, its admin address has to be the ingress's "
    "CADDY_ADMIN"
)
"""What to do about a Caddy at whose admin socket nobody listens."""

SERVED = frozenset({"up", "redirect", "maintenance"})
"""States of a route in which visitors get what it says, where a Caddy runs."""

SOON = 2 * 86400.0
"""Seconds in which a certificate ends whose hour is of interest."""

SHORT = 60
"""Characters of a reason that stands beside its state; a longer one is told below the table."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: column heads (none for pairs of name and value), rows, and lines that follow it.

    ``prose`` says that the last column may be wrapped; names and addresses never are, so that they can be copied.
    """

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    empty: str = ""
    prose: bool = False

    @property
    def widths(self) -> tuple[int, ...]:
        """The width of each column, in characters."""
        table = [*([self.heads] if self.heads else []), *self.rows]
        return tuple(max(_width(row[column]) for row in table) for column in range(len(table[0]))) if table else ()


def text(grid: Grid) -> str:
    """The table in plain text: columns two spaces apart, a cell's lines below each other."""
    lines = [] if grid.rows else [grid.empty]
    if grid.rows:
        table = [*([grid.heads] if grid.heads else []), *grid.rows]
        for row in table:
            cells = [cell.split("\n") for cell in row]
            for index in range(max(map(len, cells))):
                parts = [cell[index] if index < len(cell) else "" for cell in cells]
                padded = (part.ljust(width) for part, width in zip(parts, grid.widths, strict=True))
                lines.append("  ".join(padded).rstrip())
    return "\n".join([*lines, *grid.notes]) + "\n"


def status(report: Status, routes: Routes | None, now: float) -> Grid:
    """The node at a glance; ``routes`` is ``None`` where there is and was no ingress."""
    problems = [*report.problems]
    if routes is not None:
        problems += _ingress_problems(routes)
    rows = [
        ("plugin", f"ready, up {duration(now - report.started)}" if report.ready else "not reconciled yet"),
        ("engine", report.engine or "not known yet"),
        ("networks", str(report.networks)),
        ("endpoints", str(report.endpoints)),
        ("addresses", ", ".join(report.addresses) or NOTHING),
        ("MTU", str(report.mtu)),
        ("ranges", ", ".join(part for part in (report.range, report.range6) if part) or NOTHING),
        ("repairs", str(report.repairs)),
        ("ingress", "not on this node" if routes is None else _ingress(routes)),
        ("problems", "\n".join(map(clean, problems)) or "none"),
    ]
    return Grid((), tuple(rows), prose=True)


def networks(reports: Iterable[NetworkReport]) -> Grid:
    """The networks, a row each."""
    rows = tuple(
        (
            clean(report.shown_name),
            clean(report.environment or NOTHING),
            "\n".join(report.subnets) or NOTHING,
            "\n".join(gateway.partition("/")[0] for gateway in report.gateways) or NOTHING,
            report.bridge,
            str(report.mtu),
            reach(report),
            str(len(report.endpoints)),
        )
        for report in sorted(reports, key=lambda report: report.shown_name)
    )
    heads = ("NETWORK", "ENVIRONMENT", "SUBNETS", "GATEWAY", "BRIDGE", "MTU", "OUTSIDE", "CONTAINERS")
    notes = tuple(f"{clean(r.shown_name)}: {clean(r.problem)}" for r in reports if r.problem)
    return Grid(heads, rows, notes, "no networks; make one with: docker network create -d stackpad NAME")


def network(report: NetworkReport) -> Grid:
    """The containers of one network."""
    rows = tuple(
        (
            clean(endpoint.name),
            "\n".join(endpoint.addresses) or NOTHING,
            endpoint.mac or NOTHING,
            "link is gone; restart it" if endpoint.lost else NOTHING,
        )
        for endpoint in sorted(report.endpoints, key=lambda endpoint: endpoint.name)
    )
    notes = (clean(report.problem),) if report.problem else ()
    return Grid(("CONTAINER", "ADDRESSES", "MAC", "PROBLEM"), rows, notes, "no containers on this network")


def ports(reports: Iterable[PortReport]) -> Grid:
    """The published ports as ``docker ps`` would write them; consecutive ones as a range."""
    grouped: dict[tuple[str, str], list[PortReport]] = {}
    for report in reports:
        grouped.setdefault((report.name, report.network or NOTHING), []).append(report)
    rows = []
    for (container, network_name), of_one in sorted(grouped.items()):
        rows.append((clean(container), clean(network_name), "\n".join(published(of_one))))
    empty = "no published ports; publish one with: docker run -p 8080:80 --network NAME …"
    return Grid(("CONTAINER", "NETWORK", "PORTS"), tuple(rows), empty=empty)


def published(reports: Iterable[PortReport]) -> list[str]:
    """Ports of one container in Docker's notation, such as ``0.0.0.0:8000-8003->80-83/tcp``."""
    bindings = sorted(
        (address, report.protocol, report.host_port, report.container_port)
        for report in reports
        for address in _host_addresses(report)
    )
    runs: list[tuple[str, str, int, int, int]] = []
    for address, protocol, host, container in bindings:
        if runs:
            last_address, last_protocol, first_host, first_container, length = runs[-1]
            follows = (first_host + length, first_container + length) == (host, container)
            if follows and (last_address, last_protocol) == (address, protocol):
                runs[-1] = (address, protocol, first_host, first_container, length + 1)
                continue
        runs.append((address, protocol, host, container, 1))
    return [
        f"{address}:{_range(host, length)}->{_range(container, length)}/{protocol}"
        for address, protocol, host, container, length in runs
    ]


def routes(report: Routes, now: float) -> Grid:
    """The hosts, a row for each path; below them what is not served, and why."""
    there = sorted(report.routes, key=lambda route: (route.host, route.path))
    rows = tuple(
        (
            clean(_place(route)),
            _state(route, away=report.away)
            + (f": {clean(route.reason)}" if route.reason and len(route.reason) <= SHORT else ""),
            clean(route.owner),
            clean(route.service),
            "\n".join(route.upstreams) or NOTHING,
            certificate(route, now),
            f"{duration(now - route.since)} ago",
        )
        for route in there
    )
    heads = ("HOST", "STATE", "OWNER", "SERVICE", "UPSTREAMS", "CERTIFICATE", "CLAIMED")
    long = sorted({f"{r.host} ({r.owner}): {r.reason}" for r in there if len(r.reason or "") > SHORT})
    notes = tuple(map(clean, [*long, *_ingress_problems(report)]))
    empty = "no routes; label a container with stackpad.type=web"
    if report.control is False:
        names = ", ".join(clean(node.name) for node in report.nodes if node.control)
        where = f"see stackpad routes on {names}" if names else "no control node is known here; see stackpad node ls"
        empty = f"no routes on this node, which only tells of its containers: visitors come in elsewhere; {where}"
        notes = (*notes, f"all else is where visitors come in: {where}") if rows else notes
    return Grid(heads, rows, notes, empty)


def plan(report: Plan) -> Grid:
    """What would be written to Caddy, as ``diff -u`` has it."""
    lines = tuple(map(clean, report.diff.splitlines()))
    return Grid((), (), lines[1:], lines[0] if lines else "nothing to write: Caddy has it all")


def route(reports: Iterable[RouteReport], now: float, *, away: bool = False) -> Grid:
    """Everything about the routes of one host, as pairs of name and value; ``away`` says that Caddy does not run."""
    rows: list[tuple[str, str]] = []
    for report in sorted(reports, key=lambda report: report.path):
        rows += [
            ("host", clean(_place(report))),
            ("state", _state(report, away=away) + (f": {clean(report.reason)}" if report.reason else "")),
            ("owner", clean(report.owner)),
            ("service", clean(report.service)),
            ("options", "\n".join(map(clean, report.options)) or NOTHING),
            ("containers", "\n".join(map(_container, report.containers)) or NOTHING),
            ("upstreams", "\n".join(report.upstreams) or NOTHING),
            ("number", NOTHING if report.number is None else str(report.number)),
            ("certificate", certificate(report, now)),
            ("claimed", f"{duration(now - report.since)} ago"),
        ]
    return Grid((), tuple(rows), prose=True)


def _state(route: RouteReport, *, away: bool) -> str:
    return f"{route.state}, but no Caddy" if away and route.state in SERVED else route.state


def _place(route: RouteReport) -> str:
    return route.host + ("" if route.path == "/" else route.path)


def _container(container: ContainerReport) -> str:
    where = f" on {container.node}" if container.node else ""
    return clean(f"{container.name}{where}: {container.state}{f', {container.reason}' if container.reason else ''}")


def domains(reports: Iterable[DomainReport], now: float) -> Grid:
    """The names, a row for each that somebody asks for; below them what is to be done for those that are not served.

    What is said of several names in the same words is said once, by a number that stands beside their states.
    """
    reports = list(reports)
    times = Counter(sentence for report in reports if (sentence := _of_any(report)))
    numbers = {sentence: number for number, sentence in enumerate((s for s in times if times[s] > 1), 1)}
    rows, notes = [], []
    for report in reports:
        how = "nothing yet" if report.how is None else report.how
        proved = "" if report.proved is None or report.platform else f", {duration(now - report.proved)} ago"
        since = f"{duration(now - report.since)} ago"
        number = numbers.get(_of_any(report))
        state = clean(report.state) + ("" if number is None else f" [{number}]")
        rows.append((clean(report.domain), clean(report.owner) or NOTHING, state, clean(how + proved), since))
        if report.reason and number is None:
            notes.append(clean(f"{report.domain} ({report.owner or 'nobody'}): {report.reason}"))
    legend = [clean(f"[{number}] {sentence}") for sentence, number in numbers.items()]
    empty = "no domains of your own; a container asks for one with the label stackpad.domains"
    return Grid(("DOMAIN", "OWNER", "STATE", "PROVED BY", "SINCE"), tuple(rows), (*notes, *legend), empty)


def _of_any(report: DomainReport) -> str:
    """The reason with a word for whichever domain it is said of; empty without one."""
    words = (report.reason or "").split(" ")
    return " ".join("DOMAIN" if word == report.domain else word for word in words)


def domain_check(report: DomainCheck) -> Grid:
    """What was found when a domain was to be proved, a row for each way that was tried."""
    rows = tuple(
        (clean(one.owner), clean(one.how), "proved" if one.good else "no", clean(one.found)) for one in report.checks
    )
    proved = {one.owner for one in report.checks if one.good}
    notes = tuple(
        clean(f"{one.owner} needs: {one.record}") for one in report.checks if one.record and one.owner not in proved
    )
    return Grid(("OWNER", "BY", "PROOF", "FOUND"), rows, notes, f"{clean(report.domain)} can only be allowed", prose=True)


def reach(report: NetworkReport) -> str:
    """What containers of a network reach of the outside."""
    if report.internal:
        return "internal"
    return "yes" if report.egress else "published ports only"


def duration(seconds: float) -> str:
    """A time span in its two largest units, as people say it."""
    left = datetime.timedelta(seconds=max(0, int(seconds)))
    minutes, rest = divmod(left.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    units = ((left.days, "d"), (hours, "h"), (minutes, "min"), (rest, "s"))
    first = next((index for index, (number, _) in enumerate(units) if number), len(units) - 1)
    return " ".join(f"{number} {unit}" for number, unit in units[first : first + 2] if number) or "0 s"


def clean(value: str) -> str:
    """A text with nothing in it that a terminal obeys: control and formatting characters are written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)


def certificate(route: RouteReport, now: float) -> str:
    """Whose certificate a host has and until when, or why it has none; with the hour for one that ends soon."""
    if route.certificate is None:
        return f"none: {clean(route.certificate_reason)}" if route.certificate_reason else NOTHING
    until = datetime.datetime.fromtimestamp(route.certificate.not_after, datetime.UTC)
    # Caddy's own last for half a day: by the day alone, each looks as if it had ended.
    hour = f" {until:%H:%M} UTC" if route.certificate.not_after - now < SOON else ""
    return f"{clean(route.certificate.issuer)}, until {until:%Y-%m-%d}{hour}"


def _ingress(routes_: Routes) -> str:
    if routes_.silent:
        return "does not answer"
    count = Counter(route.state for route in routes_.routes)
    states = ", ".join(f"{number} {state}" for state, number in sorted(count.items()))
    caddy = "Caddy does not run" if routes_.away else "in step" if routes_.problem is None else "not in step"
    return f"{caddy}; routes: {states or 'none'}"


def _ingress_problems(routes_: Routes) -> list[str]:
    remedy = f"; {START_CADDY}" if routes_.away else ""
    lines = [] if routes_.problem is None else [f"ingress: {routes_.problem}{remedy}"]
    if routes_.stale:
        lines.append("ingress: the Docker engine does not answer; the routes are those known last")
    lines += [f"ingress: {routes_.lacking}"] if routes_.lacking else []
    lines += [f"certificate: {problem}" for problem in routes_.certificate_problems]
    return lines + sorted(
        f"container {p.container or p.id[:12]}{f' on {p.node}' if p.node else ''}: {p.problem}" for p in routes_.problems
    )


def _host_addresses(report: PortReport) -> Sequence[str]:
    if report.host_address is not None:
        return (f"[{report.host_address}]" if ":" in report.host_address else report.host_address,)
    versions = {":" in address for address in report.addresses}
    return tuple(shown for shown, is_6 in (("0.0.0.0", False), ("[::]", True)) if is_6 in versions)


def _range(first: int, length: int) -> str:
    return str(first) if length == 1 else f"{first}-{first + length - 1}"


def _width(cell: str) -> int:
    return max(map(len, cell.split("\n")))
