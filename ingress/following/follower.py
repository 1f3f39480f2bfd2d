"""Follows the engine: the web containers as they are, from events with lists as their ground.

Subscribe, then list, then apply what comes. One thing is applied at a time, so that a list which began before an event
never undoes it. An engine that cannot be asked leaves what is known as it is: "cannot list" is never "nothing there".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import structlog

from ingress.engineview.answers import ACTIONS
from ingress.following import containers
from ingress.following.containers import Surroundings
from ingress.routes import Problem, State, WebContainer
from ingress.settings import Settings
from stackpad import labels
from stackpad.engine import Engine, Event, Resync
from stackpad.errors import NotFound, StackpadError, Unavailable

RELIST = 30.0
"""Seconds between two lists when no event says anything."""

GONE_AFTER = 3.0
"""Seconds a removed container's names are kept, so that one made anew finds them."""

LEAVING_FOR = 60.0
"""Seconds a container that was asked to stop gets nothing new; one that runs on after that did not mean to stop."""


@dataclass(frozen=True, slots=True)
class View:
    """What is known of the web containers; ``stale`` since the engine stopped answering."""

    containers: Mapping[str, WebContainer] = field(default_factory=dict)
    problems: Mapping[str, Problem] = field(default_factory=dict)
    complete: bool = False
    stale: bool = False


class Follower:
    """Keeps a :class:`View` and calls ``changed`` on the event loop when it is another one."""

    def __init__(self, engine: Engine, settings: Settings, changed: Callable[[], None]) -> None:
        self.view = View()
        self.lists = 0
        self._engine, self._changed = engine, changed
        self._around = Surroundings({}, settings.drivers, settings.org, settings.base_domain)
        self._turn = asyncio.Lock()
        self._seen: dict[str, tuple[object, ...]] = {}
        self._leaving: dict[str, tuple[float, str]] = {}
        """Who was asked to stop: until when that counts, and when it had been started."""
        self._going: set[str] = set()
        self._log = structlog.get_logger("follower")

    async def run(self) -> None:
        """Follow until cancelled."""
        # Asked for at the source: health checks alone would send three more events each time they run.
        filters = {"type": ["container", "network"], "event": sorted(ACTIONS)}
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._relist(), name="relist")
            async for item in self._engine.events(filters):
                await self._take(item)

    async def _relist(self) -> None:
        while True:
            await asyncio.sleep(1.0 if self.view.stale or not self.view.complete else RELIST)
            await self._take(Resync.RESYNC)

    async def _take(self, item: Event | Resync) -> None:
        async with self._turn:
            try:
                if isinstance(item, Resync):
                    await self._list()
                elif item.type == "network":
                    if item.action in {"connect", "disconnect"}:
                        await self._look(item.attributes.get("container", ""), known_only=item.action == "disconnect")
                elif labels.concerns(item.attributes):
                    await self._follow(item)
            except Unavailable as error:
                self._stale(error)

    async def _follow(self, event: Event) -> None:
        if event.action == "destroy":
            self._leave(event.id, "it was removed")
            self._drop_later(event.id)
        elif event.action == "kill":
            known = self.view.containers.get(event.id)
            if known is not None and event.attributes.get("signal") in known.last_signals:
                self._leaving[event.id] = time.monotonic() + LEAVING_FOR, known.started
                self._leave(event.id, containers.ASKED_TO_STOP)
        elif event.action in {"die", "stop"}:
            self._leaving.pop(event.id, None)
            self._leave(event.id, "it is not running")
        elif event.action == "pause":
            self._leave(event.id, "it is paused")
        else:
            if event.action == "start":
                self._leaving.pop(event.id, None)
            await self._look(event.id)

    async def _list(self) -> None:
        listed = await self._engine.containers()
        await self._learn_networks()
        before = self.view
        known: dict[str, WebContainer] = {}
        problems: dict[str, Problem] = {}
        seen: dict[str, tuple[object, ...]] = {}
        for entry in filter(containers.concern, listed):
            container_id = entry["Id"]
            mark = containers.fingerprint(entry)
            found: WebContainer | Problem | None
            if self._seen.get(container_id) == mark:
                found = before.containers.get(container_id) or before.problems.get(container_id)
            else:
                try:
                    found = await self._inspect(container_id)
                except NotFound:
                    continue
            if container_id not in self._leaving:
                seen[container_id] = mark
            if isinstance(found, Problem):
                problems[container_id] = found
            elif found is not None:
                known[container_id] = found
        for container_id in before.containers.keys() - known.keys() - problems.keys():
            # Gone while nobody was listening: it has the same time to come back as one we saw go.
            known[container_id] = replace(before.containers[container_id], state=State.DOWN, reason="it was removed")
            self._drop_later(container_id)
        self._seen = seen
        self.lists += 1
        self._become(View(known, problems, complete=True))

    async def _look(self, container_id: str, *, known_only: bool = False) -> None:
        if not container_id or (known_only and container_id not in self.view.containers):
            return
        try:
            found = await self._inspect(container_id)
        except NotFound:
            return
        known, problems = dict(self.view.containers), dict(self.view.problems)
        known.pop(container_id, None)
        problems.pop(container_id, None)
        self._seen.pop(container_id, None)
        if isinstance(found, Problem):
            problems[container_id] = found
        elif found is not None:
            known[container_id] = found
        self._become(replace(self.view, containers=known, problems=problems, stale=False))

    def _leave(self, container_id: str, reason: str) -> None:
        self._seen.pop(container_id, None)
        known = self.view.containers.get(container_id)
        if known is not None:
            down = replace(known, state=State.DOWN, reason=reason)
            self._become(replace(self.view, containers={**self.view.containers, container_id: down}))

    def _drop_later(self, container_id: str) -> None:
        if container_id not in self._going:
            self._going.add(container_id)
            asyncio.get_running_loop().call_later(GONE_AFTER, self._drop, container_id)

    def _drop(self, container_id: str) -> None:
        self._going.discard(container_id)
        self._leaving.pop(container_id, None)
        known = {key: value for key, value in self.view.containers.items() if key != container_id}
        problems = {key: value for key, value in self.view.problems.items() if key != container_id}
        self._become(replace(self.view, containers=known, problems=problems))

    def _become(self, view: View) -> None:
        before, self.view = self.view, view
        if view != before:
            self._changed()

    def _stale(self, error: StackpadError) -> None:
        if not self.view.stale:
            self._log.warning("the engine does not answer; what is known is served on", reason=str(error))
            self._become(replace(self.view, stale=True))

    async def _learn_networks(self) -> None:
        vague, self._around = self._around.vague, self._around.with_networks(await self._engine.networks())
        if vague and not self._around.vague:
            self._seen = {}  # an older engine view has made way: what was read through it is read again

    async def _inspect(self, container_id: str) -> WebContainer | Problem | None:
        raw = await self._engine.inspect(container_id)
        if not self._around.knows(raw):
            await self._learn_networks()
        found = containers.read(raw, self._around)
        if container_id not in self._leaving or not isinstance(found, WebContainer):
            return found
        until, started = self._leaving[container_id]
        if until < time.monotonic() or found.started != started:
            # It did not mean it; or it has been started again, as an engine does with all when it starts itself.
            del self._leaving[container_id]
        elif found.state is not State.DOWN:
            return replace(found, state=State.DOWN, reason=containers.ASKED_TO_STOP)
        return found
