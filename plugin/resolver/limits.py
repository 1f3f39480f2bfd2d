"""What one asker may take, and all those of an environment together, so that the others have something left.

Pure, but for the clock that is handed in.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field

REMEMBERED = 4096
"""Askers whose pace is remembered; the one who has been silent longest is forgotten first."""


@dataclass(slots=True)
class Limit:
    """How many of something there are at a time: of all, of each asker, and of those who belong together.

    Those of one group have no more than ``most_together`` while half of all there may be is taken: what nobody else asks
    for they may have.
    """

    most: int
    most_each: int
    most_together: int | None = None
    now: Counter[str] = field(default_factory=Counter)
    together: Counter[Hashable] = field(default_factory=Counter)
    total: int = 0

    def free(self, who: str, group: Hashable = None) -> bool:
        """Whether there may be one more."""
        if self.total >= self.most or self.now[who] >= self.most_each:
            return False
        return self.most_together is None or self.total < self.most // 2 or self.together[group] < self.most_together

    @contextlib.contextmanager
    def one(self, who: str, group: Hashable = None) -> Iterator[bool]:
        """Count one more while the block lasts; false if there are too many."""
        if not self.free(who, group):
            yield False
            return
        self._count(who, group, 1)
        try:
            yield True
        finally:
            self._count(who, group, -1)

    def _count(self, who: str, group: Hashable, more: int) -> None:
        self.total += more
        self.now[who] += more
        self.together[group] += more
        if not self.now[who]:
            del self.now[who]
        if not self.together[group]:
            del self.together[group]


class Pace:
    """A bucket of ``burst`` for each asker, which fills by ``rate`` a second."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def wait(self, who: Hashable) -> float:
        """Seconds until there is something left; 0 if there is."""
        return max(0.0, -self._level(who) / self._rate)

    def spend(self, who: Hashable, cost: float) -> None:
        """Take ``cost`` out, even if less is there: what has been done has been done."""
        level = self._level(who)
        self._buckets[who] = (level - cost, self._clock())
        self._buckets.move_to_end(who)
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)

    def _level(self, who: Hashable) -> float:
        level, since = self._buckets.get(who, (self._burst, 0.0))
        return min(self._burst, level + (self._clock() - since) * self._rate)


class Shares:
    """The paces of each asker and of those who belong together, as one."""

    def __init__(self, each: Pace, together: Pace, group: Callable[[str], Hashable]) -> None:
        self._each, self._together, self._group = each, together, group

    def wait(self, who: str) -> float:
        """Seconds until there is something left for ``who``; 0 if there is."""
        return max(self._each.wait(who), self._together.wait(self._group(who)))

    def spend(self, who: str, cost: float) -> None:
        """Take ``cost`` out of both."""
        self._each.spend(who, cost)
        self._together.spend(self._group(who), cost)
