"""Wires the ingress: events to a table, the table to Caddy, by one writer.

A stop leaves Caddy as it is: what is served goes on being served.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from dataclasses import replace
from typing import Any

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ingress.caddy import Caddy
from ingress.claims import Claims
from ingress.follower import Follower
from ingress.health import Prober
from ingress.routes import State, Table, WebContainer, table
from ingress.settings import Settings
from ingress.web import admin, asked
from stackpad.engine import Engine
from stackpad.errors import StackpadError

LOOK = 1.0
"""Seconds between two looks whether Caddy still has what is ours."""

GAP, MOST = 0.25, 2.0
"""Least and most seconds between two writes; more where one takes long, since each costs every tenant something."""

SETTLE = 0.15
"""Seconds a host that is only starting may wait for its first write."""

RETRY = 0.5


class Ingress:
    """State and loop of the sidecar."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self._settings = settings
        self._caddy = Caddy(settings)
        self._claims = Claims(settings.claims_file)
        self._dirty = asyncio.Event()
        self._prober = Prober(self._dirty.set)
        self._follower = Follower(engine, settings, self._dirty.set)
        self._table = Table()
        self._known: frozenset[str] = frozenset(self._claims.current)
        self._rejected: dict[str, str] = {}
        self._problem: str | None = "starting"
        self._log = structlog.get_logger("ingress")
        self._writes = Counter("stackpad_ingress_writes_total", "Writes to Caddy", registry=self.registry)
        self._repairs = Counter("stackpad_ingress_repairs_total", "Times Caddy had lost ours", registry=self.registry)
        self._seconds = Histogram("stackpad_ingress_apply_seconds", "Time of a write", registry=self.registry)
        self._hosts = Gauge("stackpad_ingress_hosts", "Hosts by state", ["state"], registry=self.registry)
        for name, text, value in (
            ("problems", "Containers not served as they ask", lambda: len(self.report()["problems"])),
            ("rejected_hosts", "Hosts Caddy refuses", lambda: len(self._rejected)),
            ("in_step", "1 while Caddy has what it should", lambda: int(self._problem is None)),
            ("engine_silent", "1 while the Docker engine does not answer", lambda: int(self._follower.view.stale)),
            ("engine_lists", "Times all containers were listed", lambda: self._follower.lists),
        ):
            Gauge(f"stackpad_ingress_{name}", text, registry=self.registry).set_function(value)

    async def run(self) -> None:
        """Serve until cancelled."""
        async with contextlib.AsyncExitStack() as stack:
            await _serve(stack, asked(self.knows), host=self._settings.ask_host, port=self._settings.ask_port)
            await _serve(stack, admin(self.report, self.registry), path=str(self._settings.admin_socket))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follower.run(), name="follower")
                tasks.create_task(self._prober.run(), name="prober")
                tasks.create_task(self._write(), name="writer")

    def knows(self, host: str) -> bool:
        """Whether a certificate may be had for ``host``."""
        return host in self._known

    def report(self) -> dict[str, Any]:
        """The table and everything to say about it, for people and programs."""
        view = self._follower.view
        problems = [*view.problems.values(), *self._table.problems]
        return {
            "problem": self._problem,
            "stale": view.stale,
            "routes": [
                {
                    "host": host.host,
                    "path": path.path or "/",
                    "owner": host.owner,
                    "service": path.service,
                    "state": "rejected" if host.host in self._rejected else path.state,
                    "reason": self._rejected.get(host.host) or path.reason,
                    "upstreams": list(path.upstreams),
                    "containers": [
                        {"name": member.name, "state": member.state, "reason": member.reason or None}
                        for member in path.members
                    ],
                    "since": host.since,
                }
                for host in self._table.hosts
                for path in host.paths
            ],
            "problems": [{"container": p.name, "id": p.container, "problem": p.text} for p in problems],
        }

    async def _write(self) -> None:
        """The only writer: the first change at once, those that follow together a little later."""
        while True:
            changed = await self._wait(LOOK)
            if not self._follower.view.complete:
                continue
            try:
                if changed and self._recompute():
                    # A host that is only starting is usually up in a moment; one write will do for both.
                    await self._wait(SETTLE)
                    self._recompute()
                if not changed:
                    if await self._caddy.in_step():
                        continue
                    self._count_repair()
                began = time.monotonic()
                wrote = await self._apply()
                took = time.monotonic() - began
                # After the visitors: what cannot be kept on disk is served all the same.
                self._claims.save()
                self._trouble(None)
                if wrote:
                    await asyncio.sleep(min(max(GAP, 5 * took), MOST))
            except StackpadError as error:
                self._trouble(str(error))
                await asyncio.sleep(RETRY)
                self._dirty.set()

    async def _wait(self, seconds: float) -> bool:
        """Whether something changed within ``seconds``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._dirty.wait()
        changed = self._dirty.is_set()
        self._dirty.clear()
        return changed

    def _recompute(self) -> bool:
        """Make the table anew; true if all that is new in it are hosts nobody is up behind yet."""
        containers = self._ready()
        before = self._table
        self._table = table(containers, self._claims.current, base_domain=self._settings.base_domain, now=time.time())
        self._claims.decide(self._table.claims)
        self._known = frozenset(host.host for host in self._table.hosts)
        for state in State:
            self._hosts.labels(state).set(sum(host.state is state for host in self._table.hosts))
        for problem in set(self._table.problems) - set(before.problems):
            self._log.warning("not served", container=problem.name, reason=problem.text)
        different = set(self._table.hosts) ^ set(before.hosts)
        old = {host.host for host in before.hosts}
        return bool(different) and all(h.state is not State.UP and h.host not in old for h in different)

    def _ready(self) -> list[WebContainer]:
        """The containers, with those whose port accepts as up."""
        containers = list(self._follower.view.containers.values())
        waiting = [c for c in containers if c.state is State.STARTING and not c.checked]
        targets = {c: (c.id, c.started, c.address or "", c.port or 0) for c in waiting}
        self._prober.want(targets.values())
        accepting = self._prober.accepting
        return [
            replace(c, state=State.UP, reason="") if c in targets and targets[c] in accepting else c for c in containers
        ]

    def _count_repair(self) -> None:
        """Caddy has something else than it was given last: restarted, reloaded or edited."""
        if self._problem is None:
            self._log.warning("Caddy has lost what is ours; putting it back")
            self._repairs.inc()

    async def _apply(self) -> int:
        began = time.monotonic()
        applied = await self._caddy.apply(self._table)
        self._seconds.observe(time.monotonic() - began)
        self._writes.inc(applied.writes)
        for host, reason in applied.rejected.items() - self._rejected.items():
            self._log.error("Caddy refuses a host", host=host, reason=reason)
        self._rejected = applied.rejected
        return applied.writes

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
        await stop.wait()
        running.cancel()


async def _serve(
    stack: contextlib.AsyncExitStack, application: web.Application, *, host: str = "", port: int = 0, path: str = ""
) -> None:
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    if not path:
        await web.TCPSite(runner, host, port).start()
        return
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    before = os.umask(0o177)
    try:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        _unlink(path)
        listening.bind(path)
    finally:
        os.umask(before)
    stack.callback(_unlink, path)
    await web.SockSite(runner, listening).start()


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
