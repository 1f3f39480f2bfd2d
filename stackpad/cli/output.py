"""Writes to stdout: a table for a terminal, plain text for a pipe, JSON when asked."""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from stackpad.cli import render
from stackpad.cli.render import Grid

STYLES = {"problem": "bold red", "gone": "bold red", "warning": "yellow", "skipped": "dim"}
"""How a cell that says just this is set off."""


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
        columns = len(grid.rows[0])
        for index, head in enumerate(grid.heads or ("",) * columns):
            wraps = grid.prose and index == columns - 1
            table.add_column(head, overflow="fold", no_wrap=not wraps, min_width=None if wraps else grid.widths[index])
        for row in grid.rows:
            table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
        # What may not be wrapped goes beyond a narrow terminal's edge, as it does with docker ps.
        needed = sum(width + 2 for width in grid.widths)
        console.print(table, width=None if grid.prose else max(needed, console.width), soft_wrap=not grid.prose)
    else:
        console.print(grid.empty)
    for note in grid.notes:
        console.print(note)


def show_json(value: Any) -> None:
    """Write a value as indented JSON."""
    encoded = msgspec.json.format(msgspec.json.encode(value), indent=2)
    sys.stdout.write(encoded.decode() + "\n")


def say(text: str) -> None:
    """Write a line of progress to stderr, so that stdout has nothing but what was asked for."""
    sys.stderr.write(f"{render.clean(text)}\n")
    sys.stderr.flush()


def complain(text: str) -> None:
    """Write an error to stderr, in the form all commands use."""
    sys.stderr.write(f"stackpad: {render.clean(text)}\n")
