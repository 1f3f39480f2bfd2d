"""What one asker may take, so that the others have something left.

Pure, but for the clock that is handed in.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

REMEMBERED = 4096
"""Askers whose pace is remembered; the one who has been silent longest is forgotten first."""


@dataclass(slots=True)
class Limit:
    """How many of something there are at a time, of all and of each asker."""

    most: int
    most_each: int
    now: Counter[str] = field(default_factory=Counter)
    total: int = 0

    def free(self, who: str) -> bool:
        """Whether there may be one more."""
        return self.total < self.most and self.now[who] < self.most_each

    @contextlib.contextmanager
    def one(self, who: str) -> Iterator[bool]:
        """Count one more while the block lasts; false if there are too many."""
        if not self.free(who):
            yield False
            return
        self.now[who] += 1
        self.total += 1
        try:
            yield True
        finally:
            self.total -= 1
            self.now[who] -= 1
            if not self.now[who]:
                del self.now[who]


class Pace:
    """A bucket of ``burst`` for each asker, which fills by ``rate`` a second."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, who: str) -> float:
        """Seconds until there is something left; 0 if there is."""
        return max(0.0, -self._level(who) / self._rate)

    def spend(self, who: str, cost: float) -> None:
        """Take ``cost`` out, even if less is there: what has been done has been done."""
        level = self._level(who)
        self._buckets[who] = (level - cost, self._clock())
        self._buckets.move_to_end(who)
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)

    def _level(self, who: str) -> float:
        level, since = self._buckets.get(who, (self._burst, 0.0))
        return min(self._burst, level + (self._clock() - since) * self._rate)
