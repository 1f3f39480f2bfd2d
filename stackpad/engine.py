"""The Docker engine as an asyncio source of containers, networks and events.

The ``docker`` SDK blocks, so its calls run in a thread and the event stream in another. Events are hints: who follows
them subscribes first, then lists, then applies what comes, and lists again whenever :data:`RESYNC` says that something
may have been missed. A list that fails raises: "cannot be asked" is never "nothing there".
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, TypeVar

import docker
import docker.errors
import requests

from stackpad.errors import NotFound, Unavailable
from stackpad.runtime import Backoff

_T = TypeVar("_T")
CALL_TIMEOUT = 10
"""Seconds a call may take; while it boots, the engine accepts connections and does not answer."""

QUEUE = 1024
"""Events that may wait for us; more are replaced by one resync."""


class Resync(Enum):
    """Says that events may have been missed."""

    RESYNC = "resync"


RESYNC = Resync.RESYNC


@dataclass(frozen=True, slots=True)
class Event:
    """One event: ``action`` without what follows a colon, ``detail`` that (``health_status: healthy``)."""

    type: str
    action: str
    detail: str
    id: str
    attributes: Mapping[str, str]


class Engine:
    """One Docker engine, by its socket; an asynchronous context manager."""

    def __init__(self, base_url: str) -> None:
        self._url = base_url
        self._client: docker.APIClient | None = None
        self._calls = ThreadPoolExecutor(1, thread_name_prefix="engine")

    async def __aenter__(self) -> Engine:
        """Nothing is opened yet: the engine may come later than we do."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close what was opened."""
        if self._client is not None:
            self._client.close()
        self._calls.shutdown(wait=False, cancel_futures=True)

    async def version(self) -> str:
        """The engine's version."""
        return str((await self._call(lambda client: client.version()))["Version"])

    async def host_name(self) -> str:
        """The name of the machine the engine runs on."""
        return str((await self._call(lambda client: client.info())).get("Name") or "")

    async def networks(self) -> list[dict[str, Any]]:
        """All networks, as ``GET /networks`` lists them."""
        return list(await self._call(lambda client: client.networks()))

    async def containers(self, filters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Containers in any state, as ``GET /containers/json?all=1`` lists them."""
        return list(await self._call(lambda client: client.containers(all=True, filters=dict(filters or {}))))

    async def inspect(self, container_id: str) -> dict[str, Any]:
        """One container; raises :class:`NotFound`. Never to be awaited inside a driver call: the engine waits for us."""
        return dict(await self._call(lambda client: client.inspect_container(container_id)))

    async def events(self, filters: Mapping[str, Any]) -> AsyncIterator[Event | Resync]:
        """Events from now on, for ever; a resync first, and where a stream ends and where the next one begins."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(0.05, 1.0)
        while True:
            queue: asyncio.Queue[Event | Resync | None] = asyncio.Queue()
            pump = _Pump(self._url, filters, loop, queue)
            pump.start()
            began = False
            try:
                while (item := await queue.get()) is not None:
                    began = True
                    backoff.reset()
                    yield item
            finally:
                pump.stop()
            if began:
                yield RESYNC
            await asyncio.sleep(next(backoff))

    async def _call(self, function: Callable[[docker.APIClient], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._calls, functools.partial(self._ask, function))

    def _ask(self, function: Callable[[docker.APIClient], _T]) -> _T:
        try:
            if self._client is None:
                self._client = docker.APIClient(base_url=self._url, version="auto", timeout=CALL_TIMEOUT)
                # The SDK keeps a connection for each address it has asked for, which are as many as there are containers.
                self._client.headers["Connection"] = "close"
            return function(self._client)
        except docker.errors.NotFound as error:
            raise NotFound(str(error.explanation or error)) from error
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            # The next call connects anew: the engine may have made another socket, or be another version.
            client, self._client = self._client, None
            if client is not None:
                with contextlib.suppress(Exception):
                    client.close()
            raise Unavailable(f"the Docker engine at {self._url} does not answer: {error}; is it running?") from error


class _Pump:
    """Reads one event stream in a thread of its own and hands it to the loop; ``None`` is its end."""

    def __init__(
        self,
        url: str,
        filters: Mapping[str, Any],
        loop: asyncio.AbstractEventLoop,
        queue: asyncio.Queue[Event | Resync | None],
    ) -> None:
        self._url, self._filters, self._loop, self._queue = url, dict(filters), loop, queue
        self._thread = threading.Thread(target=self._run, name="engine-events", daemon=True)
        self._stream: Any = None
        self._stopped = False

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Close the stream; the thread ends by itself."""
        self._stopped = True
        stream = self._stream
        if stream is not None:
            with contextlib.suppress(Exception):
                stream.close()

    def _run(self) -> None:
        client = None
        try:
            client = docker.APIClient(base_url=self._url, version="auto", timeout=CALL_TIMEOUT)
            self._stream = client.events(decode=True, filters=self._filters)
            if self._stopped:  # before there was a stream to close
                self._stream.close()
                return
            self._hand(RESYNC)
            for raw in self._stream:
                if self._stopped:
                    break
                action, _, detail = str(raw.get("Action", "")).partition(":")
                actor = raw.get("Actor") or {}
                self._hand(
                    Event(
                        type=str(raw.get("Type", "")),
                        action=action,
                        detail=detail.strip(),
                        id=str(actor.get("ID", "")),
                        attributes=actor.get("Attributes") or {},
                    )
                )
        except (docker.errors.DockerException, requests.RequestException, OSError, ValueError, AttributeError):
            pass  # the end of a stream has many faces; whoever follows is told below and lists again
        finally:
            if client is not None:
                with contextlib.suppress(Exception):
                    client.close()
            self._hand(None)

    def _hand(self, item: Event | Resync | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended before us
            self._loop.call_soon_threadsafe(self._put, item)

    def _put(self, item: Event | Resync | None) -> None:
        if self._queue.qsize() >= QUEUE:
            while not self._queue.empty():
                self._queue.get_nowait()
            self._queue.put_nowait(RESYNC)
        self._queue.put_nowait(item)
