"""How often to look at what mostly is as it should be, so that it costs no more than a share of a processor; pure."""

from __future__ import annotations

from collections import deque

LAST = 3
"""Costs that are remembered."""


class Pace:
    """Gives the seconds to wait after a look that took so much of a processor's time.

    ``least`` and ``most`` bound them; ``share`` is the part of a processor that the looks may take. The cheapest of the
    last :data:`LAST` looks counts: what a process does beside one, or its collecting of garbage, is not the look's.
    """

    def __init__(self, least: float, most: float, share: float) -> None:
        self._least, self._most, self._share = least, most, share
        self._costs = deque([0.0] * LAST, LAST)

    def after(self, cost: float) -> float:
        """Seconds to wait after a look that has cost ``cost`` seconds."""
        self._costs.append(cost)
        return min(self._most, max(self._least, min(self._costs) / self._share))
