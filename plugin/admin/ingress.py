"""The ingress's own way to the plugin: of the admin interface what an ingress asks, on a socket of its own.

The admin socket can make this node leave its cluster and let others in. The ingress answers strangers, and has no part in
that. Here are the same handlers, by a list: what is added to the admin interface is not here until it is listed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp.typedefs import Handler

from plugin.sockets import Listener
from stackpad import crowd

MOST = 32
"""Connections at a time; an ingress has two that stay and a few that do not."""

BODIES = 4
"""Bodies at a time, of which one may have tens of megabytes; the next call waits until one of these is answered."""

FOR_INGRESS = frozenset(
    {
        ("GET", "/web"),
        ("PUT", "/web"),
        ("POST", "/web/hosts"),
        ("GET", "/upstreams"),
        ("PUT", "/upstreams"),
        ("PATCH", "/upstreams"),
        # Read only, for the status page.
        ("GET", "/networks"),
        ("GET", "/services"),
    }
)
"""Methods and paths."""


def narrowed(whole: web.Application) -> web.Application:
    """An application with those of ``whole``'s routes that are the ingress's; it is told of a stop as ``whole`` is."""
    bodies = asyncio.Semaphore(BODIES)

    @web.middleware
    async def few(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method == "GET":
            return await handler(request)  # nobody reads a body of it
        async with bodies:
            return await handler(request)

    application = web.Application(middlewares=[few])
    for route in whole.router.routes():
        path = "" if route.resource is None else route.resource.canonical
        if (route.method, path) in FOR_INGRESS:
            application.router.add_route(route.method, path, route.handler)
    application.on_shutdown.extend(whole.on_shutdown)
    return application


@contextlib.asynccontextmanager
async def served(application: web.Application, listener: Listener, patience: float) -> AsyncIterator[None]:
    """Serve it to :data:`MOST` connections at a time; at the end, calls in flight have ``patience`` (seconds)."""
    # Whoever goes away while a call waits for the kernel does not keep others waiting for his body.
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=patience, handler_cancellation=True)
    await runner.setup()
    try:
        assert runner.server is not None  # noqa: S101 - it is set up
        connected = crowd.bounded(runner.server, MOST, "the plugin's socket for the ingress", access_log=None)
        site = await asyncio.get_running_loop().create_unix_server(connected, sock=listener.socket)
        try:
            yield
        finally:
            site.close()
    finally:
        await runner.cleanup()
