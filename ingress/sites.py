"""Where the ingress itself is asked: a loopback port for Caddy, a unix socket for the command line."""

from __future__ import annotations

import contextlib
import os
import socket

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
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    before = os.umask(0o177)
    try:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        _unlink(path)
        listening.bind(path)
    finally:
        os.umask(before)
    stack.callback(_unlink, path)
    await web.SockSite(runner, listening).start()


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
