"""Behind which number which containers are, told to the kernel first; what that leaves for Caddy is told second.

Where there is no plugin to tell the kernel (or an old one, or ``UPSTREAMS=direct``), Caddy has the containers' addresses.
A plugin that stops answering leaves the kernel as it is; if it stays away, those addresses are the way to go on.
"""

from __future__ import annotations

import time
from collections.abc import Collection

import structlog

from ingress.routes import HostRoute, PathRoute, Table
from ingress.settings import Settings
from ingress.upstreams import stable
from ingress.upstreams.netsocket import NetSocket
from ingress.upstreams.numbers import NumberFile
from ingress.upstreams.pace import Shown
from ingress.upstreams.stable import Carried, Known, Nodes, Place, Service
from stackpad.errors import NotFound, StackpadError, Unavailable

AGAIN = 0.5
"""Seconds until a plugin that does not answer is asked again."""

LOOK = 10.0
"""Seconds until it is looked again whether there is a plugin by now."""

PATIENCE = 10.0
"""Seconds a plugin that has answered before may be silent before Caddy is told addresses."""


class Switch:
    """Places a table: tells the kernel, and says what Caddy is to be told and when to come again."""

    def __init__(self, settings: Settings) -> None:
        self._direct = settings.upstreams == "direct"
        self._plugin = NetSocket(settings.plugin)
        self._file = NumberFile(settings.numbers_file)
        self._memory: dict[Place, Shown] = {}
        self._shown: dict[str, tuple[HostRoute, HostRoute]] = {}
        self._keys: Known = {}
        self._applied_keys: Known = {}
        self._ready: dict[Service, tuple[str, ...]] = {}
        self._applied: frozenset[Service] = frozenset(self._file.current.given)
        self._taken: Collection[int] | None = None
        self._answers = False
        self._silent_since: float | None = None
        self._look_at = 0.0
        self._told = ""
        self._log = structlog.get_logger("upstreams")

    async def place(self, table: Table, carried: Carried, nodes: Nodes | None = None) -> tuple[Table, float | None]:
        """The table for Caddy, and in how many seconds to come again if nothing changes before.

        ``nodes`` says where those are that are on other nodes. When this returns, the kernel sends new visitors where the
        table says.
        """
        self._keys = stable.known(table, self._keys)
        ready = self._ready = stable.services(table, self._keys)
        now = time.monotonic()
        elsewhere = nodes or {}
        usable, again = await self._switch(ready, carried, elsewhere, now)
        numbers = {**self._file.current.given} if usable else {}
        told, self._memory, due = stable.shown(
            table, numbers, ready, carried, self._memory, now, elsewhere, self._shown, self._keys
        )
        self._shown = {host.host: (host, shown) for host, shown in zip(table.hosts, told.hosts, strict=True)}
        dues = [at - now for at in (due, again) if at is not None]
        return told, min(dues, default=None)

    def preview(self, table: Table, carried: Carried, nodes: Nodes | None = None) -> Table:
        """What Caddy would be told, with nothing told to the kernel and no number kept."""
        ready = stable.services(table)
        there = not self._direct and self._plugin.exists
        elsewhere = nodes or {}
        numbers = stable.allocate(self._file.current, stable.parts(ready, elsewhere)).given if there else {}
        told, _, _ = stable.shown(table, numbers, ready, carried, {}, time.monotonic(), elsewhere)
        return told

    def applied(self, table: Table) -> bool:
        """Caddy has this now: what is in it no more can be given up. Returns whether the kernel is to be told anew."""
        before = self._applied
        there = stable.used(table)
        parts = {service for service, number in self._file.current.given.items() if number in there}
        self._applied_keys = stable.known(table, self._applied_keys)
        self._applied = frozenset({*stable.services(table, self._applied_keys), *parts})
        self._taken = ()
        return any(service.part for service in before ^ self._applied)

    async def _switch(
        self, ready: dict[Service, tuple[str, ...]], carried: Carried, nodes: Nodes, now: float
    ) -> tuple[bool, float | None]:
        """Whether the numbers can be used, and when to try again."""
        if self._direct:
            self._say("Caddy is told the containers' addresses, as UPSTREAMS=direct says")
            return False, None
        if not self._answers and now < self._look_at:
            return False, self._look_at
        try:
            if self._taken is None:
                # What is there and not ours may be in Caddy still: it leads nowhere and is given to nobody for now.
                self._taken = await self._plugin.numbers() - set(self._file.current.given.values())
            self._allocate(stable.parts(ready, nodes))
            leads = {**dict.fromkeys(self._taken, ()), **self._spread(ready, carried, nodes)}
            await self._plugin.have(leads)
        except NotFound as error:
            return self._without(error, now, LOOK)
        except Unavailable as error:
            return self._without(error, now, AGAIN)
        self._answers, self._silent_since = True, None
        self._say("Caddy is told numbers; the kernel knows the containers behind them")
        return True, None

    def _without(self, error: StackpadError, now: float, pause: float) -> tuple[bool, float]:
        self._silent_since = now if self._silent_since is None else self._silent_since
        if self._answers and now - self._silent_since < PATIENCE:
            return True, now + AGAIN
        self._answers = False
        self._look_at = now + pause
        self._say("Caddy is told the containers' addresses", str(error))
        return False, self._look_at

    def _spread(
        self, ready: dict[Service, tuple[str, ...]], carried: Carried, nodes: Nodes
    ) -> dict[int, tuple[str, ...]]:
        return stable.spread(self._file.current, ready, carried, nodes, self._applied)

    def _allocate(self, services: set[Service]) -> None:
        wanted = stable.allocate(self._file.current, services | self._applied, self._taken or ())
        try:
            self._file.decide(wanted)
        except Unavailable as error:
            # A number that is on no disk could be somebody else's after a restart: those who have none get none.
            self._log.error("new services get no number", reason=str(error))

    def _say(self, what: str, reason: str = "") -> None:
        if what != self._told:
            self._told = what
            (self._log.warning if reason else self._log.info)(what, **({"reason": reason} if reason else {}))

    def number(self, host: HostRoute, path: PathRoute) -> int | None:
        """The number of a route, where the kernel is told of it and it leads to those who are up there."""
        service = stable.service(host, path)
        there = self._answers and self._ready.get(service) == path.upstreams
        return self._file.current.given.get(service) if there else None

    @property
    def count(self) -> int:
        """How many services have a number that the kernel is told of."""
        return sum(not service.part for service in self._file.current.given) if self._answers else 0
