"""The loop that writes to Caddy: what is wanted there, when it is told, and what became of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from ingress.caddy.adapter import Caddy
from ingress.caddy.adminapi import NotRunning
from ingress.certificates.reading import by_name
from ingress.certificates.seen import Seen
from ingress.current import Current
from ingress.metrics import Metrics
from ingress.routes import State, Table
from stackpad.errors import StackpadError
from stackpad.runtime import heard

LOOK = 1.0
"""Seconds between two looks whether Caddy still has what is ours."""

GAP, MOST = 0.25, 2.0
"""Least and most seconds between two writes; more where one takes long, since each costs every tenant something."""

SETTLE = 0.15
"""Seconds a host that is only starting may wait for its first write."""

RETRY = 0.5


class Writer:
    """Brings ``caddy`` to the table that is wanted, where ``control`` says so; ``applied`` hears of each it has taken.

    It is the only one that writes there, so that no two changes meet.
    """

    def __init__(
        self,
        caddy: Caddy,
        current: Current,
        seen: Seen,
        metrics: Metrics,
        *,
        control: Callable[[], bool],
        applied: Callable[[Table], None],
    ) -> None:
        self._caddy, self._current, self._seen, self._metrics = caddy, current, seen, metrics
        self._control, self._applied = control, applied
        self.wanted: Table | None = None
        self.rejected: dict[str, str] = {}
        """By host that Caddy refuses, its reason."""
        self.problem: str | None = "starting"
        """Why Caddy has not what it should; ``None`` if it has."""
        self.away = False
        """Whether that is because nobody listens at Caddy's socket, so that most likely no visitor is served."""
        self._given = Table()
        self._changed = asyncio.Event()
        self._log = structlog.get_logger("ingress")

    def want(self, wanted: Table) -> None:
        """From now on it is this table; it is written if it says something else, or the store has lost its ledger."""
        before, self.wanted = self.wanted, wanted
        if before is None or (before.hosts, before.ledger) != (wanted.hosts, wanted.ledger) or self._current.unshared():
            self._changed.set()

    async def run(self) -> None:
        """Write until cancelled: the first change at once, those that follow together a little later."""
        while True:
            changed = await heard(self._changed, LOOK)
            if self.wanted is None or not self._control():
                continue
            try:
                if changed and self._only_starting(self.wanted):
                    # A host that is only starting is usually up in a moment; one write will do for both.
                    await heard(self._changed, SETTLE)
                if not changed:
                    if await self._caddy.in_step():
                        self._cover()
                        continue
                    self._count_repair()
                began = time.monotonic()
                wrote = await self._apply(self.wanted)
                took = time.monotonic() - began
                self._cover()
                # After the visitors: what cannot be kept on disk, or in the store, is served all the same.
                await self._current.keep()
                self.trouble(None)
                if wrote:
                    await asyncio.sleep(min(max(GAP, 5 * took), MOST))
            except StackpadError as error:
                self.trouble(str(error), away=isinstance(error, NotRunning))
                await asyncio.sleep(RETRY)
                self._changed.set()

    def trouble(self, problem: str | None, *, away: bool = False) -> None:
        """Say why Caddy has not what it should, or that it has."""
        if problem != self.problem and problem is not None:
            self._log.warning("not in step", reason=problem)
        elif problem is None and self.problem is not None:
            self._log.info("in step", hosts=len(self._current.table.hosts))
        self.problem, self.away = problem, away

    def _only_starting(self, wanted: Table) -> bool:
        """Whether all that Caddy has not got yet are new hosts that nobody is up behind."""
        before = {host.host: host for host in self._given.hosts}
        fresh = [host for host in wanted.hosts if host.host not in before]
        if not fresh or len(wanted.hosts) - len(fresh) != len(before) or any(h.state is State.UP for h in fresh):
            return False
        return all((there := before.get(host.host, host)) is host or there == host for host in wanted.hosts)

    def _count_repair(self) -> None:
        """Caddy has something else than it was given last: restarted, reloaded or edited."""
        if self.problem is None:
            self._log.warning("Caddy has lost what is ours; putting it back")
            self._metrics.repairs.inc()

    async def _apply(self, wanted: Table) -> int:
        began = time.monotonic()
        applied = await self._caddy.apply(wanted)
        self._given = wanted
        self._applied(wanted)
        self._metrics.seconds.observe(time.monotonic() - began)
        self._metrics.writes.inc(applied.writes)
        for host, reason in applied.rejected.items() - self.rejected.items():
            self._log.error("Caddy refuses a host", host=host, reason=reason)
        self.rejected = applied.rejected
        return applied.writes

    def _cover(self) -> None:
        """Say which hosts have their certificates from elsewhere than on demand."""
        there = self._caddy.certificates
        self._seen.cover(by_name(there.pairs), there.wildcards(self._current.table), self._current.known)
