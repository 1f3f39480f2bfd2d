"""The cluster's part of the admin interface: begin, join, leave; tokens; what is known of the other nodes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec
from aiohttp import web

from plugin import steady
from plugin.cluster.admission import Admission
from plugin.cluster.cluster import Cluster
from plugin.cluster.rotation import Rotation
from plugin.joining import tokens
from plugin.ranges import blocks
from plugin.resolver.table import reached
from plugin.store import mesh
from plugin.tunnel.roundtrip import round_trips
from stackpad import jsontext, records
from stackpad.errors import Conflict, InvalidRequest, NotFound, StackpadError
from stackpad.prefixes import Prefixes

Say = Callable[[str], None]
"""Told each step of something that takes long."""

LONGEST_TOKEN = 7 * 86400.0
"""Seconds."""


class NodeAdmin:
    """Handlers; the ones that take long answer with one JSON object per line, the last one with ``done`` or ``error``."""

    def __init__(self, cluster: Cluster, admission: Admission) -> None:
        self._cluster, self._admission, self._rotation = cluster, admission, Rotation(cluster)

    def add_to(self, application: web.Application) -> None:
        """Add the routes."""
        router = application.router
        router.add_get("/cluster", self._show)
        router.add_get("/services", self._services)
        router.add_post("/node/init", self._guarded(self._init))
        router.add_post("/node/join", self._told(self._join))
        router.add_post("/node/rotate-key", self._told(self._rotate))
        router.add_post("/node/leave", self._guarded(self._leave))
        router.add_post("/node/rm", self._guarded(self._remove))
        router.add_post("/node/token", self._guarded(self._token))
        router.add_get("/node/token", self._guarded(self._tokens))
        router.add_post("/node/token/rm", self._guarded(self._revoke))

    async def _show(self, request: web.Request) -> web.Response:
        cluster, membership = self._cluster, self._cluster.membership
        if membership is None:
            problems = [*cluster.problems, *filter(None, [self._admission.problem])]
            return _json({"member": False, "problems": problems})
        view, now = cluster.view, time.time()
        others = [
            node.mesh4 for node in view.nodes.values() if node.owner in view.alive and node.owner != membership.node
        ]
        # Only on demand: an echo wakes a tunnel that sleeps.
        taken = await round_trips(filter(None, others)) if "round-trip" in request.query else {}
        nodes = []
        for node in sorted(view.nodes.values(), key=lambda node: node.name):
            seen = cluster.mesh.seen(node.public_keys[0]) if node.public_keys else None
            nodes.append(
                {
                    "id": node.owner,
                    "name": node.name,
                    "self": node.owner == membership.node,
                    "alive": node.owner in view.alive,
                    "joining": node.owner not in view.alive and abs(now - node.joined) < records.LEASE,
                    "control": node.owner == membership.cluster.owner,
                    "engine": node.engine,
                    "version": node.version,
                    "public_key": node.public_keys[0] if node.public_keys else "",
                    "mesh": [text for text in (node.mesh4, node.mesh6) if text],
                    "endpoints": list(node.endpoints),
                    "blocks": [str(net) for net in mesh.held_by(view, node.owner, block=True)],
                    "ranges": [str(net) for net in mesh.held_by(view, node.owner, block=False)],
                    "networks": sum(network.owner == node.owner for network in view.networks.values()),
                    "endpoint": None if seen is None or seen.endpoint is None else "{}:{}".format(*seen.endpoint),
                    "handshake": None if seen is None or not seen.last_handshake else steady.now() - seen.last_handshake,
                    "received": None if seen is None else seen.received,
                    "sent": None if seen is None else seen.sent,
                    "round_trip": taken.get(node.mesh4),
                    "mtu": cluster.mesh.mtus.get(node.public_keys[0]) if node.public_keys else None,
                }
            )
        store = cluster.store
        return _json(
            {
                "member": True,
                "id": membership.cluster.id,
                "node": membership.node,
                "name": membership.name,
                "control": membership.control,
                "nat": membership.nat,
                "range4": membership.cluster.range4,
                "range6": membership.cluster.range6,
                "pools": blocks.pools(membership.blocks(4), membership.cluster.network_prefix),
                "pools6": blocks.pools(membership.blocks(6), membership.cluster.network_prefix),
                "wireguard": cluster.mesh.implementation,
                "store": {
                    "connected": store is not None and store.connected.is_set(),
                    "reason": store.reason if store is not None else "starting",
                },
                "nodes": nodes,
                "problems": cluster.problems,
            }
        )

    def parts(self, environment: str | None) -> list[dict[str, object]]:
        """What each node has published as its part of an environment, this one too: what all others judge by."""
        view = self._cluster.view
        return [
            {"node": part.owner, "subnets": list(part.subnets)}
            for part in view.networks.values()
            if environment and part.environment == environment
        ]

    async def _services(self, _: web.Request) -> web.Response:
        view = self._cluster.view
        names = {node.owner: node.name for node in view.nodes.values()}
        unreached = {node: Prefixes(nets) for node, nets in self._cluster.unreached.items()}
        endpoints: Iterable[records.Endpoint] = view.endpoints.values()
        if alone := self._cluster.membership is None:
            endpoints, names = self._cluster.presence.alone(), {"": ""}
        return _json(
            [
                {
                    "environment": endpoint.environment,
                    "names": list(endpoint.names),
                    "container": endpoint.container,
                    "node": names.get(endpoint.owner, endpoint.owner),
                    "alive": alone or endpoint.owner in view.alive,
                    "reached": bool(reached(endpoint, unreached.get(endpoint.owner)) or not endpoint.addresses),
                    "addresses": list(endpoint.addresses),
                    "ports": list(endpoint.ports),
                }
                for endpoint in endpoints
            ]
        )

    async def _init(self, given: dict[str, Any]) -> Any:
        await self._admission.init(_text(given, "name"))
        return {}

    async def _leave(self, _: dict[str, Any]) -> Any:
        return {"freed": await self._admission.leave()}

    async def _remove(self, given: dict[str, Any]) -> Any:
        return {"freed": await self._admission.remove(_text(given, "name"))}

    async def _token(self, given: dict[str, Any]) -> Any:
        lifetime = given.get("lifetime", tokens.LIFETIME)
        if not isinstance(lifetime, int | float) or not 1 <= lifetime <= LONGEST_TOKEN:
            raise InvalidRequest(f"a token is good for 1 second to {LONGEST_TOKEN / 86400:.0f} days")
        return {"token": await self._admission.token(float(lifetime)), "expires": time.time() + lifetime}

    async def _tokens(self, _: dict[str, Any]) -> Any:
        return self._admission.tokens()

    async def _revoke(self, given: dict[str, Any]) -> Any:
        self._admission.revoke(_text(given, "id"))
        return {}

    async def _join(self, given: dict[str, Any], say: Say) -> Any:
        await self._admission.join(_text(given, "token"), _text(given, "name"), say)
        return {}

    async def _rotate(self, given: dict[str, Any], say: Say) -> Any:
        done = await self._rotation.run(say, force=bool(given.get("force")))
        return {"silent": done.silent, "void": done.void}

    def _told(
        self, handler: Callable[[dict[str, Any], Say], Awaitable[Any]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """A handler that takes long, and says meanwhile what it does."""

        async def answer(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
            await response.prepare(request)
            lines: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

            async def work() -> None:
                try:
                    result = await handler(await _given(request), lambda text: lines.put_nowait({"say": text}))
                    lines.put_nowait({"done": True, **result})
                except StackpadError as error:
                    lines.put_nowait({"error": str(error)})
                finally:
                    lines.put_nowait(None)

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(work(), name=request.path)
                while (line := await lines.get()) is not None:
                    await response.write(msgspec.json.encode(line) + b"\n")
            await response.write_eof()
            return response

        return answer

    def _guarded(
        self, handler: Callable[[dict[str, Any]], Awaitable[Any]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(request: web.Request) -> web.Response:
            try:
                return _json(await handler(await _given(request)))
            except StackpadError as error:
                status = {NotFound: 404, Conflict: 409, InvalidRequest: 400}.get(type(error), 503)
                return web.Response(status=status, body=msgspec.json.encode({"error": str(error)}))

        return answer


async def _given(request: web.Request) -> dict[str, Any]:
    body = await request.read()
    try:
        given = jsontext.decode(body) if body else {}
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"the request is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise InvalidRequest("the request is not a JSON object")
    return given


def _text(given: dict[str, Any], name: str) -> str:
    value = given.get(name) or ""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} is not text")
    return value


def _json(value: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
