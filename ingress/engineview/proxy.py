"""Serves the view: asks the engine what may be asked, and shows of its answers what is shown.

Each connection is for one request, towards both sides, so that there is nothing kept that a restarted engine could make
stale. Who goes away while the engine is being asked, or hears events, takes the request with him.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import structlog
from aiohttp import web
from yarl import URL

from ingress import sites
from ingress.engineview import answers, rules
from ingress.engineview.rules import Question, Resource
from stackpad import crowd
from stackpad.errors import InvalidRequest, Unavailable

MOST = 16
"""Connections at a time; an ingress has two, and those that it has just left."""

ANSWER = 9.0
"""Seconds the engine has for an answer: a little less than who asks us waits (:data:`stackpad.engine.CALL_TIMEOUT`)."""

LONGEST_EVENT = 1 << 20
"""Bytes of one event."""

TELL = 1.0
"""Seconds between two lines of the log about what was refused."""

_SILENT = logging.getLogger("stackpad.engineview")
"""aiohttp writes a trace for each request that is none."""
_SILENT.propagate = False
_SILENT.setLevel(logging.CRITICAL + 1)


class EngineView:
    """The view of the engine behind one socket."""

    def __init__(self, engine: Path) -> None:
        self._engine = engine
        self._told = 0.0
        self._log = structlog.get_logger("engine view")

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to one request."""
        try:
            question = rules.read(request.method, request.raw_path, request.headers.keys(), body=request.body_exists)
            if question.resource is Resource.EVENTS:
                return await self._events(request, question)
            async with self._asked(question, aiohttp.ClientTimeout(ANSWER)) as answer:
                return _answer(question.resource, answer.status, await answer.read(), answer.headers.get("Api-Version"))
        except InvalidRequest as error:
            self._refused(error)
            return _said(403, answers.reason(str(error)))
        except Unavailable as error:
            return _said(503, answers.reason(str(error)))

    async def _events(self, request: web.BaseRequest, question: Question) -> web.StreamResponse:
        """Events as they come, for as long as both sides stay."""
        async with self._asked(question, aiohttp.ClientTimeout(None, sock_connect=ANSWER)) as answer:
            if answer.status != 200:
                return _answer(question.resource, answer.status, await answer.read())
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            response.force_close()
            # Not before the engine has answered: who hears that it follows has then missed nothing.
            await response.prepare(request)
            with contextlib.suppress(aiohttp.ClientError, OSError, Unavailable):
                async for line in _lines(answer.content):
                    if (told := answers.event(line)) is not None:
                        await response.write(told)
            with contextlib.suppress(OSError):
                await response.write_eof()
            return response

    @contextlib.asynccontextmanager
    async def _asked(self, question: Question, patience: aiohttp.ClientTimeout) -> AsyncIterator[aiohttp.ClientResponse]:
        # Nothing else of what came goes on, no header either.
        url = URL(f"http://docker{question.target}", encoded=True)
        try:
            async with (
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self._engine), force_close=True)) as session,
                session.get(url, timeout=patience, allow_redirects=False) as answer,
            ):
                yield answer
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(
                f"the Docker engine at {self._engine} does not answer: {type(error).__name__} {error}; is it running?"
            ) from error

    def _refused(self, error: InvalidRequest) -> None:
        now = time.monotonic()
        if now >= self._told:
            self._told = now + TELL
            self._log.warning("not passed on", reason=str(error))


async def serve(engine: Path, path: Path, stop: asyncio.Event) -> None:
    """Serve on a socket at ``path`` that only root can open, until ``stop`` is set."""
    server = web.Server(EngineView(engine).handle, handler_cancellation=True)
    connected = crowd.bounded(server, MOST, "the view", logger=_SILENT, access_log=_SILENT, auto_decompress=False)
    with sites.listening(str(path)) as listener:
        site = await asyncio.get_running_loop().create_unix_server(connected, sock=listener)
        structlog.get_logger("engine view").info("shows the engine", engine=str(engine), at=str(path))
        try:
            await stop.wait()
        finally:
            site.close()
            await server.shutdown(1.0)


def _answer(resource: Resource, status: int, body: bytes, version: str | None = None) -> web.Response:
    if status == 200:
        return _said(200, answers.shown(resource, body), version)
    if status < 400:
        raise Unavailable(f"the engine answers with status {status}")
    return _said(status, answers.error(body))


def _said(status: int, body: bytes, version: str | None = None) -> web.Response:
    headers = {"Content-Type": "application/json"} | ({"Api-Version": version} if version else {})
    response = web.Response(status=status, body=body, headers=headers)
    response.force_close()
    return response


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Events, one a line; those that are too long are left out, so that nobody's labels end the stream for the others."""
    held, skipping = b"", False
    async for part in stream.iter_any():
        *whole, held = (held + part).split(b"\n")
        if skipping and whole:
            skipping = False
            del whole[0]
        for line in whole:
            if line.strip() and len(line) <= LONGEST_EVENT:
                yield line
        if skipping or len(held) > LONGEST_EVENT:
            held, skipping = b"", True
