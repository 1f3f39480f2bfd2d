"""What all commands share: options, how an answer is printed, how a command ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from stackpad.cli import output, render
from stackpad.cli.examine import Places
from stackpad.errors import StackpadError, Unavailable

PROBLEM, USAGE, NOT_REACHABLE = 1, 2, 3

PLACES = Places()

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Socket = Annotated[Path, typer.Option("--socket", envvar="STACKPAD_SOCKET", metavar="PATH", help="The plugin's socket.")]
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


@contextmanager
def answering() -> Iterator[None]:
    """End with the reason, and the status for "no answer" or "a problem", if somebody does not answer or refuses."""
    try:
        yield
    except Unavailable as error:
        output.complain(str(error))
        raise typer.Exit(NOT_REACHABLE) from error
    except StackpadError as error:
        output.complain(str(error))
        raise typer.Exit(PROBLEM) from error


def show(value: Any, grid: render.Grid, *, as_json: bool, troubled: bool = False) -> None:
    """Print ``value`` as JSON or as ``grid``; ends with the status for a problem if it is ``troubled``."""
    if as_json:
        output.show_json(value)
    else:
        output.show(grid)
    if troubled:
        raise typer.Exit(PROBLEM)
