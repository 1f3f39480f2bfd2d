"""The commands: what each reads, how it ends.

Exit status: 0 well, 1 a problem is among what was printed, 2 wrong usage, 3 who was asked does not answer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer

from stackpad.cli import checks, client, output, render
from stackpad.cli.examine import Places, examine
from stackpad.cli.reports import NetworkReport, PortReport, Routes, Status
from stackpad.errors import Unavailable

PROBLEM, USAGE, NOT_REACHABLE = 1, 2, 3

PLACES = Places()

app = typer.Typer(
    help="What the Stackpad plugin and ingress of this node are doing. Reads only; needs root.",
    epilog="Exit status: 0 well, 1 a problem was found, 2 wrong usage, 3 no answer. Example: stackpad doctor",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Socket = Annotated[Path, typer.Option("--socket", envvar="STACKPAD_SOCKET", metavar="PATH", help="The plugin's socket.")]
IngressSocket = Annotated[
    Path,
    typer.Option("--ingress-socket", envvar="STACKPAD_INGRESS_SOCKET", metavar="PATH", help="The ingress's socket."),
]
OnlyIngressSocket = Annotated[
    Path,
    typer.Option(
        "--socket",
        "--ingress-socket",
        envvar="STACKPAD_INGRESS_SOCKET",
        metavar="PATH",
        help="The ingress's socket.",
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            number = version("stackpad")
        except PackageNotFoundError:
            number = "from a checkout"
        typer.echo(f"stackpad {number}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: stackpad status --json")
def status(socket: Socket = PLACES.plugin, ingress_socket: IngressSocket = PLACES.ingress, as_json: Json = False) -> None:
    """Show plugin and ingress at a glance; ends with 1 if there is a problem."""
    with _answering():
        report = client.fetch(client.plugin(socket), "/status", Status)
    served = _served(ingress_socket)
    troubled = not report.ready or bool(report.problems) or (served is not None and served.troubled)
    grid = render.status(report, served, time.time())
    _print({"plugin": report, "ingress": served}, grid, as_json=as_json, troubled=troubled)


@app.command(epilog="Example: stackpad networks my-app-production")
def networks(
    name: Annotated[
        str | None, typer.Argument(metavar="[NETWORK]", help="Show this network's containers instead: name or id.")
    ] = None,
    socket: Socket = PLACES.plugin,
    as_json: Json = False,
) -> None:
    """List the networks with their ranges, gateways and bridges."""
    with _answering():
        reports = client.fetch(client.plugin(socket), "/networks", tuple[NetworkReport, ...])
    if name is None:
        troubled = any(report.troubled for report in reports)
        _print(reports, render.networks(reports), as_json=as_json, troubled=troubled)
        return
    meant = [report for report in reports if report.is_called(name)]
    if len(meant) != 1:
        there = ", ".join(sorted(report.shown_name for report in reports)) or "none"
        what = "is the name of several networks; use an id" if meant else f"is no network here; there are: {there}"
        output.complain(f"{name} {what}")
        raise typer.Exit(USAGE)
    _print(meant[0], render.network(meant[0]), as_json=as_json, troubled=meant[0].troubled)


@app.command(epilog="Example: stackpad ports --json")
def ports(socket: Socket = PLACES.plugin, as_json: Json = False) -> None:
    """List published ports, which docker ps cannot show for a plugin's networks."""
    with _answering():
        reports = client.fetch(client.plugin(socket), "/ports", tuple[PortReport, ...])
    _print(reports, render.ports(reports), as_json=as_json)


@app.command(epilog="Example: stackpad routes")
def routes(socket: OnlyIngressSocket = PLACES.ingress, as_json: Json = False) -> None:
    """List the hosts the ingress serves, and what it does not serve and why."""
    with _answering():
        report = client.fetch(client.ingress(socket), "/routes", Routes)
    _print(report, render.routes(report, time.time()), as_json=as_json, troubled=report.troubled)


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
    as_json: Json = False,
) -> None:
    """Check the node, and say what to do about what is wrong; ends with 1 if something is."""
    if not docker_host.startswith("unix://"):
        output.complain(f"--docker {docker_host} is not a socket of this node, such as unix:///run/docker.sock")
        raise typer.Exit(USAGE)
    engine = Path(docker_host.removeprefix("unix://"))
    places = replace(PLACES, plugin=socket, ingress=ingress_socket, engine=engine, caddy=caddy)
    found = checks.diagnose(examine(places))
    _print([asdict(check) for check in found], checks.grid(found), as_json=as_json, troubled=checks.failed(found))


@contextmanager
def _answering() -> Iterator[None]:
    """End with the status for "no answer" and the reason, if somebody does not."""
    try:
        yield
    except Unavailable as error:
        output.complain(str(error))
        raise typer.Exit(NOT_REACHABLE) from error


def _served(socket: Path) -> Routes | None:
    """What the ingress serves; ``None`` without one. One that does not answer is a problem, not the end."""
    if not os.path.exists(socket):
        return None
    try:
        return client.fetch(client.ingress(socket), "/routes", Routes)
    except Unavailable as error:
        return Routes(problem=str(error))


def _print(value: Any, grid: render.Grid, *, as_json: bool, troubled: bool = False) -> None:
    if as_json:
        output.show_json(value)
    else:
        output.show(grid)
    if troubled:
        raise typer.Exit(PROBLEM)
