"""The plugin behind its real HTTP server on a real unix socket, with a real state, and no kernel.

The reconciler is the only part that is not real: :class:`Recorder` notes what it is asked and says that it was done.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web

from plugin import naming
from plugin.admin.gauges import OfState
from plugin.docker import driver
from plugin.docker.driver import NetworkDriver
from plugin.docker.ipam import Ipam
from plugin.docker.ports import PortReservations
from plugin.docker.server import Server, calls
from plugin.kernel.node import Route
from plugin.kernel.reconciler import Reconciler
from plugin.kernel.writer import Kernel
from plugin.metrics import Metrics
from plugin.settings import Settings
from plugin.state import State
from stackpad.errors import StackpadError


class Recorder(Reconciler):
    """Notes what is to be settled; ``refuse`` is what the kernel says to the next call, if it is set."""

    def __init__(self, state: State) -> None:
        super().__init__(state, cast(Kernel, None))
        self.asked: list[tuple[str, str]] = []
        self.refuse: StackpadError | None = None
        self.made: set[str] = set()

    def touch(self, network_id: str) -> None:
        self.asked.append(("touch", network_id))
        self._make(network_id)

    async def settle(self, network_id: str) -> None:
        self.asked.append(("settle", network_id))
        await asyncio.sleep(0)
        if self.refuse is not None:
            refusal, self.refuse = self.refuse, None
            raise refusal
        self._make(network_id)

    def lose(self, *endpoint_ids: str) -> None:
        """Behave as if the links of these endpoints had gone while nobody looked."""
        self._vanished.lost = frozenset(endpoint_ids)

    def abandoned(self, endpoint_id: str) -> bool:
        """There are no links here to look at."""
        return endpoint_id in self.lost

    def _make(self, network_id: str) -> None:
        joined = [e for e in self._state.endpoints_of(network_id) if e.sandbox]
        self.made.update(naming.peer_name(endpoint.id) for endpoint in joined)


@dataclass
class Plugin:
    """One running plugin, and its insides to look at."""

    state: State
    ipam: Ipam
    ports: PortReservations
    reconciler: Recorder
    metrics: Metrics
    ready: asyncio.Event
    session: aiohttp.ClientSession
    driver: NetworkDriver
    routes: list[Route] = field(default_factory=list)

    async def raw(self, method: str, body: bytes) -> tuple[int, Any]:
        """Status and decoded answer of a call with any body."""
        async with self.session.post(
            f"http://plugin/{method}", data=io.BytesIO(body), skip_auto_headers={"Content-Type"}
        ) as answer:
            return answer.status, json.loads(await answer.read())

    async def call(self, method: str, body: Any = None) -> dict[str, Any]:
        """The answer to a call as Docker makes it; raises :class:`Refused` as Docker would."""
        status, answer = await self.raw(method, b"" if body is None else json.dumps(body).encode() + b"\n")
        assert status == 200
        assert isinstance(answer, dict)
        if answer.get("Err"):
            assert answer["Err"] == answer["Error"]
            raise Refused(answer["Err"])
        return answer

    async def network(self, method: str, body: Any = None) -> dict[str, Any]:
        return await self.call(f"NetworkDriver.{method}", body)

    async def address(self, method: str, body: Any = None) -> dict[str, Any]:
        return await self.call(f"IpamDriver.{method}", body)


class Refused(Exception):
    """The plugin answered with an error."""


def _release_all(ports: PortReservations) -> None:
    for endpoint_id in list(ports.held):
        ports.release(endpoint_id)


@contextlib.asynccontextmanager
async def served(
    directory: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings | None = None
) -> AsyncIterator[Plugin]:
    """A plugin whose state and socket are in ``directory``."""
    path = directory / "plugin.sock"
    async with contextlib.AsyncExitStack() as stack:
        state = await stack.enter_async_context(State(directory / "net.db"))
        reconciler, ports, metrics, ready = Recorder(state), PortReservations(), Metrics(), asyncio.Event()
        metrics.registry.register(OfState(state, reconciler))
        monkeypatch.setattr(driver, "exists", reconciler.made.__contains__)
        routes: list[Route] = []

        async def node_routes() -> list[Route]:
            await asyncio.sleep(0)
            return routes

        ipam = Ipam(state, settings or Settings(), node_routes)
        networks = NetworkDriver(state, ipam, ports, reconciler, node_routes)
        server = Server(calls(networks, ipam), ready, metrics)
        runner = web.AppRunner(server.application(), access_log=None)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.UnixSite(runner, str(path)).start()
        connector = aiohttp.UnixConnector(path=str(path))
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        stack.callback(_release_all, ports)
        ready.set()
        yield Plugin(state, ipam, ports, reconciler, metrics, ready, session, networks, routes)
