"""Writes to stdout: a table for a terminal, plain text for a pipe, JSON when asked."""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from stackpad.cli import render
from stackpad.cli.render import Grid


def show(grid: Grid) -> None:
    """Write a table."""
    if not sys.stdout.isatty():
        sys.stdout.write(render.text(grid))
        return
    # Only who looks at a terminal waits for this import.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    if grid.rows:
        table = Table(box=None, show_header=bool(grid.heads), header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
        for head in grid.heads or ("",) * len(grid.rows[0]):
            table.add_column(head, overflow="fold")
        for row in grid.rows:
            table.add_row(*map(Text, row))
        console.print(table)
    else:
        console.print(grid.empty)
    for note in grid.notes:
        console.print(note)


def show_json(value: Any) -> None:
    """Write a value as indented JSON."""
    encoded = msgspec.json.format(msgspec.json.encode(value), indent=2)
    sys.stdout.write(encoded.decode() + "\n")


def complain(text: str) -> None:
    """Write an error to stderr, in the form all commands use."""
    sys.stderr.write(f"stackpad: {render.clean(text)}\n")
