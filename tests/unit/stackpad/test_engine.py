"""The event source over a real unix socket: where it begins, ends, floods and begins again.

The server speaks the few words of Docker's API this needs, so that a test can end a stream when it wants; real engines
are in tests/e2e.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from stackpad import engine as module
from stackpad.engine import RESYNC, Engine, Event
from stackpad.errors import NotFound, Unavailable
from tests.netns import eventually

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
"""The SDK leaves a socket that could not connect to the garbage collector, which is made to come while we know why."""

START = {
    "Type": "container",
    "Action": "start",
    "Actor": {"ID": "c1", "Attributes": {"name": "web", "stackpad.type": "web"}},
}


class Daemon:
    """A Docker API with events on demand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"unix://{path}"
        self.streams: list[asyncio.Queue[dict[str, Any] | None]] = []
        self.filters: list[str] = []
        self.status = 200
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        application = web.Application()
        application.router.add_get("/version", self._version)
        application.router.add_get("/{version}/version", self._version)
        application.router.add_get("/{version}/events", self._events)
        application.router.add_get("/{version}/containers/json", self._containers)
        application.router.add_get("/{version}/containers/{id}/json", self._missing)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self.path)).start()

    def ends(self) -> int:
        """How many connections there are: each has an end with the socket's name, as has the socket itself."""
        lines = Path("/proc/net/unix").read_text().splitlines()
        return sum(line.endswith(f" {self.path}") for line in lines) - 1

    async def stop(self) -> None:
        for stream in self.streams:
            stream.put_nowait(None)
        self.streams.clear()
        if self._runner is not None:
            await self._runner.cleanup()
        self._runner = None

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12"})

    async def _containers(self, request: web.Request) -> web.Response:
        if self.status != 200:
            return web.json_response({"message": "the database is locked"}, status=self.status)
        return web.json_response([{"Id": "c1", "all": request.query.get("all")}])

    async def _missing(self, _: web.Request) -> web.Response:
        return web.json_response({"message": "No such container: c9"}, status=404)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.filters.append(request.query.get("filters", ""))
        self.streams.append(queue)
        with contextlib.suppress(ConnectionError):
            while (event := await queue.get()) is not None:
                await response.write(json.dumps(event).encode() + b"\n")
        return response


@pytest.fixture(autouse=True)
def swept() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    made = Daemon(tmp_path / "docker.sock")
    await made.start()
    yield made
    await made.stop()


async def soon(events: AsyncIterator[Any]) -> Any:
    return await asyncio.wait_for(anext(events), 20)


async def test_events_begin_with_a_resync_and_carry_what_happened(daemon: Daemon) -> None:
    async with Engine(daemon.url) as engine:
        events = engine.events({"type": ["container"]})
        assert await soon(events) is RESYNC
        assert json.loads(daemon.filters[0]) == {"type": ["container"]}
        daemon.streams[0].put_nowait(START)
        daemon.streams[0].put_nowait({**START, "Action": "health_status: healthy"})
        daemon.streams[0].put_nowait({"Type": "network"})
        attributes = {"name": "web", "stackpad.type": "web"}
        assert await soon(events) == Event("container", "start", "", "c1", attributes)
        assert await soon(events) == Event("container", "health_status", "healthy", "c1", attributes)
        assert await soon(events) == Event("network", "", "", "", {})
        await events.aclose()  # type: ignore[attr-defined]


async def test_the_end_of_a_stream_and_the_next_one_are_resyncs(daemon: Daemon) -> None:
    async with Engine(daemon.url) as engine:
        events = engine.events({})
        assert await soon(events) is RESYNC
        await daemon.stop()
        assert await soon(events) is RESYNC
        coming = asyncio.ensure_future(soon(events))
        await daemon.start()
        assert await coming is RESYNC
        daemon.streams[-1].put_nowait(START)
        assert (await soon(events)).id == "c1"
        await events.aclose()  # type: ignore[attr-defined]


async def test_an_engine_that_comes_later_than_we_do(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "late.sock")
    async with Engine(daemon.url) as engine:
        with pytest.raises(Unavailable, match=r"late\.sock does not answer.*is it running"):
            await engine.containers()
        events = engine.events({})
        coming = asyncio.ensure_future(soon(events))
        await asyncio.sleep(0)
        await daemon.start()
        assert await coming is RESYNC
        assert [one["Id"] for one in await engine.containers()] == ["c1"]
        await events.aclose()  # type: ignore[attr-defined]
        await daemon.stop()


async def test_a_flood_is_one_resync(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUEUE", 8)
    async with Engine(daemon.url) as engine:
        events = engine.events({})
        assert await soon(events) is RESYNC
        for number in range(50):
            daemon.streams[0].put_nowait({**START, "Actor": {"ID": f"c{number}"}})
        daemon.streams[0].put_nowait({**START, "Actor": {"ID": "last"}})
        got = []
        # Nobody takes anything until all of it has come.
        while True:
            await asyncio.sleep(0.2)
            got.append(item := await soon(events))
            if isinstance(item, Event) and item.id == "last":
                break
        assert RESYNC in got
        assert len(got) <= 2 * 8 + 2
        await events.aclose()  # type: ignore[attr-defined]


async def test_a_refusal_is_no_empty_list(daemon: Daemon) -> None:
    async with Engine(daemon.url) as engine:
        daemon.status = 500
        with pytest.raises(Unavailable, match="the database is locked"):
            await engine.containers()
        daemon.status = 200
        assert await engine.containers() == [{"Id": "c1", "all": "1"}]
        with pytest.raises(NotFound, match="No such container: c9"):
            await engine.inspect("c9")
        assert await engine.version() == "20.10.24"


async def test_who_asks_for_many_containers_keeps_no_connections(daemon: Daemon) -> None:
    async with Engine(daemon.url) as engine:
        for number in range(40):
            with pytest.raises(NotFound):
                await engine.inspect(f"c{number}")
        await eventually(lambda: not daemon.ends(), "the connections to be closed")
