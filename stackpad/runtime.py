"""What every long-running process here needs: logging, waiting times between attempts, a flag that coalesces."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import sys

import structlog


def configure_logging(level: str) -> None:
    """Log to stderr: key and value for a person at a terminal, JSON lines for everything else."""
    chosen = logging.getLevelNamesMapping()[level.upper()]
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(chosen),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


class Backoff:
    """Waiting times that double from ``first`` to ``last`` seconds, spread by a tenth so that nobody marches in step."""

    def __init__(self, first: float, last: float) -> None:
        self._first, self._last = first, last
        self._next = first

    def __next__(self) -> float:
        """The next waiting time, in seconds."""
        chosen, self._next = self._next, min(self._next * 2, self._last)
        return chosen * random.uniform(0.9, 1.1)  # noqa: S311 - no secret hangs on it

    def reset(self) -> None:
        """Begin again: something worked."""
        self._next = self._first


async def heard(event: asyncio.Event, seconds: float | None) -> bool:
    """Whether something was said within so many seconds (none: ever); what was said until now was one thing."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    said = event.is_set()
    event.clear()
    return said
