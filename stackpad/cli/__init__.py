"""The command ``stackpad``: what plugin and ingress of this node are doing, for people and for scripts.

It reads two unix sockets that only root can open and changes nothing. ``typer`` and ``rich`` are imported here and
nowhere else, and only when a command runs: ``pip install '.[cli]'`` in a checkout brings them.
"""

from __future__ import annotations

import sys


def main() -> int:
    """The entry point; ends the process with the command's exit status."""
    try:
        from stackpad.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich"}:
            raise
        sys.stderr.write(f"stackpad: the command line needs {error.name}; in the checkout: pip install '.[cli]'\n")
        return 2
    app(prog_name="stackpad")
    return 0
