"""All tests, in the order in which a slip is told early; ``python -m tests ARGUMENTS`` hands them to pytest instead.

What needs no engines comes first, on all cores. Then the engines, which take most of the time and wait for most of it:
the tests of one node, and beside them those of several and whatever else only uses a core now and then, one after the
other. Their words are printed at the end.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

FIRST = ("unit", "properties", "fuzz", "kernel", "caddy", "browser", "dns")
BESIDE = ("etcd", "mesh", "guest")
ENGINES = "e2e"
SEVERAL = "test_fleet*.py"
"""The tests of several nodes among those of engines."""


def main(arguments: list[str]) -> int:
    """Run them; returns 0 if all passed."""
    pytest = [sys.executable, "-m", "pytest"]
    if arguments:
        return subprocess.run([*pytest, *arguments], check=False).returncode
    # A file stays in one process: its tests may share what is made once.
    spread = ["--numprocesses", str(os.cpu_count() or 1), "--dist", "loadfile"]
    ended = [subprocess.run([*pytest, *spread, *_paths(FIRST)], check=False).returncode]
    fleet = sorted(str(path) for path in Path("tests", ENGINES).glob(SEVERAL))
    with tempfile.TemporaryFile() as words:
        beside = [*pytest, *_paths(BESIDE), *fleet]
        with subprocess.Popen(beside, stdout=words, stderr=subprocess.STDOUT) as several:
            try:
                one = [*pytest, *_paths((ENGINES,)), f"--ignore-glob=*/{SEVERAL}"]
                ended.append(subprocess.run(one, check=False).returncode)
            except BaseException:
                several.terminate()
                raise
            ended.append(several.wait())
        words.seek(0)
        sys.stdout.write(words.read().decode(errors="replace"))
    return max(ended)


def _paths(parts: tuple[str, ...]) -> list[str]:
    return [f"tests/{part}" for part in parts]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
