"""The commands: what each reads, how it ends.

Exit status: 0 well, 1 a problem is among what was printed, 2 wrong usage, 3 who was asked does not answer.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from stackpad.cli import checks, client, domain, explain, fleet, httpport, node, output, page, render, visit
from stackpad.cli.common import PLACES, USAGE, Json, OnlyIngressSocket, Socket, answering, show
from stackpad.cli.examine import elsewhere, ended, examine
from stackpad.cli.names import look_up
from stackpad.cli.reports import (
    ClusterReport,
    DomainReport,
    NetworkReport,
    Plan,
    PortReport,
    Routes,
    ServiceReport,
    Status,
)
from stackpad.errors import InvalidRequest, Unavailable

app = typer.Typer(
    help="What the Stackpad plugin and ingress of this node are doing, and its cluster. Needs root.",
    epilog="Exit status: 0 well, 1 a problem was found, 2 wrong usage, 3 no answer. Example: stackpad doctor",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

IngressSocket = Annotated[
    Path,
    typer.Option("--ingress-socket", envvar="STACKPAD_INGRESS_SOCKET", metavar="PATH", help="The ingress's socket."),
]


SLOW = 60.0
"""Seconds to wait for an answer that takes the other side some work."""


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            number = version("stackpad")
        except PackageNotFoundError:
            number = "from a checkout"
        typer.echo(f"stackpad {number}")
        raise typer.Exit


app.add_typer(node.app, name="node")
app.add_typer(domain.app, name="domain")


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: stackpad status --json")
def status(socket: Socket = PLACES.plugin, ingress_socket: IngressSocket = PLACES.ingress, as_json: Json = False) -> None:
    """Show plugin, cluster and ingress at a glance. Ends with 1 if there is a problem."""
    with answering():
        report = client.fetch(client.plugin(socket), "/status", Status)
        cluster = _cluster(socket)
    served = _served(ingress_socket)
    troubled = not report.ready or bool(report.problems) or (served is not None and served.troubled)
    grid = fleet.extended(render.status(report, served, time.time()), cluster)
    value = {"plugin": report, "cluster": cluster, "ingress": served}
    show(value, grid, as_json=as_json, troubled=troubled or bool(fleet.troubles(cluster)))


@app.command(epilog="Example: stackpad networks my-app-production")
def networks(
    name: Annotated[
        str | None, typer.Argument(metavar="[NETWORK]", help="Show this network's containers instead: name or id.")
    ] = None,
    socket: Socket = PLACES.plugin,
    as_json: Json = False,
) -> None:
    """List the networks with their ranges, gateways and bridges."""
    with answering():
        reports = client.fetch(client.plugin(socket), "/networks", tuple[NetworkReport, ...])
    if name is None:
        troubled = any(report.troubled for report in reports)
        show(reports, render.networks(reports), as_json=as_json, troubled=troubled)
        return
    meant = [report for report in reports if report.is_called(name)]
    if len(meant) != 1:
        there = ", ".join(sorted(report.shown_name for report in reports)) or "none"
        what = "is the name of several networks; use an id" if meant else f"is no network here; there are: {there}"
        output.complain(f"{name} {what}")
        raise typer.Exit(USAGE)
    show(meant[0], render.network(meant[0]), as_json=as_json, troubled=meant[0].troubled)


@app.command(epilog="Example: stackpad ports --json")
def ports(socket: Socket = PLACES.plugin, as_json: Json = False) -> None:
    """List published ports. docker ps cannot show them for a plugin's networks."""
    with answering():
        reports = client.fetch(client.plugin(socket), "/ports", tuple[PortReport, ...])
    show(reports, render.ports(reports), as_json=as_json)


@app.command(epilog="Example: stackpad services my-app-production")
def services(
    environment: Annotated[
        str | None, typer.Argument(metavar="[ENVIRONMENT]", help="Only those of this environment.")
    ] = None,
    socket: Socket = PLACES.plugin,
    as_json: Json = False,
) -> None:
    """List the names that containers find each other by, on all nodes."""
    with answering():
        reports = client.fetch(client.plugin(socket), "/services", tuple[ServiceReport, ...])
        made = client.fetch(client.plugin(socket), "/networks", tuple[NetworkReport, ...])
    chosen = [report for report in reports if environment in {None, report.environment}]
    # One that is here may have no names yet; of one that is elsewhere, names are all that is known.
    if environment is not None and not chosen and not any(report.environment == environment for report in made):
        known = {report.environment for report in reports} | {report.environment or "" for report in made}
        there = ", ".join(sorted(filter(None, known))) or "none"
        output.complain(f"{environment} is no environment that is known here; there are: {there}")
        raise typer.Exit(USAGE)
    show(chosen, fleet.services(chosen), as_json=as_json)


