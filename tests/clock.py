"""A clock that is set: by numbers for what is decided, and under a running process, with Debian's ``faketime``.

The machine's own clock is everybody's, and the kernel has no namespace for the clock of the day. libfaketime stands
between one process and its C library: the clock of the day jumps when a file is written, as it does when somebody sets
it, and the monotonic clocks go on. What that process starts keeps the machine's clock, and so does every program in Go
(Caddy, the engine, etcd, wireguard-go), which asks the kernel without the C library.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

HOUR = 3600

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))

needed = pytest.mark.skipif(not LIBRARIES, reason="missing: libfaketime (package faketime)")

# libfaketime 0.9.10 refuses to sleep until a moment of the monotonic clock, as Python's time.sleep() does.
_START = """
import os, runpy, select, sys, time
if "LD_PRELOAD" not in os.environ:
    os.environ["LD_PRELOAD"] = os.environ["FAKETIME_LIBRARY"]
    os.execv(sys.executable, sys.orig_argv)
del os.environ["LD_PRELOAD"]
time.sleep = lambda seconds: select.select((), (), (), seconds) and None
exec(sys.argv.pop(2))
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


@dataclass
class Clock:
    """The clock of the day and a steady one, in seconds."""

    time: float = 1_000_000.0
    ahead: float = 0.0

    def day(self) -> float:
        """The clock of the day."""
        return self.time + self.ahead

    def steady(self) -> float:
        """The one that nobody sets."""
        return self.time

    def run(self, seconds: float) -> None:
        """Time passes."""
        self.time += seconds

    def set(self, ahead: float) -> None:
        """Somebody sets the clock of the day."""
        self.ahead = ahead


@dataclass(frozen=True)
class Adjustable:
    """The clock of the day of one process, which is started with ``environment`` and :meth:`module`."""

    file: Path

    @classmethod
    def made(cls, directory: Path) -> Adjustable:
        """One that goes right so far."""
        clock = cls(directory / "clock-of-the-day")
        clock.set(0)
        return clock

    @property
    def environment(self) -> Mapping[str, str]:
        """What :meth:`module` needs to put libfaketime before the process's C library; times of files stay as they are.

        Not before that: what only ends by becoming another program leaves its shared memory behind.
        """
        return {
            "FAKETIME_LIBRARY": str(LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    @staticmethod
    def module(name: str, first: str = "") -> list[str]:
        """Python's arguments for ``-m name`` in a process whose children have clocks that nobody sets.

        ``first`` is a statement that is obeyed before.
        """
        return ["-c", _START, name, first]

    def set(self, ahead: int) -> None:
        """Have the clock of the day so many seconds ahead of the machine's (negative: behind it), from now on."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(f"{ahead:+d}\n")
        os.replace(fresh, self.file)
