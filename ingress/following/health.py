"""Whether a port accepts: what stands in for a health check where a container has none."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from stackpad.runtime import Backoff

FIRST, LAST = 0.005, 1.0
"""Seconds between two attempts: many while a server is about to listen, few at one that never will."""

CONNECT = 2.0

Target = tuple[str, str, str, int]
"""Container id, when it was started, address, port: a container that was started again has to accept again."""


class Prober:
    """Tries each target until its port accepts once, and calls ``changed`` then, and when the first try has failed."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.accepting: set[Target] = set()
        self._tried: set[Target] = set()
        self._changed = changed
        self._wanted: set[Target] = set()
        self._tasks: dict[Target, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Probe until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            self.want(self._wanted)
            await asyncio.Event().wait()

    def want(self, targets: Iterable[Target]) -> None:
        """Probe these and no others; one that was left out and comes again is tried anew."""
        self._wanted = set(targets)
        self.accepting &= self._wanted
        self._tried &= self._wanted
        if self._group is None:
            return
        for target in list(self._tasks.keys() - self._wanted):
            self._tasks.pop(target).cancel()
        for target in self._wanted - self._tasks.keys() - self.accepting:
            self._tasks[target] = self._group.create_task(self._probe(target), name=f"probe {target[0][:12]}")

    @property
    def untried(self) -> set[Target]:
        """Those that have never been tried yet; ``changed`` is called when one has."""
        return self._wanted - self._tried - self.accepting

    async def _probe(self, target: Target) -> None:
        _, _, address, port = target
        backoff = Backoff(FIRST, LAST)
        while not await accepts(address, port, CONNECT):
            if target in self._wanted - self._tried:
                self._tried.add(target)
                self._changed()
            await asyncio.sleep(next(backoff))
        self._tasks.pop(target, None)
        if target in self._wanted:
            self.accepting.add(target)
            self._changed()


async def accepts(address: str, port: int, seconds: float) -> bool:
    """Whether a connection can be made within so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(address, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