@app.command("explain", epilog="Examples: stackpad explain web postgres; stackpad explain https://www.example.org/")
def explain_connection(
    who: Annotated[str, typer.Argument(metavar="FROM", help="A container on this node, or alone: a host or https://…")],
    whom: Annotated[
        str | None, typer.Argument(metavar="[TO]", help="A name or an address that the container asks, on any node.")
    ] = None,
    socket: Socket = PLACES.plugin,
    ingress_socket: IngressSocket = PLACES.ingress,
    as_json: Json = False,
) -> None:
    """Say why a container or a visitor gets where it wants, or not. Shows the step that stops it; ends with 1 then."""
    if whom is None:
        if not visit.is_visit(who):
            output.complain(f"explain {who}: what does it reach? Name a container or an address after it, or give a host")
            raise typer.Exit(USAGE)
        _explain_visit(who, socket, ingress_socket, as_json=as_json)
        return
    server = client.plugin(socket)
    with answering():
        steps = explain.explain(
            who,
            whom,
            client.fetch(server, "/networks", tuple[NetworkReport, ...]),
            client.fetch(server, "/services", tuple[ServiceReport, ...]),
            client.fetch(server, "/cluster?round-trip", ClusterReport),
            client.fetch(server, "/status", Status).addresses,
        )
    value = [asdict(step) for step in steps]
    show(value, explain.grid(steps), as_json=as_json, troubled=not all(step.ok for step in steps))


def _explain_visit(url: str, socket: Path, ingress_socket: Path, *, as_json: bool) -> None:
    try:
        host, path = visit.target(url)
        port = visit.plain_port(url)
    except InvalidRequest as error:
        output.complain(str(error))
        raise typer.Exit(USAGE) from error
    ingress = client.ingress(ingress_socket)
    with answering():
        report = client.fetch(ingress, "/routes", Routes)
        domains = client.fetch(ingress, "/domains", tuple[DomainReport, ...])
    try:
        own = client.fetch(client.plugin(socket), "/status", Status).addresses
    except Unavailable:
        own = ()  # the ingress works without a plugin, too
    plain = None if port is None or report.control is False else httpport.ask(host, path, port, own)
    steps = visit.explain(host, path, report, domains, look_up(host), own, time.time(), plain)
    value = [asdict(step) for step in steps]
    show(value, explain.grid(steps), as_json=as_json, troubled=not all(step.ok for step in steps))


@app.command(epilog="Example: stackpad routes my-app.acme.example.org")
def routes(
    host: Annotated[str | None, typer.Argument(metavar="[HOST]", help="Everything about this host instead.")] = None,
    diff: Annotated[
        bool, typer.Option("--diff", help="Show what would be written to Caddy next instead; ends with 1 if something.")
    ] = False,
    socket: OnlyIngressSocket = PLACES.ingress,
    as_json: Json = False,
) -> None:
    """List the hosts that are served, and what is not and why."""
    if diff:
        with answering():
            plan = client.fetch(client.ingress(socket), "/plan", Plan, timeout=SLOW)
        show(plan, render.plan(plan), as_json=as_json, troubled=bool(plan.diff))
        return
    with answering():
        report = client.fetch(client.ingress(socket), "/routes", Routes)
    if host is not None:
        meant = [route for route in report.routes if route.host == host.lower().rstrip(".")]
        if not meant:
            where = f"; {visit.elsewhere(report)}" if report.control is False else ""
            output.complain(f"{host} is no host here{where}; {visit.instead(host, report)}")
            raise typer.Exit(USAGE)
        show(meant, render.route(meant, time.time(), away=report.away), as_json=as_json)
        return
    show(report, render.routes(report, time.time()), as_json=as_json, troubled=report.troubled)


app.command(epilog="Example: stackpad page --listen 127.0.0.1:8377")(page.page)


@app.command(epilog="Example: stackpad doctor")
def doctor(
    socket: Socket = PLACES.plugin,
    ingress_socket: IngressSocket = PLACES.ingress,
    docker_host: Annotated[
        str, typer.Option("--docker", envvar="DOCKER_HOST", metavar="ADDRESS", help="The engine's socket.")
    ] = f"unix://{PLACES.engine}",
    caddy: Annotated[
        Path, typer.Option("--caddy", envvar="CADDY_ADMIN", metavar="PATH", help="Caddy's admin socket.")
    ] = PLACES.caddy,
    daemon_json: Annotated[
        Path, typer.Option("--daemon-json", metavar="PATH", help="Docker's configuration.")
    ] = PLACES.daemon_json,
    as_json: Json = False,
) -> None:
    """Check the node, and say what to do about what is wrong. Ends with 1 if something is."""
    if not docker_host.startswith("unix://"):
        output.complain(f"--docker {docker_host} is not a socket of this node, such as unix:///run/docker.sock")
        raise typer.Exit(USAGE)
    if complaint := elsewhere(socket):
        output.complain(complaint)
        raise typer.Exit(USAGE)
    engine = Path(docker_host.removeprefix("unix://"))
    places = replace(PLACES, plugin=socket, ingress=ingress_socket, engine=engine, caddy=caddy, daemon_json=daemon_json)
    found = checks.diagnose(examine(places))
    show([asdict(check) for check in found], checks.grid(found), as_json=as_json, troubled=checks.failed(found))


def _cluster(socket: Path) -> ClusterReport:
    """What the plugin says of its cluster; none of a plugin that is older than clusters."""
    try:
        return client.fetch(client.plugin(socket), "/cluster?round-trip", ClusterReport)
    except Unavailable:
        return ClusterReport()


def _served(socket: Path) -> Routes | None:
    """What the ingress serves; ``None`` where there never was one. One that does not answer is a problem, not the end."""
    if not os.path.exists(socket):
        was = ended(PLACES.state)
        return Routes(silent=True, problem=f"{was}; {render.START_INGRESS}") if was else None
    try:
        return client.fetch(client.ingress(socket), "/routes", Routes)
    except Unavailable as error:
        return Routes(silent=True, problem=str(error))
