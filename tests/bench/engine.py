"""An engine of which only the answers are there: thousands of web containers that cost nothing, for a real ingress.

It answers what the ingress asks (`/version`, the lists, an inspection, the stream of events) on a unix socket. All its
containers are one server on loopback. What is measured with it is the ingress and Caddy, never an engine.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aiohttp import web

BASE = "stackpad.test"
NETWORK = {"Id": "n" * 64, "Name": "shop-production", "Driver": "stackpad"}
MADE = "2026-01-01T00:00:00.0Z"
ORGANISATIONS = 100


def host(number: int) -> str:
    """The name that container ``number`` is served at."""
    return f"p{number}.org-{number % ORGANISATIONS}.{BASE}"


class SyntheticEngine:
    """The engine; ``port`` is where all its containers listen."""

    def __init__(self, socket: Path, port: int) -> None:
        self.socket, self._port = socket, port
        self.networks: list[dict[str, Any]] = [NETWORK]
        self._containers: dict[str, dict[str, Any]] = {}
        self._listeners: set[asyncio.Queue[bytes]] = set()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> SyntheticEngine:
        """Listen."""
        application = web.Application()
        application.router.add_get("/version", self._version)
        # Clients put the version of the interface before every other path, and some before this one.
        application.router.add_get("/{version}/version", self._version)
        application.router.add_get("/{version}/networks", self._networks)
        application.router.add_get("/{version}/containers/json", self._list)
        application.router.add_get("/{version}/containers/{id}/json", self._inspect)
        application.router.add_get("/{version}/events", self._events)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self.socket)).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        assert self._runner is not None
        await self._runner.cleanup()

    @property
    def count(self) -> int:
        """How many containers there are."""
        return len(self._containers)

    def add(self, numbers: Iterable[int], *, checked: bool = True, domains: str = "") -> list[str]:
        """Containers that run; ``checked`` have a health check that has passed. Nobody is told; returns their ids."""
        made = []
        for number in numbers:
            container = _container(number, self._port, checked=checked)
            if domains:
                container["Config"]["Labels"]["stackpad.domains"] = domains
            self._containers[container["Id"]] = container
            made.append(container["Id"])
        return made

    def take(self, container: dict[str, Any]) -> None:
        """One that is not of the load's kind; nobody is told."""
        self._containers[container["Id"]] = container

    def remove(self, ids: Iterable[str]) -> None:
        """End and remove containers, and tell so."""
        for container_id in ids:
            for action in ("die", "destroy"):
                self.tell(container_id, action)
            del self._containers[container_id]

    def tell(self, container_id: str, action: str) -> None:
        """Send an event."""
        attributes = {**self._containers[container_id]["Config"]["Labels"], "name": f"c-{container_id[:12]}"}
        event = {
            "Type": "container",
            "Action": action,
            "Actor": {"ID": container_id, "Attributes": attributes},
            "timeNano": time.time_ns(),
        }
        for listener in self._listeners:
            listener.put_nowait(json.dumps(event).encode() + b"\n")

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"Version": "28.0.0", "ApiVersion": "1.41", "MinAPIVersion": "1.24"})

    async def _networks(self, _: web.Request) -> web.Response:
        return web.json_response(self.networks)

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response([_entry(one) for one in self._containers.values()])

    async def _inspect(self, request: web.Request) -> web.Response:
        found = self._containers.get(request.match_info["id"])
        return (
            web.json_response({"message": "no such container"}, status=404) if found is None else web.json_response(found)
        )

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        mine: asyncio.Queue[bytes] = asyncio.Queue()
        self._listeners.add(mine)
        try:
            while True:
                await response.write(await mine.get())
        except ConnectionResetError:
            pass  # nobody listens any more
        finally:
            self._listeners.discard(mine)
        return response


def _container(number: int, port: int, *, checked: bool) -> dict[str, Any]:
    labels = {
        "stackpad.type": "web",
        "stackpad.port": str(port),
        "stackpad.project": f"p{number}",
        "stackpad.org": f"org-{number % ORGANISATIONS}",
    }
    attached = {NETWORK["Name"]: {"NetworkID": NETWORK["Id"], "IPAddress": "127.0.0.1", "EndpointID": f"{number:064x}"}}
    state: dict[str, Any] = {"Status": "running", "Running": True, "StartedAt": MADE}
    return {
        "Id": f"{number:064x}",
        "Name": f"/web-{number}",
        "Created": MADE,
        "Config": {"Labels": labels},
        "State": {**state, **({"Health": {"Status": "healthy"}} if checked else {})},
        "NetworkSettings": {"Networks": attached},
    }


def _entry(container: dict[str, Any]) -> dict[str, Any]:
    """As the list has it."""
    return {
        "Id": container["Id"],
        "Names": [container["Name"]],
        "Labels": container["Config"]["Labels"],
        "State": "running",
        "Status": "Up 2 hours (healthy)" if "Health" in container["State"] else "Up 2 hours",
        "NetworkSettings": container["NetworkSettings"],
    }
