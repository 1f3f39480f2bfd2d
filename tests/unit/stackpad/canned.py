"""A real HTTP server on a unix socket, in a thread of its own, that answers with what a test puts into it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

STATUS: dict[str, Any] = {
    "ready": True,
    "started": 1_000_000.0,
    "engine": "28.5.2",
    "networks": 2,
    "endpoints": 3,
    "range": "10.192.0.0/10",
    "range6": "fd12:3456:789a::/48",
    "mtu": 1500,
    "addresses": ["192.0.2.10", "2001:db8::10"],
    "repairs": 0,
    "problems": [],
    "something_new": {"of": "a later version"},
}

NETWORKS: list[dict[str, Any]] = [
    {
        "id": "94e8d85bf90a" + "0" * 52,
        "name": "my-app-production",
        "environment": "my-app-production",
        "bridge": "sp-94e8d85bf90a",
        "subnets": ["10.192.0.0/26", "fd12:3456:789a::/64"],
        "gateways": ["10.192.0.1/26", "fd12:3456:789a::1/64"],
        "internal": False,
        "egress": True,
        "mtu": 1500,
        "endpoints": [
            {
                "id": "aa" * 32,
                "container": "web",
                "addresses": ["10.192.0.2", "fd12:3456:789a::2"],
                "mac": "02:50:0a:c0:00:02",
                "lost": False,
            },
            {"id": "bb" * 32, "container": None, "addresses": ["10.192.0.3"], "mac": "02:50:0a:c0:00:03", "lost": True},
        ],
        "problem": None,
    },
    {
        "id": "130dee79645c" + "0" * 52,
        "name": None,
        "environment": None,
        "bridge": "sp-130dee79645c",
        "subnets": ["10.192.0.64/26"],
        "gateways": [],
        "internal": True,
        "egress": False,
        "mtu": 1400,
        "endpoints": [],
        "problem": "nft refused a change of the firewall",
    },
]

PORTS: list[dict[str, Any]] = [
    {
        "protocol": "tcp",
        "host_address": None,
        "host_port": 8080 + number,
        "container_port": 80 + number,
        "addresses": ["10.192.0.2", "fd12:3456:789a::2"],
        "container": "web",
        "network": "my-app-production",
        "endpoint": "aa" * 32,
    }
    for number in range(3)
]

ROUTES: dict[str, Any] = {
    "problem": None,
    "stale": False,
    "routes": [
        {
            "host": "my-app.acme.stackpad.test",
            "path": "/",
            "owner": "acme/my-app/production",
            "service": "web",
            "state": "up",
            "reason": None,
            "upstreams": ["10.192.0.2:80"],
            "since": 1_000_000.0,
        },
        {
            "host": "my-app.acme.stackpad.test",
            "path": "/api",
            "owner": "acme/my-app/production",
            "service": "api",
            "state": "down",
            "reason": None,
            "upstreams": [],
            "since": 1_000_000.0,
        },
    ],
    "problems": [],
}


@contextmanager
def served(socket: Path, answers: dict[str, Any]) -> Iterator[Path]:
    """Serve ``answers`` by path: text as it is, ``int`` as a status without a body, everything else as JSON."""

    async def answer(request: web.Request) -> web.Response:
        found = answers.get(request.path, 404)
        if isinstance(found, int):
            return web.Response(status=found)
        return web.Response(text=found if isinstance(found, str) else json.dumps(found))

    def application() -> web.Application:
        made = web.Application()
        made.router.add_route("*", "/{path:.*}", answer)
        return made

    with hosted(socket, application) as path:
        yield path


@contextmanager
def hosted(socket: Path, application: Callable[[], web.Application]) -> Iterator[Path]:
    """Serve an application, which is made on the event loop it runs on."""
    loop = asyncio.new_event_loop()
    started = threading.Event()

    async def start() -> web.AppRunner:
        runner = web.AppRunner(application())
        await runner.setup()
        await web.UnixSite(runner, str(socket)).start()
        return runner

    def run() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        started.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(10)
    try:
        yield socket
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
