"""All tests; ``python -m tests ARGUMENTS`` hands them to pytest instead.

What needs no engines comes first, on all cores, so that a slip is told early. Then the engines, which take most of the
time and wait for most of it, in three rows beside each other, which take about as long: one node; several nodes, with
the store's tests; and what is left, with the tests that restart an engine or make testbeds. The words of the latter two
are printed at the end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

FIRST = ("fuzz", "caddy", "kernel", "browser", "dns", "properties", "unit")
"""Those whose files take longest come first: no core waits at the end for the other one's."""

BESIDE = ("etcd", "mesh", "guest")
"""Without engines, and slow: the first goes with the tests of several nodes, the others with what is left."""

ENGINES = "e2e"
SEVERAL = "test_fleet*.py"
"""The tests of several nodes among those of engines."""

APART = ("test_lifecycle.py", "test_install.py", "test_testbed.py")
"""Those which restart an engine, and those of the testbed itself."""


def main(arguments: list[str]) -> int:
    """Run them; returns 0 if all passed."""
    # Who is told to end has its rows clean up, as at an interrupt; so has one whose terminal is closed.
    for told in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(told, lambda number, _: sys.exit(128 + number))
    pytest = [sys.executable, "-m", "pytest"]
    if arguments:
        os.execv(pytest[0], [*pytest, *arguments])  # noqa: S606 - this interpreter
    # A file stays in one process: its tests may share what is made once.
    spread = ["--numprocesses", str(os.cpu_count() or 1), "--dist", "loadfile", "--no-loadscope-reorder"]
    one, *others = rows()
    with contextlib.ExitStack() as stack:
        ended = [_started(stack, [*pytest, *spread, *_paths(FIRST)]).wait()]
        running = []
        for row in others:
            words = stack.enter_context(tempfile.TemporaryFile())
            running.append((_started(stack, [*pytest, *row], words), words))
        ended.append(_started(stack, [*pytest, *one]).wait())
        for process, words in running:
            ended.append(process.wait())
            words.seek(0)
            sys.stdout.write(words.read().decode(errors="replace"))
    return max(ended)


def rows() -> tuple[list[str], list[str], list[str]]:
    """What runs beside each other: the tests of one node, of several, and what is left."""
    there = Path("tests", ENGINES)
    several = set(there.glob(SEVERAL))
    apart = [there / name for name in APART]
    one = set(there.glob("test_*.py")) - several - set(apart)
    store, *left = _paths(BESIDE)
    return sorted(map(str, one)), [store, *sorted(map(str, several))], [*left, *map(str, apart)]


def _started(stack: contextlib.ExitStack, command: list[str], words: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    """A row that ends with ``stack``; what it says goes to ``words``, if given.

    In a session of its own: a terminal's interrupt would reach it at once, ours again, and the second one would break off
    its cleaning up.
    """
    error = None if words is None else subprocess.STDOUT
    process = subprocess.Popen(command, stdout=words, stderr=error, start_new_session=True)
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a row that still runs, and wait until it has cleaned up."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait()


def _paths(parts: tuple[str, ...]) -> list[str]:
    return [f"tests/{part}" for part in parts]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
