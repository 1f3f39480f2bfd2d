"""Which proof is tried next, and when; pure.

Soon at first, since somebody is waiting for it, and then less and less often. Owners take turns, and each has only so
many under way at once: who has ten thousand domains waits for those himself.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

from ingress.owners.ledger import Owner

FIRST, LAST = 2.0, 900.0
"""Seconds between two attempts: after the first one, and in the end."""

AT_ONCE, FOR_ONE = 16, 2
"""How many are under way at once: altogether, and of one owner's."""


@dataclass(frozen=True, slots=True)
class Target:
    """A proof to be found: that ``domain`` is ``owner``'s. ``dns_only``: that it points here would be none."""

    domain: str
    owner: Owner
    dns_only: bool = False


@dataclass(eq=False, slots=True)
class _Entry:
    target: Target
    wait: float = FIRST
    under_way: bool = False


@dataclass
class Queue:
    """The targets; times are seconds of any clock that only goes forward."""

    _entries: dict[Target, _Entry] = field(default_factory=dict)
    _later: list[tuple[float, int, _Entry]] = field(default_factory=list)
    _ready: dict[Owner, deque[_Entry]] = field(default_factory=dict)
    _turns: deque[Owner] = field(default_factory=deque)
    _running: dict[Owner, int] = field(default_factory=dict)
    _count: itertools.count[int] = field(default_factory=itertools.count)

    def want(self, targets: Collection[Target], now: float) -> None:
        """From now on these and no others; new ones are due at once."""
        wanted = set(targets)
        for target in self._entries.keys() - wanted:
            del self._entries[target]
        for target in sorted(wanted - self._entries.keys(), key=lambda one: (one.owner, one.domain, one.dns_only)):
            self._entries[target] = entry = _Entry(target)
            heapq.heappush(self._later, (now, next(self._count), entry))

    def take(self, now: float) -> Target | None:
        """The next one to be tried, which is then under way until :meth:`done`; ``None`` if there is none now."""
        self._make_ready(now)
        if sum(self._running.values()) >= AT_ONCE:
            return None
        for _ in range(len(self._turns)):
            owner = self._turns.popleft()
            there = self._ready[owner]
            while there and self._is_stale(there[0]):
                there.popleft()
            if not there:
                del self._ready[owner]
                continue
            self._turns.append(owner)
            if self._running.get(owner, 0) < FOR_ONE:
                self._running[owner] = self._running.get(owner, 0) + 1
                entry = there.popleft()
                entry.under_way = True
                return entry.target
        return None

    def done(self, target: Target, now: float) -> None:
        """It has been tried; it is tried again later, if it is still wanted."""
        left = self._running.pop(target.owner) - 1
        if left:
            self._running[target.owner] = left
        entry = self._entries.get(target)
        if entry is not None and entry.under_way:
            entry.under_way = False
            heapq.heappush(self._later, (now + entry.wait, next(self._count), entry))
            entry.wait = min(entry.wait * 2, LAST)

    def next_due(self) -> float | None:
        """When there is something to do at the latest, if nothing else happens; ``None`` for never."""
        while self._later and self._is_stale(self._later[0][2]):
            heapq.heappop(self._later)
        return self._later[0][0] if self._later else None

    def _make_ready(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            _, _, entry = heapq.heappop(self._later)
            if self._is_stale(entry):
                continue
            if entry.target.owner not in self._ready:
                self._ready[entry.target.owner] = deque()
                self._turns.append(entry.target.owner)
            self._ready[entry.target.owner].append(entry)

    def _is_stale(self, entry: _Entry) -> bool:
        return self._entries.get(entry.target) is not entry
