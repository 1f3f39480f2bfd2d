"""All tests, in the order in which a slip is told early; ``python -m tests ARGUMENTS`` hands them to pytest instead.

What needs neither engines nor the whole machine comes first. Then the engines, which take most of the time and wait for
most of it; beside them run the tests that only use a core now and then. Their words are printed at the end.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

FIRST = ("unit", "properties", "kernel", "caddy", "dns")
BESIDE = ("etcd", "mesh", "guest")
ENGINES = ("e2e",)


def main(arguments: list[str]) -> int:
    """Run them; returns 0 if all passed."""
    pytest = [sys.executable, "-m", "pytest"]
    if arguments:
        return subprocess.run([*pytest, *arguments], check=False).returncode
    ended = [subprocess.run([*pytest, *_paths(FIRST)], check=False).returncode]
    with tempfile.TemporaryFile() as words:
        with subprocess.Popen([*pytest, *_paths(BESIDE)], stdout=words, stderr=subprocess.STDOUT) as beside:
            try:
                ended.append(subprocess.run([*pytest, *_paths(ENGINES)], check=False).returncode)
            except BaseException:
                beside.terminate()
                raise
            ended.append(beside.wait())
        words.seek(0)
        sys.stdout.write(words.read().decode(errors="replace"))
    return max(ended)


def _paths(parts: tuple[str, ...]) -> list[str]:
    return [f"tests/{part}" for part in parts]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
