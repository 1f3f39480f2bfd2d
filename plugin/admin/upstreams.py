"""The table of stable upstreams on the admin socket: said by the ingress, answered when the kernel has it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec
import structlog
from aiohttp import web

from plugin import upstreams
from plugin.kernel.parts import upstream_key
from plugin.kernel.reconciler import Reconciler
from plugin.state import State
from plugin.upstreams import Target
from stackpad.errors import InvalidRequest, StackpadError

LARGEST = 16 << 20
"""Bytes: every number with a handful of addresses."""


class UpstreamAdmin:
    """Answers ``/upstreams``: ``PUT`` has the whole table, ``PATCH`` changes of it, ``GET`` shows it."""

    def __init__(self, state: State, reconciler: Reconciler) -> None:
        self._state, self._reconciler = state, reconciler
        self._turn = asyncio.Lock()
        self._unsettled: set[int] = set()
        self._log = structlog.get_logger("upstreams")

    def add_to(self, application: web.Application) -> None:
        """Add the routes."""
        application.router.add_get("/upstreams", self._show)
        application.router.add_put("/upstreams", self._take)
        application.router.add_patch("/upstreams", self._take)

    async def _show(self, _: web.Request) -> web.Response:
        endpoints = self._state.endpoints
        return _json(
            200,
            {
                str(number): [
                    {"address": str(target), "network": target.network, "endpoint": target.endpoint,
                     "there": not target.endpoint or target.endpoint in endpoints}
                    for target in targets
                ]
                for number, targets in sorted(self._state.upstreams.items())
            },
        )  # fmt: skip

    async def _take(self, request: web.Request) -> web.Response:
        try:
            body = await request.clone(client_max_size=LARGEST).read()
            # One after the other: what is said last holds, and each answer is about what its own question said.
            async with self._turn:
                await (self.replace(body) if request.method == "PUT" else self.change(body))
        except web.HTTPRequestEntityTooLarge:
            return _json(413, {"error": f"a table of upstreams has at most {LARGEST} bytes"})
        except InvalidRequest as error:
            return _json(400, {"error": str(error)})
        except StackpadError as error:
            self._log.warning("upstreams not settled", reason=str(error))
            return _json(503, {"error": str(error)})
        return _json(200, {"numbers": len(self._state.upstreams)})

    async def replace(self, body: bytes) -> None:
        """Have this table, and return when the kernel does; raises :class:`StackpadError`."""
        asked = upstreams.read(body)
        await self._settle({**dict.fromkeys(self._state.upstreams.keys() - asked.keys()), **asked})

    async def change(self, body: bytes) -> None:
        """Have these numbers lead there, and return when the kernel does; raises :class:`StackpadError`."""
        await self._settle(upstreams.read_changes(body))

    async def _settle(self, asked: Mapping[int, tuple[Target, ...] | None]) -> None:
        await self._reconciler.ready.wait()
        kept = {number: targets for number, targets in asked.items() if targets is not None}
        bound = upstreams.bind(kept, self._state.endpoints.values())
        changes = {number: bound.get(number) for number in asked}
        before = {number: self._state.upstreams.get(number) for number in asked}
        failed = self._reconciler.failures
        due = {n for n, to in changes.items() if to != before[n] or n in self._unsettled or upstream_key(n) in failed}
        # Whoever goes away in the middle of this leaves it to the next one.
        self._unsettled |= due
        await self._state.put_upstreams(changes)
        await self._reconciler.settle_upstreams(due)
        self._unsettled -= due


def _json(status: int, value: object) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")
