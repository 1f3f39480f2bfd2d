"""What a fault is: what is done, to whom, for how long, and what may be lost by it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.e2e.workbench import Workbench
from tests.testbed import network
from tests.testbed.node import Node
from tests.testbed.shell import Failed, say
from tests.testbed.testbed import Testbed

CONTROL, WORKER = 1, 2
"""Nodes by their part: the first one has the store and Caddy, the second one neither."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What may be lost. Times are in seconds."""

    still: tuple[str, ...] = ("same", "published", "caddy")
    """Ways of which nothing may be lost, on the node itself, too."""

    across: float | None = 0.0
    """The longest silence between the node and others: 0 for nothing lost, None where it is cut on purpose."""

    others: bool = True
    """Whether streams that do not pass the node may lose nothing."""

    converge: float = 5.0
    """From the fault's end until all is well again without help."""


UNNOTICED = Goal()
PLUGIN_ENDS = Goal(across=1.0)
"""The userspace WireGuard ends with the plugin."""

TRAFFIC_STOPS = Goal(still=(), across=None)
"""What carries the traffic is itself damaged, so only the recovery counts."""

PARTED = Goal(still=("same", "published"), across=None)


class Nodes(Protocol):
    """The nodes there are, each with its workbench."""

    bed: Testbed
    bench: dict[int, Workbench]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a fault is injected."""

    scene: Nodes
    number: int
    stop: float = 20.0
    """Seconds for which a process is stopped."""

    calls: dict[str, float] = field(default_factory=dict)
    """Seconds that Docker's commands took which the fault has asked for; negative if one failed."""

    refused: dict[str, str] = field(default_factory=dict)
    """Of those, what was refused as it must be, and the words."""

    @property
    def bench(self) -> Workbench:
        """The node to work at."""
        return self.scene.bench[self.number]

    @property
    def node(self) -> Node:
        """The node."""
        return self.bench.node

    def pids(self, *words: str) -> list[int]:
        """Processes of the node whose command line begins with these words, a path before the first one left out."""
        found = []
        for pid in network.inhabitants(self.node.spec.netns):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
                if (Path(command[0]).name, *command[1 : len(words)]) == words:
                    found.append(pid)
        return found

    def engine_pid(self) -> int:
        """The engine's process."""
        return int((self.node.home / "docker.pid").read_text())

    @contextlib.contextmanager
    def stopped(self, pid: int) -> Iterator[None]:
        """A process that does nothing meanwhile."""
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def ask(self, call: str, *words: str, refused: str = "") -> None:
        """Run a command of Docker's and keep how long it took; where it may fail, its error must say ``refused``."""
        began = time.monotonic()
        done = self.bench.try_docker(*words, timeout=120)
        took = time.monotonic() - began
        said = done.stderr.strip()
        if done.returncode:
            say(f"docker {call}: {said}")
        right = bool(done.returncode and refused and re.search(refused, said))
        if right:
            self.refused[call] = said
        self.calls[call] = took if right or not done.returncode else -took

    def configure(self, **settings: object) -> None:
        """Change the engine's ``daemon.json``; it reads the file at its next start."""
        file = self.node.root / "etc/docker/daemon.json"
        there = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**there, **settings}))

    def one(self, *words: str) -> int:
        """The one such process; raises :class:`Failed` where there is none."""
        found = self.pids(*words)
        if not found:
            raise Failed(f"{' '.join(words)} does not run on {self.node.name}")
        return found[0]


def _unprepared(_: Place) -> AbstractContextManager[None]:
    return contextlib.nullcontext()


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault: ``inject`` is entered to begin it and left to end it."""

    name: str
    title: str
    inject: Callable[[Place], AbstractContextManager[None]]
    roles: tuple[int, ...]
    hold: float | None
    """Seconds until it ends; None for as long as the run stops processes."""

    goal: Goal
    daily: bool
    """Whether containers and networks are made and removed on the node meanwhile."""

    note: str
    """What is to be known about its figures."""

    prepare: Callable[[Place], AbstractContextManager[None]] = _unprepared
    """Entered before anything is measured, and left when all is judged."""

    @property
    def prepared(self) -> bool:
        """Whether there is more on the node during it than during others."""
        return self.prepare is not _unprepared


FAULTS: dict[str, Fault] = {}
"""All of them by name, once their modules are imported."""


def fault(
    title: str,
    *,
    goal: Goal,
    roles: tuple[int, ...] = (CONTROL, WORKER),
    hold: float | None = 0.0,
    daily: bool = False,
    note: str = "",
    prepare: Callable[[Place], AbstractContextManager[None]] = _unprepared,
) -> Callable[[Callable[[Place], Iterator[None]]], Callable[[Place], AbstractContextManager[None]]]:
    """Make a fault of a generator that begins it, yields for ``hold`` seconds, and ends it."""

    def made(inject: Callable[[Place], Iterator[None]]) -> Callable[[Place], AbstractContextManager[None]]:
        managed = contextlib.contextmanager(inject)
        name = inject.__name__.replace("_", "-")
        FAULTS[name] = Fault(name, title, managed, roles, hold, goal, daily, note, prepare)
        return managed

    return made
