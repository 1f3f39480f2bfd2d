"""How often something may be done that costs others little once, and much when it never stops; pure."""

from __future__ import annotations

from collections import deque


class Burst:
    """``count`` times one right after the other, and on average once in ``gap`` seconds where it goes on."""

    def __init__(self, count: int, gap: float) -> None:
        self._last: deque[float] = deque(maxlen=count)
        self._span = count * gap

    def wait(self, now: float) -> float:
        """Seconds to wait after something was done at ``now`` (of a clock that never goes back) until it may be again."""
        self._last.append(now)
        if len(self._last) < (self._last.maxlen or 0):
            return 0.0
        return max(0.0, self._last[0] + self._span - now)
