"""What a node serves in the tunnel; the firewall says who may ask.

A port that somebody else has is a problem that is told, and not the end of the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

import structlog
from aiohttp import web

from plugin.cluster.door import Door
from stackpad.errors import Unavailable

_IP_FREEBIND = 15
"""ip(7): listen on an address that may come later."""


class Sites:
    """Serves applications; ``problems`` by port."""

    def __init__(self) -> None:
        self.problems: dict[int, str] = {}
        self._log = structlog.get_logger("tunnel")

    async def serve(
        self,
        stack: contextlib.AsyncExitStack,
        application: web.Application,
        address: str,
        port: int,
        door: Door | None = None,
    ) -> None:
        """Serve ``application`` until ``stack`` is closed, to whom ``door`` lets in, or to all."""
        try:
            listener = _listen(address, port)
        except Unavailable as error:
            self.problems[port] = str(error)
            self._log.error("a service in the tunnel does not run", reason=str(error))
            return
        self.problems.pop(port, None)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        if door is None:
            stack.push_async_callback(runner.cleanup)
            await web.SockSite(runner, listener).start()
        elif (server := runner.server) is not None:
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            stack.callback(door.close)
            stack.push_async_callback(runner.cleanup)
            stack.callback(door.open(listener, server, tasks))


def _listen(address: str, port: int) -> socket.socket:
    with contextlib.ExitStack() as undo:
        try:
            listening = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setsockopt(socket.SOL_IP, _IP_FREEBIND, 1)
            listening.bind((address, port))
        except OSError as error:
            raise Unavailable(f"{address}:{port} cannot be listened on: {error.strerror}") from error
        undo.pop_all()
    return listening
