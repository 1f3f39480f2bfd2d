"""Wires the ingress: events to a table, the table to the kernel, and what that leaves to Caddy, by one writer.

A stop leaves Caddy as it is: what is served goes on being served.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from ingress import mounts, sites
from ingress.caddy.adapter import Caddy
from ingress.caddy.nameserver import NameServer
from ingress.caddy.rehearsal import Plan, rehearse
from ingress.certificates.seen import Seen
from ingress.current import Current
from ingress.following import absence
from ingress.following.running import Running
from ingress.metrics import Metrics, Watched
from ingress.page.plugindesk import PluginDesk
from ingress.page.statuspage import StatusPage
from ingress.proving.lookups import Lookups
from ingress.proving.ownership import Ownership
from ingress.report import Facts, report
from ingress.routes import HostRoute, Table, Waiting
from ingress.settings import Settings
from ingress.upstreams.switch import Switch
from ingress.verdicts import reason as why
from ingress.verdicts import refused
from ingress.web import admin, asked
from ingress.writing import Writer
from stackpad.engine import Engine
from stackpad.errors import Unavailable
from stackpad.hosts import covered
from stackpad.runtime import heard

LONG = 0.02
"""Seconds: a table that takes longer, of thousands of hosts, is not made again before as much time has passed."""

PATIENCE = absence.PATIENCE + 15.0
"""Seconds in which an engine, and a plugin, say what runs; for who looks once and does not stay."""


class Ingress:
    """State and loop of the sidecar."""

    def __init__(self, settings: Settings, engine: Engine, lookups: Lookups | None = None) -> None:
        self._settings = settings
        self._caddy = Caddy(settings)
        self._seen = Seen(settings.https_port, settings.seen_file)
        self._dirty = asyncio.Event()
        self._ownership = Ownership(settings, self._dirty.set, lookups, self._caddy.operators)
        self._running = Running(settings, engine, self._dirty.set)
        self._switch = Switch(settings)
        self._names = NameServer(settings)
        self._metrics = Metrics(self._watched())
        self.registry = self._metrics.registry
        self._current = Current(settings, self._running, self._ownership, self._metrics)
        self._writer = Writer(
            self._caddy,
            self._current,
            self._seen,
            self._metrics,
            control=lambda: self._running.control,
            applied=self._applied,
        )
        self._log = structlog.get_logger("ingress")

    async def run(self) -> None:
        """Serve until cancelled."""
        async with contextlib.AsyncExitStack() as stack:
            answers = asked(self.asked, self._ownership.answer)
            await sites.serve(stack, answers, host=self._settings.ask_host, port=self._settings.ask_port)
            commands = admin(self.report, self.registry, self._ownership, self.plan, self._running.elsewhere)
            await sites.serve(stack, commands, path=str(self._settings.admin_socket))
            await self._serve_page(stack)
            if self._settings.role != "node":
                await self._names.serve(stack)
            async with asyncio.TaskGroup() as tasks:
                self._running.start(tasks)
                tasks.create_task(self._ownership.run(), name="prover")
                tasks.create_task(self._follow(), name="table")
                tasks.create_task(self._writer.run(), name="writer")
                tasks.create_task(self._seen.run(), name="certificates seen")

    def knows(self, host: str) -> bool:
        """Whether a certificate may be had for ``host``."""
        return covered(host, self._current.known)

    def asked(self, host: str) -> bool:
        """What Caddy is answered when it asks whether it may have a certificate for ``host``."""
        known = self.knows(host)
        self._metrics.asked(known)
        if known:
            self._seen.asked(host)
        return known

    def report(self) -> dict[str, Any]:
        """The table and everything to say about it, for people and programs."""
        return report(self.facts())

    def facts(self) -> Facts:
        """What the report and the status page are made of."""
        view, seen, control = self._running.view, self._running.seen, self._running.control
        table = self._current.table
        reason: Callable[[Waiting], str] = self._ownership.reason
        if not control:
            own, base = view.containers.values(), self._settings.base_domain
            table, reason = refused(own, seen, base_domain=base, now=time.time()), partial(why, seen=seen)
        return Facts(
            control=control,
            problem=self._writer.problem,
            away=self._writer.away,
            stale=view.stale,
            seen=seen,
            table=table,
            problems=(*self._running.problems, *table.problems),
            rejected=self._writer.rejected,
            reason=reason,
            certificate=self._certificate,
            certificate_problems=self._caddy.certificates.problems,
            lacking=self._running.fleet.lacking,
            number=self._switch.number,
        )

    async def plan(self) -> Plan:
        """What Caddy would be told now; raises :class:`stackpad.errors.Unavailable` without a table or a Caddy."""
        if not self._running.control:
            raise Unavailable(f"this node has no Caddy to write to: {self._running.elsewhere()}")
        if self._writer.wanted is None:
            raise Unavailable(f"there is no table yet: {self._running.waiting_for() or 'starting'}")
        return await rehearse(self._caddy, self._writer.wanted)

    async def dry_run(self) -> Plan:
        """The same for an ingress that does not run: looks at everything, and tells nobody anything."""
        async with asyncio.TaskGroup() as tasks:
            looking = self._running.look(tasks)
            while (reason := self._running.waiting_for()) is not None:
                if not await heard(self._dirty, PATIENCE):
                    raise Unavailable(reason)
            if self._running.control:
                self._current.make()
                running = self._running
                self._writer.want(self._switch.preview(self._current.table, running.carried(), running.nodes))
            for task in looking:
                task.cancel()
        return await self.plan()

    async def _serve_page(self, stack: contextlib.AsyncExitStack) -> None:
        """The status page; where it cannot be served, everything else goes on."""
        settings = self._settings
        shown = StatusPage(self.facts, PluginDesk(settings.plugin), settings.base_domain)
        try:
            await sites.serve(stack, shown.application(), path=str(settings.page_path))
            if settings.page_listen is not None:
                host, port = settings.page_listen
                await sites.serve(stack, shown.application(), host=host, port=port)
        except OSError as error:
            self._log.error("the status page is not served everywhere it should be", reason=str(error))

    def _certificate(self, host: HostRoute) -> dict[str, Any]:
        found, reason = self._seen.of(host.host)
        certificate = None if found is None else {"issuer": found.issuer, "not_after": found.not_after}
        failed = found is None and self._seen.failed(host.host)
        return {"certificate": certificate, "certificate_reason": reason, "certificate_failed": failed}

    def _watched(self) -> list[Watched]:
        def problems() -> int:
            return len(self._running.problems) + len(self._current.table.problems)

        def earliest() -> float:
            return self._seen.earliest(host.host for host in self._current.table.hosts)

        return [
            ("certificate_problems", "Certificates not used as asked", lambda: len(self._caddy.certificates.problems)),
            ("earliest_expiry_seconds", "When the first known certificate ends (Unix time)", earliest),
            ("problems", "Containers not served as they ask", problems),
            (
                "conflicts",
                "Containers at whose name somebody else is served",
                lambda: sum(problem.conflict for problem in self._current.table.problems),
            ),
            ("rejected_hosts", "Hosts Caddy refuses", lambda: len(self._writer.rejected)),
            ("in_step", "1 while Caddy has what it should", lambda: int(self._writer.problem is None)),
            ("engine_silent", "1 while the Docker engine does not answer", lambda: int(self._running.view.stale)),
            ("numbers", "Services whose containers the kernel finds by a number", lambda: self._switch.count),
            ("engine_lists", "Times all containers were listed", lambda: self._running.follower.lists),
        ]

    async def _follow(self) -> None:
        """Table and kernel follow the containers, at once; what is left for Caddy is the writer's."""
        running, current = self._running, self._current
        again: float | None = None
        while True:
            await heard(self._dirty, again)
            again = None
            if running.complete():
                running.tell(proofs=not self._ownership.believes)
            if not running.control:
                running.leave_others()
            if not running.control or (reason := running.waiting_for()) is not None:
                self._writer.trouble(reason if running.control else None)
                continue
            began = time.monotonic()
            current.make()
            took = time.monotonic() - began
            wanted, again = await self._switch.place(current.table, running.carried(), running.nodes)
            again = min((due for due in (again, current.again) if due is not None), default=None)
            self._names.learn(wanted)
            self._writer.want(wanted)
            if took > LONG:
                # Changes that come in a crowd are to be heard, not to wait for a table after each of them.
                await asyncio.sleep(took)

    def _applied(self, table: Table) -> None:
        """Caddy has this table now: the kernel may have fewer numbers to tell."""
        if self._switch.applied(table):
            self._dirty.set()


async def serve(settings: Settings) -> None:
    """Run the ingress until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Engine(settings.docker_host) as engine, asyncio.TaskGroup() as tasks:
        running = tasks.create_task(Ingress(settings, engine).run(), name="ingress")
        watching = tasks.create_task(mounts.watch(*settings.directories), name="mounts")
        await stop.wait()
        running.cancel()
        watching.cancel()


async def dry_run(settings: Settings) -> Plan:
    """What an ingress with these settings would write to Caddy if it was started now."""
    async with Engine(settings.docker_host) as engine:
        return await Ingress(settings, engine).dry_run()
