"""What the ingress serves itself: the question Caddy asks before it has a certificate, and the state for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest


def asked(known: Callable[[str], bool]) -> web.Application:
    """Answers ``/ask?domain=…`` from memory: 200 for a host of ours, 404 for every other."""

    async def ask(request: web.Request) -> web.Response:
        domain = request.query.get("domain", "").lower().rstrip(".")
        return web.Response(status=200 if known(domain) else 404)

    application = web.Application()
    application.router.add_get("/ask", ask)
    return application


def admin(report: Callable[[], dict[str, Any]], registry: CollectorRegistry) -> web.Application:
    """Answers ``/routes``, ``/metrics`` and ``/healthz`` on a socket that only root can open."""

    async def routes(_: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(report()), content_type="application/json")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), content_type="text/plain", charset="utf-8")

    async def health(_: web.Request) -> web.Response:
        current = report()
        well = not current["problem"]
        return web.Response(status=200 if well else 503, text="in step\n" if well else f"{current['problem']}\n")

    application = web.Application()
    application.router.add_get("/routes", routes)
    application.router.add_get("/metrics", metrics)
    application.router.add_get("/healthz", health)
    return application
