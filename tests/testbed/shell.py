"""Running commands, and saying on stderr what is going on and since when."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_BEGAN = time.monotonic()
ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""


class Failed(Exception):
    """A command did not do its part; the message has the command and its last words."""


def cache() -> Path:
    """Where trees and images are kept between runs; ``STACKPAD_CACHE`` moves it."""
    chosen = os.environ.get("STACKPAD_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = Path(chosen) if chosen else base / "stackpad"
    path.mkdir(parents=True, exist_ok=True)
    return path


def say(text: str) -> None:
    """One line of progress."""
    sys.stderr.write(f"[{time.monotonic() - _BEGAN:6.1f} s] {text}\n")
    sys.stderr.flush()


def run(
    *command: str | Path,
    check: bool = True,
    script: str | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 1200,
) -> subprocess.CompletedProcess[str]:
    """Run to the end and return what was printed; raises :class:`Failed` for an exit status other than 0."""
    done = subprocess.run(
        list(map(str, command)),
        input=script,
        stdin=subprocess.DEVNULL if script is None else None,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=timeout,
        env=None if env is None else {**os.environ, **env},
    )
    if check and done.returncode:
        words = "\n".join((done.stderr or done.stdout).strip().splitlines()[-12:])
        raise Failed(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{words}")
    return done


def spawn(command: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None) -> int:
    """Start a process that goes on when we are gone; its output goes to ``log``; returns its id."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=None if env is None else {**os.environ, **env},
        )
    # Its exit is seen by whoever looks for its id; as our child it would stay a zombie until then.
    _CHILDREN.append(process)
    return process.pid


_CHILDREN: list[subprocess.Popen[bytes]] = []


def alive(pid: int) -> bool:
    """Whether a process of this id runs (a zombie does not)."""
    # The latest of that id: ids are given again, and in half an hour of tests they are.
    for child in reversed(_CHILDREN):
        if child.pid == pid:
            return child.poll() is None
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_until(what: str, condition: object, timeout: float = 60.0, every: float = 0.05) -> None:
    """Return when ``condition()`` is true; raises :class:`Failed` naming ``what`` after ``timeout`` seconds."""
    assert callable(condition)
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {timeout:.0f} s")
        time.sleep(every)


def need(*programs: str) -> None:
    """Raise :class:`Failed` naming the programs that are missing, and what brings them."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise Failed(f"missing on this machine: {', '.join(missing)}; `make requirements` installs them")


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Say that something begins, and how long it took."""
    say(f"{what} …")
    began = time.monotonic()
    yield
    say(f"{what}: {time.monotonic() - began:.1f} s")
