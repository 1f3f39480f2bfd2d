"""All tests, in the order in which a slip is told early; ``python -m tests ARGUMENTS`` hands them to pytest instead.

What needs no engines comes first, on all cores. Then the engines, which take most of the time and wait for most of it, in
three rows beside each other: one node, several nodes, and what is left with the tests that restart a node's engine, which
take about as long. The words of the latter two are printed at the end.

On two cores three rows make each other wait for seconds. A few tests that failed there are therefore run once more,
alone, and the last line names those that passed only so: to be looked at, and no reason to refuse anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

FIRST = ("unit", "properties", "fuzz", "kernel", "caddy", "browser", "dns")
BESIDE = ("etcd", "mesh", "guest")
ENGINES = "e2e"
SEVERAL = ("test_fleet*.py", "test_testbed.py")
"""The tests of several nodes among those of engines."""

FEW, FAILED = 4, 1
"""So many tests are run once more, and no more; pytest's status where tests failed, and nothing else did."""

RESTARTS = ("test_lifecycle.py", "test_install.py")
"""Those of one node which restart its engine."""


def main(arguments: list[str]) -> int:
    """Run them; returns 0 if all passed."""
    pytest = [sys.executable, "-m", "pytest"]
    if arguments:
        return subprocess.run([*pytest, *arguments], check=False).returncode
    # A file stays in one process: its tests may share what is made once.
    spread = ["--numprocesses", str(os.cpu_count() or 1), "--dist", "loadfile"]
    ended = [subprocess.run([*pytest, *spread, *_paths(FIRST)], check=False).returncode]
    with contextlib.ExitStack() as stack:
        caches = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        one, *others = ([*pytest, "-o", f"cache_dir={caches / str(at)}", *row] for at, row in enumerate(rows()))
        running = []
        for row in others:
            words = stack.enter_context(tempfile.TemporaryFile())
            process = subprocess.Popen(row, stdout=words, stderr=subprocess.STDOUT)
            stack.callback(_end, process)
            running.append((process, words))
        statuses = [subprocess.run(one, check=False).returncode]
        for process, words in running:
            statuses.append(process.wait())
            words.seek(0)
            sys.stdout.write(words.read().decode(errors="replace"))
        return max(*ended, *_alone(statuses, [one, *others], [caches / str(at) for at in range(len(statuses))]))


def _alone(statuses: list[int], commands: list[list[str]], caches: list[Path]) -> list[int]:
    """The statuses of rows, after what failed in them has been run once more with nothing beside it."""
    failed = [_failed(cache) for cache in caches]
    if not 0 < sum(map(len, failed)) <= FEW or not set(statuses) <= {0, FAILED}:
        return statuses
    found = []
    for status, command, names in zip(statuses, commands, failed, strict=True):
        if status:
            print(f"once more, alone: {' '.join(names)}", flush=True)
            status = subprocess.run([*command, "--last-failed"], check=False).returncode
        found.append(status)
    if not any(found):
        print(f"passed only alone, to be looked at: {' '.join(name for names in failed for name in names)}", flush=True)
    return found


def _failed(cache: Path) -> list[str]:
    """The tests that failed in a row, as pytest keeps them."""
    try:
        return sorted(json.loads((cache / "v" / "cache" / "lastfailed").read_text()))
    except FileNotFoundError:
        return []


def rows() -> tuple[list[str], list[str], list[str]]:
    """What runs beside each other: the tests of one node, of several, and what is left."""
    there = Path("tests", ENGINES)
    several = {path for pattern in SEVERAL for path in there.glob(pattern)}
    restarts = [there / name for name in RESTARTS]
    one = set(there.glob("test_*.py")) - several - set(restarts)
    return sorted(map(str, one)), sorted(map(str, several)), [*_paths(BESIDE), *map(str, restarts)]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a row that still runs, and wait until it has cleaned up."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait()


def _paths(parts: tuple[str, ...]) -> list[str]:
    return [f"tests/{part}" for part in parts]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
