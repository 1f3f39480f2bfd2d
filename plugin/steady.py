"""Time for what lies between two moments of one process: a clock that nobody sets.

The clock of the day jumps when somebody sets it, or when NTP finds it far off. What is measured with it across a jump is
an hour too long, or negative for an hour. So a duration within this process is measured with :func:`now`, and a moment
that comes from outside as the clock of the day had it (the disk, the store, WireGuard) is translated once, when first
seen; what that clock does later changes nothing of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable


def _day() -> float:
    return time.time()


def _running() -> float:
    """Seconds that this machine has been up, asleep or not: a session of WireGuard ages in a machine that sleeps, too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


_BEGAN = time.time() - _running()


def now() -> float:
    """Unix time in seconds by the clock of the day as it was when this process began, counted on without a jump."""
    return _BEGAN + _running()


class Moments:
    """Moments of the clock of the day, translated to :func:`now` as each is first seen."""

    def __init__(self, day: Callable[[], float] = _day, steady: Callable[[], float] = now) -> None:
        self._day, self._steady = day, steady
        self._known: dict[Hashable, tuple[float, float]] = {}

    def of(self, key: Hashable, moment: float, since: float = 0.0) -> float:
        """When ``moment`` (Unix time), which is what ``key`` is known for, was; never later than now.

        ``since`` is a moment of the steady clock before which it cannot have been, where that is known.
        """
        known = self._known.get(key)
        if known is None or known[0] != moment:
            here = self._steady()
            known = self._known[key] = moment, max(since, here - max(0.0, self._day() - moment))
        return known[1]

    def age(self, key: Hashable, moment: float) -> float:
        """Seconds that have passed since ``moment``; none if it has still to come."""
        return self._steady() - self.of(key, moment)

    def keep(self, keys: Collection[Hashable]) -> None:
        """Forget all but these."""
        for key in self._known.keys() - set(keys):
            del self._known[key]
