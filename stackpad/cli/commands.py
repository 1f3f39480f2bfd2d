"""The commands: what they read, in which form they print it, and their exit status.

0: fine; 1: something is wrong; 2: the words of the command are; 3: nobody answers.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType

from stackpad.cli import client, doctor, render
from stackpad.errors import Unavailable

app = typer.Typer(
    help="What Docker itself cannot show of Stackpad networks on this node.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
PluginSocket = Annotated[Path, typer.Option("--socket", envvar="STACKPAD_SOCKET", help="The plugin's socket.")]
IngressSocket = Annotated[
    Path, typer.Option("--ingress-socket", envvar="STACKPAD_INGRESS_SOCKET", help="The ingress's socket.")
]


def main() -> None:
    """Run the command line; nobody answering ends it with 3."""
    try:
        app(prog_name="stackpad")
    except Unavailable as error:
        sys.stderr.write(f"stackpad: {error}\n")
        sys.exit(3)


@app.callback(invoke_without_command=True)
def _root(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    if show_version:
        try:
            typer.echo(f"stackpad {version('stackpad')}")
        except PackageNotFoundError:
            typer.echo("stackpad, from a checkout")
        raise typer.Exit


@app.command()
def status(
    as_json: AsJson = False,
    socket: PluginSocket = client.PLUGIN_SOCKET,
    ingress_socket: IngressSocket = client.INGRESS_SOCKET,
) -> None:
    """The node at a glance: plugin, engine, networks, ingress.

    Example: stackpad status --json | jq .plugin.problems
    """
    plugin = client.plugin(socket, "/status")
    try:
        ingress = client.ingress(ingress_socket) if ingress_socket.exists() else None
    except Unavailable as error:
        ingress = {"problem": str(error), "routes": [], "problems": []}
    _show(as_json, {"plugin": plugin, "ingress": ingress}, render.status(plugin, ingress))
    if not plugin["ready"] or plugin["problems"] or (ingress and ingress["problem"]):
        raise typer.Exit(1)


@app.command()
def networks(as_json: AsJson = False, socket: PluginSocket = client.PLUGIN_SOCKET) -> None:
    """Networks with their ranges, bridges and containers.

    Example: stackpad networks
    """
    rows = client.plugin(socket, "/networks")
    _show(as_json, rows, render.networks(rows))


@app.command()
def ports(as_json: AsJson = False, socket: PluginSocket = client.PLUGIN_SOCKET) -> None:
    """Published ports, which `docker ps` cannot show for a network driver that is a plugin.

    Example: stackpad ports
    """
    rows = client.plugin(socket, "/ports")
    _show(as_json, rows, render.ports(rows))


@app.command()
def routes(as_json: AsJson = False, ingress_socket: IngressSocket = client.INGRESS_SOCKET) -> None:
    """Hosts the ingress serves, who owns them, and who is not served and why.

    Example: stackpad routes
    """
    report = client.ingress(ingress_socket)
    _show(as_json, report, render.routes(report))
    lines = [report["problem"]] if report["problem"] else []
    if report["stale"]:
        lines.append("the engine does not answer; this is what was known last")
    lines += render.problems(report["problems"])
    for line in lines:
        sys.stderr.write(f"{line}\n")
    if lines:
        raise typer.Exit(1)


@app.command(name="doctor")
def examine(
    as_json: AsJson = False,
    socket: PluginSocket = client.PLUGIN_SOCKET,
    ingress_socket: IngressSocket = client.INGRESS_SOCKET,
) -> None:
    """Check this node and say what to do about what is wrong.

    Example: sudo stackpad doctor
    """
    checks = [asdict(check) for check in doctor.examine(socket, ingress_socket)]
    _show(as_json, checks, render.checks(checks))
    if not all(check["ok"] for check in checks):
        raise typer.Exit(1)


def _show(as_json: bool, value: Any, table: RenderableType) -> None:
    if as_json:
        typer.echo(json.dumps(value, indent=2))
    else:
        # Piped into a file or a program, a table is as wide as it needs to be.
        Console(width=None if sys.stdout.isatty() else 200, soft_wrap=False).print(table)
