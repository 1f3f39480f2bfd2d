"""Wires the ingress: events to a table, the table to the kernel, and what that leaves to Caddy, by one writer.

A stop leaves Caddy as it is: what is served goes on being served.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from ingress import mounts, sites
from ingress.caddy.adapter import Caddy
from ingress.caddy.nameserver import NameServer
from ingress.caddy.rehearsal import Plan, rehearse
from ingress.certificates.reading import by_name
from ingress.certificates.seen import Seen
from ingress.following import absence
from ingress.following.fleet import Fleet
from ingress.following.follower import Follower
from ingress.following.ready import Ready
from ingress.following.remote import Others, Words, word
from ingress.following.silent import Silent
from ingress.metrics import Metrics, Watched
from ingress.owners import shared
from ingress.owners.ledger import merge
from ingress.page.plugindesk import PluginDesk
from ingress.page.statuspage import StatusPage
from ingress.proving.lookups import Lookups
from ingress.proving.ownership import Ownership
from ingress.report import Facts, report
from ingress.routes import HostRoute, Problem, State, Table, Waiting
from ingress.settings import Settings
from ingress.tables import table
from ingress.upstreams.switch import Switch
from ingress.verdicts import reason as why
from ingress.verdicts import refused
from ingress.web import admin, asked
from stackpad.engine import Engine
from stackpad.errors import StackpadError, Unavailable
from stackpad.hosts import covered

LOOK = 1.0
"""Seconds between two looks whether Caddy still has what is ours."""

GAP, MOST = 0.25, 2.0
"""Least and most seconds between two writes; more where one takes long, since each costs every tenant something."""

SETTLE = 0.15
"""Seconds a host that is only starting may wait for its first write."""

LONG = 0.02
"""Seconds: a table that takes longer, of thousands of hosts, is not made again before as much time has passed."""

RETRY = 0.5

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
        self._hostname = socket.gethostname().lower()
        self._ready = Ready(self._dirty.set)
        self._follower = Follower(engine, settings, self._dirty.set)
        self._fleet = Fleet(settings.plugin, self._dirty.set)
        self._others = Others(settings.base_domain)
        self._silent = Silent(self._dirty.set)
        self._words: Words = {}
        self._elsewhere: list[Problem] = []
        self._nodes: dict[str, str] = {}
        self._switch = Switch(settings)
        self._names = NameServer(settings)
        self._table = Table()
        self._wanted: Table | None = None
        self._given = Table()
        self._changed = asyncio.Event()
        self._known: frozenset[str] = frozenset(self._ownership.served)
        self._rejected: dict[str, str] = {}
        self._problem: str | None = "starting"
        self._log = structlog.get_logger("ingress")
        self._metrics = Metrics(self._watched())
        self.registry = self._metrics.registry

    async def run(self) -> None:
        """Serve until cancelled."""
        async with contextlib.AsyncExitStack() as stack:
            answers = asked(self.asked, self._ownership.answer)
            await sites.serve(stack, answers, host=self._settings.ask_host, port=self._settings.ask_port)
            commands = admin(self.report, self.registry, self._ownership, self.plan, self.elsewhere)
            await sites.serve(stack, commands, path=str(self._settings.admin_socket))
            await self._serve_page(stack)
            if self._settings.role != "node":
                await self._names.serve(stack)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follower.run(), name="follower")
                tasks.create_task(self._ready.run(), name="prober")
                tasks.create_task(self._fleet.run(), name="fleet")
                tasks.create_task(self._silent.run(), name="silent nodes")
                tasks.create_task(self._ownership.run(), name="prover")
                tasks.create_task(self._follow(), name="table")
                tasks.create_task(self._write(), name="writer")
                tasks.create_task(self._seen.run(), name="certificates seen")

    def knows(self, host: str) -> bool:
        """Whether a certificate may be had for ``host``."""
        return covered(host, self._known)

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
        view, seen, control = self._follower.view, self._fleet.seen, self.control
        table_ = self._table
        reason: Callable[[Waiting], str] = self._ownership.reason
        if not control:
            own, base = view.containers.values(), self._settings.base_domain
            table_, reason = refused(own, seen, base_domain=base, now=time.time()), partial(why, seen=seen)
        return Facts(
            control=control,
            problem=self._problem,
            stale=view.stale,
            seen=seen,
            table=table_,
            problems=(*view.problems.values(), *self._elsewhere, *table_.problems),
            rejected=self._rejected,
            reason=reason,
            certificate=self._certificate,
            certificate_problems=self._caddy.certificates.problems,
            lacking=self._fleet.lacking,
            number=self._switch.number,
        )

    async def plan(self) -> Plan:
        """What Caddy would be told now; raises :class:`stackpad.errors.Unavailable` without a table or a Caddy."""
        if not self.control:
            raise Unavailable(f"this node has no Caddy to write to: {self.elsewhere()}")
        if self._wanted is None:
            raise Unavailable(f"there is no table yet: {self._waiting_for() or 'starting'}")
        return await rehearse(self._caddy, self._wanted)

    async def dry_run(self) -> Plan:
        """The same for an ingress that does not run: looks at everything, and tells nobody anything."""
        async with asyncio.TaskGroup() as tasks:
            looking = [tasks.create_task(one.run()) for one in (self._follower, self._ready)]
            looking.append(tasks.create_task(self._fleet.follow()))
            while (reason := self._waiting_for()) is not None:
                if not await _heard(self._dirty, PATIENCE):
                    raise Unavailable(reason)
            if self.control:
                self._recompute()
                self._wanted = self._switch.preview(self._table, self._carried(), self._nodes)
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

    @property
    def control(self) -> bool:
        """Whether visitors come in here."""
        return self._settings.role == "control" or (self._settings.role == "auto" and self._fleet.seen.control)

    def elsewhere(self) -> str | None:
        """Where visitors come in instead, on a node where they do not."""
        if self.control:
            return None
        names = ", ".join(self._fleet.seen.controls()) or "a control node; none is known here"
        return f"visitors do not come in on this node; ask on {names}"

    def _tell(self) -> None:
        """Tell the other nodes what runs here."""
        view, settings = self._follower.view, self._settings
        ready = self._ready.containers(view.containers.values())
        told = word(ready, view.problems.values(), org=settings.org, kept=self._words)
        proofs = not self._ownership.believes
        self._fleet.say(control=self.control, complete=view.complete, stale=view.stale, proofs=proofs, containers=told)

    def _carried(self) -> dict[str, str]:
        own = {c.upstream: c.endpoint for c in self._follower.view.containers.values() if c.endpoint}
        return {**dict.fromkeys(self._nodes, ""), **own}

    def _waiting_for(self) -> str | None:
        """Why nothing is to be written yet, if so: what is not known now must not be taken for gone."""
        if not self._follower.view.complete:
            return "the engine has not said yet what runs here"
        if not self._ready.begun(self._follower.view.containers.values()):
            return "the ports of what runs here are being tried"
        if not self._fleet.known.is_set() and self._fleet.plugin_there:
            return "the plugin has not said yet what runs on other nodes, or is not there yet: docker plugin ls"
        return None

    def _certificate(self, host: HostRoute) -> dict[str, Any]:
        found, reason = self._seen.of(host.host)
        certificate = None if found is None else {"issuer": found.issuer, "not_after": found.not_after}
        failed = found is None and self._seen.failed(host.host)
        return {"certificate": certificate, "certificate_reason": reason, "certificate_failed": failed}

    def _watched(self) -> list[Watched]:
        def problems() -> int:
            return len(self._follower.view.problems) + len(self._elsewhere) + len(self._table.problems)

        def earliest() -> float:
            return self._seen.earliest(host.host for host in self._table.hosts)

        return [
            ("certificate_problems", "Certificates not used as asked", lambda: len(self._caddy.certificates.problems)),
            ("earliest_expiry_seconds", "When the first known certificate ends (Unix time)", earliest),
            ("problems", "Containers not served as they ask", problems),
            (
                "conflicts",
                "Containers at whose name somebody else is served",
                lambda: sum(problem.conflict for problem in self._table.problems),
            ),
            ("rejected_hosts", "Hosts Caddy refuses", lambda: len(self._rejected)),
            ("in_step", "1 while Caddy has what it should", lambda: int(self._problem is None)),
            ("engine_silent", "1 while the Docker engine does not answer", lambda: int(self._follower.view.stale)),
            ("numbers", "Services whose containers the kernel finds by a number", lambda: self._switch.count),
            ("engine_lists", "Times all containers were listed", lambda: self._follower.lists),
        ]

    async def _follow(self) -> None:
        """Table and kernel follow the containers, at once; what is left for Caddy is the writer's."""
        again: float | None = None
        while True:
            await _heard(self._dirty, again)
            again = None
            view = self._follower.view
            if view.complete and self._ready.begun(view.containers.values()):
                self._tell()
            if not self.control or (reason := self._waiting_for()) is not None:
                self._trouble(reason if self.control else None)
                continue
            began = time.monotonic()
            self._recompute()
            took = time.monotonic() - began
            wanted, again = await self._switch.place(self._table, self._carried(), self._nodes)
            before, self._wanted = self._wanted, wanted
            self._names.learn(wanted)
            if before is None or (before.hosts, before.ledger) != (wanted.hosts, wanted.ledger) or self._unshared():
                self._changed.set()
            if took > LONG:
                # Changes that come in a crowd are to be heard, not to wait for a table after each of them.
                await asyncio.sleep(took)

    async def _write(self) -> None:
        """The only writer: the first change at once, those that follow together a little later."""
        while True:
            changed = await _heard(self._changed, LOOK)
            if self._wanted is None or not self.control:
                continue
            try:
                if changed and self._only_starting(self._wanted):
                    # A host that is only starting is usually up in a moment; one write will do for both.
                    await _heard(self._changed, SETTLE)
                if not changed:
                    if await self._caddy.in_step():
                        self._cover()
                        continue
                    self._count_repair()
                began = time.monotonic()
                wrote = await self._apply(self._wanted)
                took = time.monotonic() - began
                self._cover()
                # After the visitors: what cannot be kept on disk, or in the store, is served all the same.
                self._ownership.save()
                await self._share()
                self._trouble(None)
                if wrote:
                    await asyncio.sleep(min(max(GAP, 5 * took), MOST))
            except StackpadError as error:
                self._trouble(str(error))
                await asyncio.sleep(RETRY)
                self._changed.set()

    def _unshared(self) -> bool:
        """Whether the store has lost what this ingress knows: nothing else changes when it is wiped."""
        seen = self._fleet.seen
        return bool(seen.node) and seen.connected and shared.missing(self._table.ledger, seen.hosts)

    async def _share(self) -> None:
        """Have the cluster's store say who owns what; the other control nodes read it there."""
        seen = self._fleet.seen
        if seen.node and seen.connected:
            await self._fleet.write_hosts(shared.differences(self._table.ledger, seen.hosts, seen.node))

    def _only_starting(self, wanted: Table) -> bool:
        """Whether all that Caddy has not got yet are new hosts that nobody is up behind."""
        before = {host.host: host for host in self._given.hosts}
        fresh = [host for host in wanted.hosts if host.host not in before]
        if not fresh or len(wanted.hosts) - len(fresh) != len(before) or any(h.state is State.UP for h in fresh):
            return False
        return all((there := before.get(host.host, host)) is host or there == host for host in wanted.hosts)

    def _recompute(self) -> None:
        """Make the table anew."""
        seen = self._fleet.seen
        others, self._elsewhere = self._others.read(seen, self._silent.answers)
        self._silent.want(self._others.silent)
        self._nodes = {one.upstream: one.node for one in others if one.state is State.UP}
        containers = [*self._ready.own(self._follower.view.containers.values(), seen.node), *others]
        before, ledger = self._table, self._ownership.ledger
        if seen.node:
            self._ownership.share(seen.secret)
            ledger = merge(ledger, shared.read(seen.hosts))
        self._table = table(
            containers,
            ledger,
            base_domain=self._settings.base_domain,
            now=time.time(),
            # An engine that does not answer may have containers we have not heard of.
            heard=seen.heard(ledger.nodes, own=not self._follower.view.stale),
            here=seen.node,
            believe=self._ownership.believes,
            nodes={self._hostname, *(node.name for node in seen.nodes.values())},
            last=before.made,
        )
        self._ownership.decide(self._table)
        self._known = frozenset(host.host for host in self._table.hosts)
        self._metrics.count(self._table)
        for problem in set(self._table.problems) - set(before.problems):
            self._log.warning("not served", container=problem.name, reason=problem.text)

    def _count_repair(self) -> None:
        """Caddy has something else than it was given last: restarted, reloaded or edited."""
        if self._problem is None:
            self._log.warning("Caddy has lost what is ours; putting it back")
            self._metrics.repairs.inc()

    async def _apply(self, wanted: Table) -> int:
        began = time.monotonic()
        applied = await self._caddy.apply(wanted)
        self._given = wanted
        if self._switch.applied(wanted):
            self._dirty.set()
        self._metrics.seconds.observe(time.monotonic() - began)
        self._metrics.writes.inc(applied.writes)
        for host, reason in applied.rejected.items() - self._rejected.items():
            self._log.error("Caddy refuses a host", host=host, reason=reason)
        self._rejected = applied.rejected
        return applied.writes

    def _cover(self) -> None:
        """Say which hosts have their certificates from elsewhere than on demand."""
        there = self._caddy.certificates
        self._seen.cover(by_name(there.pairs), there.wildcards(self._table), self._known)

    def _trouble(self, problem: str | None) -> None:
        if problem != self._problem and problem is not None:
            self._log.warning("not in step", reason=problem)
        elif problem is None and self._problem is not None:
            self._log.info("in step", hosts=len(self._table.hosts))
        self._problem = problem


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


async def _heard(event: asyncio.Event, seconds: float | None) -> bool:
    """Whether something was said within so many seconds (none: ever)."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    heard = event.is_set()
    event.clear()
    return heard
