"""``python -m ingress``: keeps Caddy in step with the web containers of this node's engine."""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

import structlog

from ingress.app import dry_run, serve
from ingress.carryover import carry, found
from ingress.settings import HELP, STATE_DIR, Settings
from stackpad.errors import StackpadError
from stackpad.runtime import configure_logging

GARBAGE = (50_000, 20, 20)
"""When the interpreter looks for garbage in cycles: after so many new objects; each so-manieth time at older ones, too.

Each change among thousands of hosts makes as many small objects, hardly any of them in a cycle. With the interpreter's
own numbers a third of a change's time at ten thousand hosts went into the search.
"""


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ingress",
        description=__doc__,
        epilog="Settings, from the environment:\n" + "".join(f"  {name:14} {text}\n" for name, text in HELP.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="check the settings and end")
    parser.add_argument("--dry-run", action="store_true", help="print what would be written to Caddy as a diff, and end")
    parser.add_argument("--version", action="store_true", help="print the version and end")
    options = parser.parse_args(arguments)
    if options.version:
        try:
            print(f"stackpad {version('stackpad')}")  # noqa: T201 - what was asked for
        except PackageNotFoundError:
            print("stackpad, from a checkout")  # noqa: T201 - what was asked for
        return 0
    reasons: list[BaseException] = []
    try:
        settings = Settings.load()
        configure_logging(settings.log_level)
        if options.dry_run:
            if settings.state_dir == STATE_DIR:
                settings = replace(settings, state_dir=found(STATE_DIR.parent, STATE_DIR))
            plan = asyncio.run(dry_run(settings))
            print(plan.diff or "nothing: Caddy has it all", end="" if plan.diff else "\n")  # noqa: T201 - asked for
        elif not options.check:
            if settings.state_dir == STATE_DIR:
                for said in carry(STATE_DIR.parent, STATE_DIR):
                    structlog.get_logger("ingress").warning("state of an earlier ingress", what=said)
            gc.set_threshold(*GARBAGE)
            asyncio.run(serve(settings))
    except* (StackpadError, OSError) as group:
        reasons += group.exceptions
    for reason in reasons:
        sys.stderr.write(f"ingress: {_words(reason)}\n")
    return 1 if reasons else 0


def _words(reason: BaseException) -> str:
    while isinstance(reason, BaseExceptionGroup):
        reason = reason.exceptions[0]
    return str(reason)


if __name__ == "__main__":
    sys.exit(main())
