"""What runs on a node while it is in a cluster: the store and the way to it, the join service, metrics in the tunnel."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

from plugin.cluster.door import Door
from plugin.cluster.sites import Sites
from plugin.joining.guests import Guests
from plugin.joining.service import JoinService
from plugin.settings import Settings
from plugin.store import access, mesh
from plugin.store.loop import StoreLoop
from plugin.store.member import Member
from plugin.store.membership import Membership, Memory
from plugin.store.view import StoreView, Touched
from plugin.tunnel.loop import MeshLoop
from stackpad import records
from stackpad.errors import Unavailable


@dataclass(frozen=True, slots=True)
class StoreParts:
    """What the store's loop works on: see :class:`plugin.store.loop.StoreLoop`."""

    memory: Memory
    seen: StoreView
    own: Callable[[], Mapping[str, records.Record] | None]
    heard: Callable[[Touched], None]
    whole: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class JoinParts:
    """What the join service answers from: see :class:`plugin.joining.service.JoinService`."""

    membership: Callable[[], Membership]
    node: Callable[[], records.Node]
    guests: Guests


class Services:
    """All of them; ``store`` and ``member`` (the store that this node runs itself) are there while they run.

    ``exposition`` gives the metrics.
    """

    def __init__(
        self,
        settings: Settings,
        tunnel: MeshLoop,
        for_store: StoreParts,
        for_joins: JoinParts,
        exposition: Callable[[], bytes],
    ) -> None:
        self.store: StoreLoop | None = None
        self.member: Member | None = None
        self.running = asyncio.Event()
        self._settings, self._tunnel = settings, tunnel
        self._for_store, self._for_joins, self._exposition = for_store, for_joins, exposition
        self._sites = Sites()

    @property
    def problems(self) -> list[str]:
        """What cannot be served."""
        return [*self._sites.problems.values()]

    async def run(self, membership: Membership, changed: asyncio.Event) -> None:
        """Run what belongs to ``membership`` until ``changed``, which is cleared."""
        parts = self._for_store
        async with contextlib.AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            background = []
            own = None
            if membership.embeds(self._settings.store):
                member = await self._member(membership)
                own = member.url
                background.append(tasks.create_task(member.run(), name="etcd"))
                background.append(tasks.create_task(self._open_store(member, membership), name="store in tunnel"))
            etcd = await stack.enter_async_context(access.client(self._settings, membership, own))
            self.store = StoreLoop(etcd, parts.memory, parts.seen, membership.node, parts.own, parts.heard, parts.whole)
            background.append(tasks.create_task(self.store.run(), name="store"))
            await self._serve_joins(stack, membership, self.store)
            if self._settings.mesh_metrics:
                await self._serve_metrics(stack, membership)
            self.running.set()
            try:
                await changed.wait()
                changed.clear()
            finally:
                # Before the client that they use is closed, also at the end of the plugin.
                for task in background:
                    task.cancel()
                await asyncio.gather(*background, return_exceptions=True)
        self.running.clear()
        self.store = self.member = None

    async def wait_for_store(self, seconds: float) -> None:
        """Wait until the store has answered; raises :class:`Unavailable` with the reason if it does not."""
        try:
            async with asyncio.timeout(seconds):
                await self.running.wait()
                if self.store is not None:
                    await self.store.connected.wait()
        except TimeoutError as error:
            reason = (self.store.reason if self.store is not None else self._tunnel.problem) or "it is still starting"
            raise Unavailable(
                f"in the cluster, but its store does not answer yet: {reason}; stackpad status shows when it does"
            ) from error

    async def _member(self, membership: Membership) -> Member:
        """The embedded store; in the tunnel as well, if that has its address by now."""
        with contextlib.suppress(Unavailable):
            await self._tunnel.wait_settled()
        settings = self._settings
        listen = access.in_tunnel(membership) if self._tunnel.settled.is_set() else ()
        self.member = Member(settings.store_directory, settings.store_sockets, listen=listen, name=membership.node)
        return self.member

    async def _open_store(self, member: Member, membership: Membership) -> None:
        """Serve the store in the tunnel, as soon as there is one."""
        await self._tunnel.settled.wait()
        member.listen(access.in_tunnel(membership))

    async def _serve_joins(self, stack: contextlib.AsyncExitStack, membership: Membership, store: StoreLoop) -> None:
        parts = self._for_joins
        addresses = self._settings.store or membership.store or access.in_tunnel(membership)
        service = JoinService(
            parts.membership,
            parts.node,
            self._for_store.seen.view,
            parts.guests,
            store,
            addresses,
            self._tunnel.seen_at,
        )
        door = Door(lambda address: parts.guests.has(address, time.time()))
        await self._sites.serve(stack, service.application(), membership.mesh4, mesh.JOIN_PORT, door)

    async def _serve_metrics(self, stack: contextlib.AsyncExitStack, membership: Membership) -> None:
        async def expose(_: web.Request) -> web.Response:
            return web.Response(body=self._exposition(), content_type="text/plain", charset="utf-8")

        application = web.Application()
        application.router.add_get("/metrics", expose)
        await self._sites.serve(stack, application, membership.mesh4, mesh.METRICS_PORT)
