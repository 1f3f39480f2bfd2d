"""Names for ids: what only the engine knows, asked for in the background and never waited for.

The driver is told neither a network's name nor a container's. Here they are learnt from events and lists, and with them
what the engine has forgotten without telling us, as it does while the plugin is disabled: a network or an endpoint that
is missing from its lists for a while is forgotten here too; at once, if the engine has given it up already and only our
disk was full.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace

import structlog

from plugin.state import State
from stackpad.engine import Engine
from stackpad.errors import StackpadError

RELIST = 60.0
SOON = 0.2
"""Seconds between two lists, and from an event until the list that it causes: events come in bursts."""

MISSING_FOR = 15.0
"""Seconds something must be missing: a container that is just starting is not in the list yet."""

LOOK_AGAIN = 5.0
UNWANTED_AGAIN = 2.0
"""Seconds between two looks while the disk would not forget something; it may have room again."""

_ACTIONS = ["create", "destroy", "connect", "disconnect", "start", "die", "rename"]


class Directory:
    """The engine's names of networks and of the containers behind endpoints, as last heard."""

    def __init__(
        self,
        engine: Engine,
        state: State,
        forget_network: Callable[[str], Awaitable[object]],
        forget_endpoint: Callable[[str], Awaitable[object]],
        unwanted: set[str],
        learnt: Callable[[], None] = lambda: None,
        heard: Callable[[], None] = lambda: None,
    ) -> None:
        self._learnt, self._heard = learnt, heard
        self.engine_version: str | None = None
        self._engine, self._state = engine, state
        self._forget_network, self._forget_endpoint = forget_network, forget_endpoint
        self._networks: dict[str, str] = {}
        self._listed = False
        self._containers: dict[str, str] = {}
        self._missing: dict[str, float] = {}
        self._unwanted = unwanted
        self._changed = asyncio.Event()
        self._log = structlog.get_logger("directory")

    def network_name(self, network_id: str) -> str | None:
        """The name of a network, ``None`` while it is not known."""
        return self._networks.get(network_id)

    def networks(self) -> Collection[str] | None:
        """The ids of all networks of the engine's, whoever they are of; ``None`` before it has listed them."""
        return self._networks.keys() if self._listed else None

    def container_name(self, endpoint_id: str) -> str | None:
        """The name of the container an endpoint belongs to, ``None`` while it is not known."""
        return self._containers.get(endpoint_id)

    async def _keep_names(self) -> None:
        """An environment is called as its network unless an option says otherwise; kept, for the engine may be slow."""
        for network in list(self._state.networks.values()):
            name = self._networks.get(network.id)
            if name and not network.environment and self._state.networks.get(network.id) is network:
                await self._state.put_network(replace(network, environment=name))
                self._learnt()

    async def run(self) -> None:
        """Learn until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(), name="directory events")
            while True:
                try:
                    await self._list()
                except StackpadError as error:
                    self._log.debug("the engine does not answer", reason=str(error))
                try:
                    async with asyncio.timeout(self._pause()):
                        await self._changed.wait()
                except TimeoutError:
                    continue
                await asyncio.sleep(SOON)
                self._changed.clear()

    def _pause(self) -> float:
        if self._unwanted & self._missing.keys():
            return UNWANTED_AGAIN
        return LOOK_AGAIN if self._missing else RELIST

    async def _listen(self) -> None:
        async for _ in self._engine.events({"type": ["container", "network"], "event": _ACTIONS}):
            self._changed.set()

    async def _list(self) -> None:
        known_networks, known_endpoints = set(self._state.networks), set(self._state.endpoints)
        self._unwanted.intersection_update(known_networks | known_endpoints)
        networks = await self._engine.networks()
        containers = await self._engine.containers()
        self.engine_version = await self._engine.version()
        self._heard()
        self._networks, self._listed = {str(network["Id"]): str(network["Name"]) for network in networks}, True
        await self._keep_names()
        self._containers = {
            str(attached["EndpointID"]): str(container["Names"][0]).lstrip("/")
            for container in containers
            for attached in ((container.get("NetworkSettings") or {}).get("Networks") or {}).values()
            if attached.get("EndpointID") and container.get("Names")
        }
        # What it lists again it has not given up, whatever it said before.
        self._unwanted -= self._networks.keys() | self._containers.keys()
        gone_networks = known_networks - self._networks.keys()
        gone_endpoints = known_endpoints - self._containers.keys()
        now = time.monotonic()
        self._missing = {key: self._missing.get(key, now) for key in gone_networks | gone_endpoints}
        for key, since in list(self._missing.items()):
            if now - since < MISSING_FOR and key not in self._unwanted:
                continue
            await (self._forget_network if key in gone_networks else self._forget_endpoint)(key)
            self._log.warning("forgotten: the engine does not know it any more", id=key[:12])
            del self._missing[key]
            self._unwanted.discard(key)
