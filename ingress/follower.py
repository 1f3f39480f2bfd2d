"""Follows the engine: the web containers as they are, from events with lists as their ground.

Subscribe, then list, then apply what comes. An engine that cannot be asked leaves what is known as it is: "cannot list"
is never "nothing there".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from ingress.routes import Problem, State, WebContainer
from ingress.settings import Settings
from stackpad import labels
from stackpad.engine import Engine, Event, Resync
from stackpad.errors import InvalidRequest, NotFound, StackpadError, Unavailable
from stackpad.labels import Kind

RELIST = 30.0
"""Seconds between two lists when no event says anything."""

GONE_AFTER = 3.0
"""Seconds a removed container's names are kept, so that one made anew finds them."""

_LABEL = f"{labels.TYPE}={Kind.WEB}"
_LEAVING = {"die", "stop", "pause"}
_LAST_SIGNALS = {"2", "3", "9", "15"}
"""Signals that ask a process to end (SIGINT, SIGQUIT, SIGKILL, SIGTERM): it gets nothing new from then on."""


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
        self._engine, self._settings, self._changed = engine, settings, changed
        self._networks: dict[str, tuple[str, str]] = {}
        self._log = structlog.get_logger("follower")

    async def run(self) -> None:
        """Follow until cancelled."""
        filters = {"type": ["container", "network"]}
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._relist(), name="relist")
            async for item in self._engine.events(filters):
                try:
                    if isinstance(item, Resync):
                        await self._list()
                    elif item.type == "network" and item.action in {"connect", "disconnect"}:
                        await self._look(item.attributes.get("container", ""), known_only=item.action == "disconnect")
                    elif item.type == "container" and item.attributes.get(labels.TYPE) == Kind.WEB:
                        await self._follow(item)
                except Unavailable as error:
                    self._stale(error)

    async def _relist(self) -> None:
        while True:
            await asyncio.sleep(1.0 if self.view.stale else RELIST)
            try:
                await self._list()
            except Unavailable as error:
                self._stale(error)

    async def _follow(self, event: Event) -> None:
        if event.action == "destroy":
            self._drop_later(event.id)
        elif event.action in _LEAVING or (event.action == "kill" and event.attributes.get("signal") in _LAST_SIGNALS):
            self._mark(event.id, State.DOWN)
        elif event.action in {"start", "unpause", "health_status", "rename", "restart"}:
            await self._look(event.id)

    async def _list(self) -> None:
        listed = await self._engine.containers({"label": [_LABEL]})
        await self._learn_networks()
        before = self.view
        containers: dict[str, WebContainer] = {}
        problems: dict[str, Problem] = {}
        for entry in listed:
            try:
                found = await self._inspect(entry["Id"])
            except NotFound:
                continue
            if isinstance(found, Problem):
                problems[entry["Id"]] = found
            elif found is not None:
                containers[entry["Id"]] = found
        self._become(View(containers, problems, complete=True), before)

    async def _look(self, container_id: str, *, known_only: bool = False) -> None:
        if not container_id or (known_only and container_id not in self.view.containers):
            return
        try:
            found = await self._inspect(container_id)
        except NotFound:
            return
        before = self.view
        containers, problems = dict(before.containers), dict(before.problems)
        containers.pop(container_id, None)
        problems.pop(container_id, None)
        if isinstance(found, Problem):
            problems[container_id] = found
        elif found is not None:
            containers[container_id] = found
        self._become(replace(before, containers=containers, problems=problems, stale=False), before)

    def _mark(self, container_id: str, state: State) -> None:
        before = self.view
        known = before.containers.get(container_id)
        if known is not None:
            containers = {**before.containers, container_id: replace(known, state=state)}
            self._become(replace(before, containers=containers), before)

    def _drop_later(self, container_id: str) -> None:
        self._mark(container_id, State.DOWN)
        asyncio.get_running_loop().call_later(GONE_AFTER, self._drop, container_id)

    def _drop(self, container_id: str) -> None:
        before = self.view
        containers = {key: value for key, value in before.containers.items() if key != container_id}
        problems = {key: value for key, value in before.problems.items() if key != container_id}
        self._become(replace(before, containers=containers, problems=problems), before)

    def _become(self, view: View, before: View) -> None:
        self.view = view
        if view != before:
            self._changed()

    def _stale(self, error: StackpadError) -> None:
        if not self.view.stale:
            self._log.warning("the engine does not answer; what is known is served on", reason=str(error))
            self.view = replace(self.view, stale=True)

    async def _learn_networks(self) -> None:
        self._networks = {entry["Id"]: (entry["Name"], entry["Driver"]) for entry in await self._engine.networks()}

    async def _inspect(self, container_id: str) -> WebContainer | Problem | None:
        raw = await self._engine.inspect(container_id)
        config = raw.get("Config") or {}
        given = config.get("Labels") or {}
        name = str(raw.get("Name", "")).lstrip("/")
        if given.get(labels.TYPE) != Kind.WEB:
            return None
        attached = (raw.get("NetworkSettings") or {}).get("Networks") or {}
        if any(entry.get("NetworkID") not in self._networks for entry in attached.values()):
            await self._learn_networks()
        try:
            network, address = self._attachment(attached)
            request = labels.web(
                given,
                name=name,
                network=network,
                org=self._settings.org,
                base_domain=self._settings.base_domain,
            )
            port = request.port or _only_port(config.get("ExposedPorts") or {})
        except InvalidRequest as error:
            return Problem(container_id, name, str(error))
        return WebContainer(
            id=container_id,
            name=name,
            request=request,
            address=address,
            port=port,
            state=_state(raw.get("State") or {}, address),
            since=_created(raw),
            checked=bool((raw.get("State") or {}).get("Health")),
        )

    def _attachment(self, attached: Mapping[str, Any]) -> tuple[str, str | None]:
        """Name of the container's network with us, and its address there (``None`` while it is stopped)."""
        for network_name, entry in sorted(attached.items()):
            known = self._networks.get(entry.get("NetworkID") or "")
            name, driver = known or (network_name, "")
            if driver in self._settings.drivers:
                return name, entry.get("IPAddress") or entry.get("GlobalIPv6Address") or None
        raise InvalidRequest(
            "the container is on no network of ours; connect it to one made with docker network create -d stackpad"
        )


def _only_port(exposed: Mapping[str, Any]) -> int:
    ports = sorted(int(text.partition("/")[0]) for text in exposed if text.endswith("/tcp"))
    if len(ports) != 1:
        what = f"its image exposes {', '.join(map(str, ports))}" if ports else "its image exposes no port"
        raise InvalidRequest(f"{what}; say which with the label {labels.PORT}")
    return ports[0]


def _state(state: Mapping[str, Any], address: str | None) -> State:
    if not state.get("Running") or state.get("Paused") or state.get("Restarting") or address is None:
        return State.DOWN
    health = (state.get("Health") or {}).get("Status", "none")
    # Without a health check the port decides; until it has accepted once, that is "starting" too.
    return {"healthy": State.UP, "unhealthy": State.UNHEALTHY}.get(health, State.STARTING)


def _created(raw: Mapping[str, Any]) -> float:
    text = str(raw.get("Created", ""))[:19]
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return 0.0
