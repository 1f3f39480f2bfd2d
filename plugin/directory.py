"""Names for ids: what only the engine knows, asked for in the background and never waited for.

The driver is told neither a network's name nor a container's. Here they are learnt from events and lists, and with them
what the engine has forgotten without telling us: a network that it does not know, twice in a row, is given to ``gone``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

import structlog

from stackpad.engine import Engine
from stackpad.errors import Unavailable

RELIST = 60.0
SOON = 0.2
"""Seconds between two lists, and from an event until the list that it causes: events come in bursts."""

_ACTIONS = ["create", "destroy", "connect", "disconnect", "start", "die", "rename"]


class Directory:
    """The engine's names of networks and of the containers behind endpoints, as last heard."""

    def __init__(
        self, engine: Engine, known: Callable[[], Collection[str]], gone: Callable[[str], Awaitable[object]]
    ) -> None:
        self.engine_version: str | None = None
        self._engine, self._known, self._gone = engine, known, gone
        self._networks: dict[str, str] = {}
        self._containers: dict[str, str] = {}
        self._missing: set[str] = set()
        self._changed = asyncio.Event()
        self._log = structlog.get_logger("directory")

    def network_name(self, network_id: str) -> str | None:
        """The name of a network, ``None`` while it is not known."""
        return self._networks.get(network_id)

    def container_name(self, endpoint_id: str) -> str | None:
        """The name of the container an endpoint belongs to, ``None`` while it is not known."""
        return self._containers.get(endpoint_id)

    async def run(self) -> None:
        """Learn until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(), name="directory events")
            while True:
                try:
                    await self._list()
                except Unavailable as error:
                    self._log.debug("the engine does not answer", reason=str(error))
                try:
                    async with asyncio.timeout(RELIST):
                        await self._changed.wait()
                except TimeoutError:
                    continue
                await asyncio.sleep(SOON)
                self._changed.clear()

    async def _listen(self) -> None:
        async for _ in self._engine.events({"type": ["container", "network"], "event": _ACTIONS}):
            self._changed.set()

    async def _list(self) -> None:
        held = set(self._known())
        networks = await self._engine.networks()
        containers = await self._engine.containers()
        self.engine_version = await self._engine.version()
        self._networks = {str(network["Id"]): str(network["Name"]) for network in networks}
        self._containers = {
            str(attached["EndpointID"]): str(container["Names"][0]).lstrip("/")
            for container in containers
            for attached in ((container.get("NetworkSettings") or {}).get("Networks") or {}).values()
            if attached.get("EndpointID") and container.get("Names")
        }
        missing = held - self._networks.keys()
        for network_id in sorted(missing & self._missing):
            self._log.warning("the engine does not know this network any more", network=network_id[:12])
            await self._gone(network_id)
        self._missing = missing
