"""A state that cannot be used: the plugin stays, says so to whoever asks, and goes on when it can be.

Ending instead would cost more than the fault. An engine that finds nobody at the socket four times within 9.5 s of a
start gives the plugin up until somebody enables it (moby ``plugin/manager_linux.go``, ``pluginPostStart``), and a call
meanwhile waits fifteen seconds to hear that there is no socket. The kernel is left as it is: traffic goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from plugin import sockets
from plugin.docker.server import Server, constants
from plugin.metrics import Metrics
from plugin.settings import Settings
from plugin.sockets import Listener
from plugin.state import State
from stackpad.errors import Unavailable

LOOK_EVERY = 1.0
"""Seconds between two looks at the files."""

DRAIN = 300
"""Hundredths of a second that who has connected has for making the call, before somebody else serves."""

_Mark = tuple[int, int, int]
_NOTHING: _Mark = (0, 0, 0)


async def opened(
    settings: Settings, listening: Sequence[Listener], metrics: Metrics, stop: asyncio.Event
) -> State | None:
    """The state, as soon as it can be used; None if ``stop`` comes first. The sockets go on listening."""
    try:
        return State(settings.state_file)
    except Unavailable as error:
        own = (settings.admin_socket, settings.web_socket)
        return await Waiting(settings.state_file, str(error)).serve(own, listening, metrics, stop)


class Waiting:
    """Looks at the files again and again; ``reason`` is why they cannot be used now."""

    def __init__(self, path: Path, reason: str) -> None:
        self.reason = reason
        self._path = path
        self._seen = _marks(path)
        self._had_content = self._seen[0] != _NOTHING
        self._log = structlog.get_logger("state")

    async def serve(
        self, admin: Sequence[Path], listening: Sequence[Listener], metrics: Metrics, stop: asyncio.Event
    ) -> State | None:
        """Answer on all sockets, those at ``admin`` too, until the state can be used, or ``stop``."""
        self._log.error("waiting for the state", reason=self.reason)
        server = Server(constants(), asyncio.Event(), metrics, otherwise=lambda _: self.reason)
        async with contextlib.AsyncExitStack() as stack:
            own = []
            for path in admin:
                own.append(sockets.listen(path))
                stack.callback(own[-1].socket.close)
                stack.callback(own[-1].remove)
            await _site(stack, server.application(), listening)
            await _site(stack, self._admin(), own)
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY):
                        await stop.wait()
                        return None
                state = await asyncio.to_thread(self.look)
                if state is not None:
                    self._log.info("the state can be used again")
                    return state
        return None

    def look(self) -> State | None:
        """The state, if it can be used now.

        Files that have changed since the last look are left alone until the next one: somebody may be putting them back,
        and one of a database's two files without the other is another database.
        """
        before, self._seen = self._seen, _marks(self._path)
        if self._seen != before:
            return None
        self._had_content |= self._seen[0] != _NOTHING
        if self._had_content and self._seen[0] == _NOTHING:
            # Beginning anew gives all networks up, and whoever exchanges the file takes it away for a moment.
            self._say(
                f"the state file {self._path} is gone since it could not be used; put a copy there, and the plugin goes "
                "on; or restart the plugin to begin anew: docker plugin disable -f stackpad/net, docker plugin enable "
                "stackpad/net (networks must then be created again)"
            )
            return None
        try:
            return State(self._path)
        except Unavailable as error:
            self._say(str(error))
            # Opening a database makes files beside it and removes them again.
            self._seen = _marks(self._path)
            return None

    def _say(self, reason: str) -> None:
        if reason != self.reason:
            self.reason = reason
            self._log.error("still waiting for the state", reason=reason)

    def _admin(self) -> web.Application:
        application = web.Application()
        application.router.add_route("*", r"/{path:[\s\S]*}", self._refuse)
        return application

    async def _refuse(self, _: web.Request) -> web.Response:
        return web.Response(status=503, body=msgspec.json.encode({"error": self.reason}), content_type="application/json")


def _marks(path: Path) -> tuple[_Mark, ...]:
    """By what the database's file, and those beside it, show that they have changed; an empty file is like none."""
    return tuple(_mark(path.with_name(path.name + suffix)) for suffix in ("", "-wal", "-journal"))


def _mark(path: Path) -> _Mark:
    try:
        there = path.stat()
    except OSError:
        return _NOTHING
    return (there.st_ino, there.st_size, there.st_mtime_ns) if there.st_size else _NOTHING


async def _site(stack: contextlib.AsyncExitStack, application: web.Application, listening: Sequence[Listener]) -> None:
    """Serve on copies of the sockets: a site closes its own at its end, and these are the next one's."""
    application.middlewares.append(_once)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    copies = [listener.socket.dup() for listener in listening]
    stack.push_async_callback(_end, runner, copies)
    for copy in copies:
        await web.SockSite(runner, copy).start()


@web.middleware
async def _once(request: web.Request, handler: Handler) -> web.StreamResponse:
    """One call a connection: none is idle at the end, for the engine to try its next call on.

    It is read whole, whatever the answer: closing on what has not been read would cut the answer off.
    """
    with contextlib.suppress(web.HTTPRequestEntityTooLarge):
        await request.read()
    response = await handler(request)
    response.force_close()
    return response


async def _end(runner: web.AppRunner, copies: Sequence[socket.socket]) -> None:
    """Stop accepting, so that who comes now waits for the next site; then answer who has been accepted.

    Accepting stops a moment before the site does: asyncio makes a connection of what it accepts in its next turn, and
    of what was accepted in the turn in which the site stops it makes none (``Server._attach``); that one would be reset.
    """
    for copy in copies:
        asyncio.get_running_loop().remove_reader(copy)
    for turn in range(DRAIN):
        await asyncio.sleep(0.01)  # also for what was accepted last to become a connection
        if turn == 0:
            for site in list(runner.sites):
                await site.stop()
        if runner.server is None or not runner.server.connections:
            break
    await runner.cleanup()
