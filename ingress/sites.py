"""Where the ingress itself is asked: a loopback port for Caddy, a unix socket for the command line."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

from aiohttp import web


async def serve(
    stack: contextlib.AsyncExitStack, application: web.Application, *, host: str = "", port: int = 0, path: str = ""
) -> None:
    """Serve on ``host`` and ``port``, or on a socket at ``path`` that only root can open, until ``stack`` is closed."""
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    if not path:
        await web.TCPSite(runner, host, port).start()
        return
    await web.SockSite(runner, stack.enter_context(listening(path))).start()


@contextlib.contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    """A socket at ``path`` that only root can open; it has its name for as long as this lasts."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    before = os.umask(0o177)
    try:
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        _unlink(path)
        bound.bind(path)
    finally:
        os.umask(before)
    try:
        yield bound
    finally:
        _unlink(path)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
