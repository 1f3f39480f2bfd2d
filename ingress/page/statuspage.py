"""Serves the status page: to whoever may open its socket and, where the operator says so, on a loopback port.

It only reads. Whom a request says it is for is looked at on both ways, so that no site somewhere else can have a browser
on this machine fetch it under that site's name; and a page of tenants' words runs nobody's script but its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections.abc import Callable
from importlib import resources

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from ingress.page.markup import page, parts
from ingress.page.overview import LONGEST_QUERY, Overview, PluginWord, overview
from ingress.page.plugindesk import PluginDesk
from ingress.report import Facts

EVERY = 1.0
"""Seconds between two looks for somebody who watches."""

SHARE = 5
"""How many times as long as it took to make a page nobody gets another one: pages are not what this process is for."""

ASK_EVERY = 2.0
"""Seconds for which the plugin's answer is good."""

ALIVE = 15.0
"""Seconds after which a viewer is sent something also where nothing has changed."""

MOST_VIEWERS = 20

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
ASSETS = {"page.css": "text/css", "page.js": "text/javascript"}


class StatusPage:
    """The page of one ingress; ``facts`` are asked for anew each time."""

    def __init__(self, facts: Callable[[], Facts], plugin: PluginDesk, base_domain: str) -> None:
        self._facts, self._plugin, self._base_domain = facts, plugin, base_domain
        self._turn = asyncio.Lock()
        self._next = 0.0
        self._word: tuple[float, PluginWord] | None = None
        self._viewers = 0

    def application(self) -> web.Application:
        """What is to be served, once for each place."""
        application = web.Application(middlewares=[_named])
        ended = asyncio.Event()

        async def events(request: web.Request) -> web.StreamResponse:
            return await self._events(request, ended)

        async def end(_: web.Application) -> None:
            ended.set()

        application.router.add_get("/", self._page)
        application.router.add_get("/events", events)
        for name, kind in ASSETS.items():
            application.router.add_get(f"/{name}", _asset(name, kind))
        application.on_response_prepare.append(_guard)
        application.on_shutdown.append(end)
        return application

    async def _page(self, request: web.Request) -> web.Response:
        view = await self._view(_query(request))
        return web.Response(text=page(view, parts(view)), content_type="text/html")

    async def _events(self, request: web.Request, ended: asyncio.Event) -> web.StreamResponse:
        if self._viewers >= MOST_VIEWERS:
            return web.Response(status=503, text=f"{MOST_VIEWERS} are watching already\n")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        self._viewers += 1
        try:
            # Who goes away without a word is noticed when something is written.
            with contextlib.suppress(ConnectionError):
                await response.prepare(request)
                await self._watch(response, _query(request), ended)
        finally:
            self._viewers -= 1
        return response

    async def _watch(self, response: web.StreamResponse, query: str, ended: asyncio.Event) -> None:
        sent: dict[str, str] = {}
        said = time.monotonic()
        await response.write(b"retry: 2000\n\n")
        while not ended.is_set():
            now = parts(await self._view(query))
            changed = [(name, content) for name, content in now.items() if sent.get(name) != content]
            for item in changed:
                await response.write(b"event: part\ndata: " + msgspec.json.encode(item) + b"\n\n")
            sent = now
            if changed or time.monotonic() - said > ALIVE:
                said = time.monotonic()
                await response.write(b":\n\n")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await ended.wait()

    async def _view(self, query: str) -> Overview:
        """What is shown now, when it is its turn."""
        async with self._turn:
            await asyncio.sleep(max(0.0, self._next - time.monotonic()))
            word = await self._plugins_word()
            began = time.monotonic()
            # Ten thousand hosts take a fifth of a second, in which Caddy must not wait for an answer about a certificate.
            view = await asyncio.to_thread(overview, self._facts(), word, base_domain=self._base_domain, query=query)
            done = time.monotonic()
            self._next = done + SHARE * (done - began)
            return view

    async def _plugins_word(self) -> PluginWord:
        now = time.monotonic()
        if self._word is None or now - self._word[0] > ASK_EVERY:
            self._word = (now, await self._plugin.word())
        return self._word[1]


def is_local(host: str) -> bool:
    """Whether the header ``Host`` names this machine as only somebody on it can mean it; a name is somebody else's."""
    name, bracket, _ = host.partition("]")
    name = name.removeprefix("[") if bracket else host.partition(":")[0]
    if name.lower() in {"", "localhost"}:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@web.middleware
async def _named(request: web.Request, handler: Handler) -> web.StreamResponse:
    if not is_local(request.headers.get("Host", "")):
        return web.Response(status=421, text="this page is asked for as localhost or 127.0.0.1 only\n")
    return await handler(request)


async def _guard(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


def _query(request: web.Request) -> str:
    return request.query.get("q", "")[:LONGEST_QUERY]


def _asset(name: str, kind: str) -> Handler:
    body = resources.files("ingress.page").joinpath("assets", name).read_bytes()

    async def asset(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8")

    return asset
