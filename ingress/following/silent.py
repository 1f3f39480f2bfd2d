"""Web containers of nodes that give no sign of life: whether they answer all the same.

A plugin that hangs, or a store a node does not reach, is not the end of what runs there: containers go on, and so does
the tunnel. Nobody's word says so any more, so the way there is tried: what accepts a connection is served on. A node
that has died is seen within :data:`CONNECT` of its lease's end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

from ingress.following.health import accepts
from ingress.following.remote import Place

CONNECT = 0.6
"""Seconds an answer may take; a second attempt of the kernel's own would come after one."""

LOOK = 1.0
"""Seconds between two rounds."""

FIRST = 16
"""Endpoints of a node that are tried before all others: where none of them answers, the node is gone, and with it the
thousands that would have to be waited for in turn.
"""

AT_ONCE = 256
"""Attempts at a time."""

MISSES = 2
"""Rounds in a row in which one that has answered does not: a packet may be lost."""


class Silent:
    """Tries what it is told for as long as it is told so, and calls ``changed`` when it knows something else."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._wanted: Mapping[str, Sequence[Place]] = {}
        self._places: set[Place] = set()
        self._misses: dict[Place, int] = {}
        self._anything = asyncio.Event()
        self._slots = asyncio.Semaphore(AT_ONCE)

    def want(self, places: Mapping[str, Sequence[Place]]) -> None:
        """From now on it is about these, by node; what is not among them is forgotten."""
        self._wanted = places
        self._places = {place for some in places.values() for place in some}
        self._misses = {place: misses for place, misses in self._misses.items() if place in self._places}
        if places:
            self._anything.set()
        else:
            self._anything.clear()

    def answers(self, address: str, port: int) -> bool:
        """Whether it answered, or has not been tried yet."""
        return self._misses.get((address, port), 0) < MISSES

    async def run(self) -> None:
        """Try until cancelled."""
        while True:
            await self._anything.wait()
            before = self._gone()
            async with asyncio.TaskGroup() as tasks:
                for places in self._wanted.values():
                    tasks.create_task(self._node(places))
            if before != self._gone():
                self._changed()
            await asyncio.sleep(LOOK)

    async def _node(self, places: Sequence[Place]) -> None:
        if any(await self._try(places[:FIRST])):
            await self._try(places[FIRST:])
        else:
            for place in places[FIRST:]:
                self._note(place, MISSES)

    async def _try(self, places: Iterable[Place]) -> list[bool]:
        async with asyncio.TaskGroup() as tasks:
            attempts = [tasks.create_task(self._attempt(place)) for place in places]
        return [attempt.result() for attempt in attempts]

    async def _attempt(self, place: Place) -> bool:
        async with self._slots:
            accepted = await accepts(*place, CONNECT)
        # Whoever has never answered since the silence began is not given a second chance: mostly, the node has died.
        self._note(place, 0 if accepted else min(self._misses.get(place, MISSES) + 1, MISSES))
        return accepted

    def _note(self, place: Place, misses: int) -> None:
        if place in self._places:
            self._misses[place] = misses

    def _gone(self) -> set[Place]:
        return {place for place in self._misses if not self.answers(*place)}
