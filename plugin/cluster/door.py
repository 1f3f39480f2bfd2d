"""Who may connect to a site in the tunnel, how often, and for how long.

A guest is whoever has a token, and a token may have been found. So each has a few connections at a time, opens so many a
second, and each of them ends after some seconds, whatever is said on it meanwhile and however slowly. Somebody else, such
as a user of this node, who comes past the firewall, has none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable

import structlog
from aiohttp import web

from plugin.accepting import accept
from plugin.resolver.limits import Limit, Pace

EACH, ALL = 8, 256
"""Connections at a time: of one guest, and of all."""

LASTS = 10.0
"""Seconds from the beginning of a connection to its end; a node that joins waits less for its answer."""

PACE, BURST = 4.0, 32.0
"""Connections that one guest may open: in a second in the long run, and at once."""

LINE, HEADERS = 2048, 32
"""Bytes of a line of a request's head, and its lines."""

_SILENT = logging.getLogger("stackpad.door")
"""aiohttp writes a trace for each request that is none, and whoever sends those would fill the log."""
_SILENT.propagate = False
_SILENT.setLevel(logging.CRITICAL + 1)


class Door:
    """Lets in whom ``knows`` tells, by address; serves them with ``server``."""

    def __init__(self, knows: Callable[[str], bool]) -> None:
        self.limit, self._pace = Limit(ALL, EACH), Pace(PACE, BURST)
        self._knows, self._tasks = knows, set[asyncio.Task[None]]()
        self._log = structlog.get_logger("tunnel")

    def open(self, listener: socket.socket, server: web.Server, tasks: asyncio.TaskGroup) -> Callable[[], None]:
        """Take connections of a socket that is bound; each is a task of the group. Returns how to stop that."""

        def meet(connection: socket.socket, guest: str) -> bool:
            if not self._admits(guest):
                return False
            self._pace.spend(guest, 1)
            held = contextlib.ExitStack()
            held.callback(connection.close)
            held.enter_context(self.limit.one(guest))
            # Not within the task: one that is cancelled before its first step has no end of its own.
            task = tasks.create_task(self._serve(connection, server), name="guest")
            self._tasks.add(task)
            held.callback(self._tasks.discard, task)
            task.add_done_callback(_ends(held))
            return True

        return accept(listener, meet, log="tunnel")

    def close(self) -> None:
        """End the connections that are left when the server has ended its own."""
        for task in self._tasks:
            task.cancel()

    def _admits(self, guest: str) -> bool:
        return self._knows(guest) and self.limit.free(guest) and not self._pace.wait(guest)

    async def _serve(self, connection: socket.socket, server: web.Server) -> None:
        connection.setblocking(False)
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: _Handler(server, over), connection)
            try:
                async with asyncio.timeout(LASTS):
                    await over.wait()
            finally:
                # Closing it would wait until somebody reads what is left.
                transport.abort()
        except (OSError, TimeoutError):
            pass  # who has gone away, or was heard for long enough
        except Exception:
            self._log.exception("a connection failed")


class _Handler(web.RequestHandler):
    """aiohttp's, which says when its connection is over."""

    __slots__ = ("_over",)

    def __init__(self, server: web.Server, over: asyncio.Event) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            logger=_SILENT,
            access_log=_SILENT,
            max_line_size=LINE,
            max_field_size=LINE,
            max_headers=HEADERS,
            # What a small body unpacks to has no end.
            auto_decompress=False,
            lingering_time=1.0,
        )
        self._over = over

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._over.set()


def _ends(held: contextlib.ExitStack) -> Callable[[asyncio.Task[None]], None]:
    return lambda _: held.close()
