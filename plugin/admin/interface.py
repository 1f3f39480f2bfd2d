"""What the command line is told: a small HTTP interface on a socket that only root can open."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from aiohttp import web

from plugin import privileges
from plugin.admin.node import NodeAdmin
from plugin.admin.upstreams import UpstreamAdmin
from plugin.admin.web import WebAdmin
from plugin.kernel.reconciler import Reconciler
from plugin.local.directory import Directory
from plugin.metrics import Metrics
from plugin.settings import Settings
from plugin.state import State


class Admin:
    """Answers ``/status``, ``/networks``, ``/ports``, ``/metrics`` and ``/healthz``, and what its parts add."""

    def __init__(
        self,
        settings: Settings,
        state: State,
        reconciler: Reconciler,
        directory: Directory,
        metrics: Metrics,
        nodes: NodeAdmin,
        web_admin: WebAdmin,
        upstreams: UpstreamAdmin,
    ) -> None:
        self._nodes, self._parts = nodes, (web_admin, upstreams)
        self._settings, self._state, self._reconciler = settings, state, reconciler
        self._directory, self._metrics = directory, metrics
        self._started = time.time()
        self.problems: list[str] = []

    def application(self) -> web.Application:
        """The application to be served on the admin socket."""
        application = web.Application()
        application.router.add_get("/status", self._status)
        application.router.add_get("/networks", self._networks)
        application.router.add_get("/ports", self._ports)
        application.router.add_get("/metrics", self._exposition)
        application.router.add_get("/healthz", self._health)
        self._nodes.add_to(application)
        for part in self._parts:
            part.add_to(application)
        return application

    async def _status(self, _: web.Request) -> web.Response:
        facts = self._reconciler.facts
        return _json(
            {
                "ready": self._reconciler.ready.is_set(),
                "started": self._started,
                "engine": self._directory.engine_version,
                "networks": len(self._state.networks),
                "endpoints": len(self._state.endpoints),
                "range": str(self._settings.range4),
                "range6": str(self._settings.range6 or self._state.unique_local_range),
                "mtu": self._reconciler.mtu,
                "addresses": sorted(map(str, facts.addresses)),
                "repairs": self._reconciler.repairs,
                "privileges": privileges.own(),
                "problems": self.problems
                + [
                    f"{key if ' ' in key else f'network {key[:12]}'}: {reason}"
                    for key, reason in self._reconciler.failures.items()
                ],
            }
        )

    async def _networks(self, _: web.Request) -> web.Response:
        return _json(
            [
                {
                    "id": network.id,
                    "name": self._directory.network_name(network.id),
                    "environment": network.environment or self._directory.network_name(network.id),
                    "bridge": network.bridge,
                    "subnets": [subnet.pool for subnet in network.subnets],
                    "gateways": [subnet.gateway for subnet in network.subnets if subnet.gateway],
                    "internal": network.internal,
                    "egress": network.egress and not network.internal,
                    "mtu": network.mtu or self._reconciler.mtu,
                    "endpoints": [
                        {
                            "id": endpoint.id,
                            "container": self._directory.container_name(endpoint.id),
                            "addresses": [str(ip) for ip in endpoint.addresses],
                            "mac": endpoint.mac,
                            "lost": endpoint.id in self._reconciler.lost,
                        }
                        for endpoint in self._state.endpoints_of(network.id)
                    ],
                    "problem": self._reconciler.failures.get(network.id),
                    "remote": sorted(map(str, self._reconciler.remote(network.id))),
                    "parts": self._nodes.parts(network.environment),
                }
                for network in self._state.networks.values()
            ]
        )

    async def _ports(self, _: web.Request) -> web.Response:
        return _json(
            [
                {
                    "protocol": port.protocol,
                    "host_address": port.host_address,
                    "host_port": port.host_port,
                    "container_port": port.container_port,
                    "addresses": [str(ip) for ip in endpoint.addresses],
                    "container": self._directory.container_name(endpoint.id),
                    "network": self._directory.network_name(endpoint.network_id),
                    "endpoint": endpoint.id,
                }
                for endpoint in self._state.endpoints.values()
                for port in endpoint.ports
            ]
        )

    async def _exposition(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.exposition(), content_type="text/plain", charset="utf-8")

    async def _health(self, _: web.Request) -> web.Response:
        ready = self._reconciler.ready.is_set()
        return web.Response(status=200 if ready else 503, text="ready\n" if ready else "not reconciled yet\n")


def _json(value: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
