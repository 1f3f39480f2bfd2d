"""Keeps tunnel, routes and rules as the cluster's records say.

Runs a round whenever something has changed, and one now and then to see how the peers are: a peer that does not answer
at one address is called at the next. Everything goes through the planners of :mod:`plugin.store.mesh` and
:mod:`plugin.wireguard.model`; a round that finds all as it should be writes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog

from plugin import steady
from plugin.kernel.overlay import Overlay
from plugin.kernel.reconciler import Reconciler
from plugin.kernel.tunnel import Tunnel, resolvers
from plugin.kernel.writer import Kernel
from plugin.model import IPNet
from plugin.naming import MESH_LINK
from plugin.state import State
from plugin.store import mesh
from plugin.tunnel import wants
from plugin.tunnel.calls import Calls
from plugin.tunnel.fence import Fence
from plugin.tunnel.pace import Pace
from plugin.tunnel.paths import Paths
from plugin.tunnel.sightings import Sightings
from plugin.tunnel.wants import Wanted
from plugin.wireguard.backend import Backend
from plugin.wireguard.handshakes import Handshakes
from plugin.wireguard.model import Address, Device, Observed, PeerChange, PeerState
from plugin.wireguard.model import plan as wireguard_plan
from stackpad import records
from stackpad.errors import StackpadError, Unavailable

LOOK = 1.0
"""Seconds between two looks at the peers."""

CHECK = 5.0
"""Seconds between two looks at addresses and routes."""

SHARE = 0.003
"""The part of a processor that each of the two may take: among hundreds of nodes they come less often."""

SELDOM = 30.0
"""Most seconds between two of either."""

SOON = 5.0
"""Seconds the tunnel may take to be set up."""


class MeshLoop:
    """The loop. ``wanted`` gives what should be, ``None`` for no tunnel at all."""

    def __init__(
        self,
        kernel: Kernel,
        reconciler: Reconciler,
        state: State,
        backend: Callable[[], Awaitable[Backend]],
        wanted: Callable[[], Wanted | None],
        sightings: Sightings,
        fence: Fence,
    ) -> None:
        self.observed: Observed | None = None
        self.routes: frozenset[IPNet] = frozenset()
        self.problem = ""
        self.contested: tuple[str, ...] = ()
        self.unreached: Mapping[str, frozenset[IPNet]] = {}
        self.unreached_changed: Callable[[], None] = lambda: None
        self.implementation = ""
        self.settled = asyncio.Event()
        self._kernel, self._reconciler, self._state = kernel, reconciler, state
        self._backend, self._wanted = backend, wanted
        self._wake = asyncio.Event()
        self._fence = fence
        self._calls, self._paths = Calls(sightings), Paths(kernel)
        self._handshakes = Handshakes()
        self._looks, self._checks = Pace(LOOK, SELDOM, SHARE), Pace(CHECK, SELDOM, SHARE)
        self._due = self._check_at = self._checked = 0.0
        self._applied: Tunnel | None = None
        self._left: frozenset[IPNet] = frozenset()
        self._left_of: tuple[frozenset[IPNet], tuple[records.Range, ...]] | None = None
        self._mtu: int | None = None
        self._log = structlog.get_logger("mesh")

    def touch(self) -> None:
        """The records, the guests or this node's networks have changed."""
        self.settled.clear()
        self._wake.set()

    def route_gone(self, net: IPNet) -> None:
        """A route into the tunnel was removed: put it back, unless that was our own doing.

        At once, but not more often than once a look: who removes it again and again has us do no more than that.
        """
        if self._applied is None or not (net in self._applied.routes or net in self._applied.fenced):
            return
        self._check_at = min(self._check_at, self._checked + LOOK)
        if time.monotonic() > self._check_at:
            self._wake.set()

    async def wait_settled(self) -> None:
        """Wait until all is as it should be; raises :class:`Unavailable` with the reason if it is not soon."""
        try:
            async with asyncio.timeout(SOON):
                await self.settled.wait()
        except TimeoutError as error:
            reason = self.problem or "the kernel takes longer than usual; try again"
            raise Unavailable(f"the tunnel could not be set up: {reason}") from error

    def last_handshake(self, key: str) -> float:
        """When the last handshake with a public key was (:func:`plugin.steady.now`); 0 if there was none."""
        seen = self.seen(key)
        return 0.0 if seen is None else seen.last_handshake

    async def seen_at(self, key: str) -> str:
        """The address outside of the tunnel at which a peer is seen now; empty if it is not.

        Looked up anew: who has just come was not there yet at the last look.
        """
        seen = (await (await self._backend()).observe()).peers.get(key)
        return "" if seen is None or seen.endpoint is None else seen.endpoint[0]

    @property
    def heard(self) -> Mapping[str, Address]:
        """Where other nodes were heard last, by id; also before this process."""
        return self._calls.heard

    @property
    def mtus(self) -> Mapping[str, int]:
        """What each peer is sent at most, in bytes, by public key."""
        return self._paths.mtus

    def seen(self, key: str) -> PeerState | None:
        """A peer by its public key, as last observed, and counted from before it began anew."""
        state = None if self.observed is None else self.observed.peers.get(key)
        return None if state is None else self._calls.whole(key, state)

    async def run(self) -> None:
        """Go round until cancelled."""
        await self._calls.load()
        while True:
            self._wake.clear()
            began = time.process_time()
            try:
                await self._round()
            except (StackpadError, OSError) as error:
                reason = str(error) if isinstance(error, StackpadError) else f"the tunnel could not be looked at: {error}"
                if reason != self.problem:
                    self._log.error("the mesh is not as it should be", reason=reason)
                self.problem = reason
                self._applied, self._due = None, 0.0
            else:
                self.problem = ""
                if not self._wake.is_set():
                    self.settled.set()
            pause = self._looks.after(time.process_time() - began)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(pause, self._due - steady.now()) if self._due else pause):
                    await self._wake.wait()

    async def _round(self) -> None:
        wanted = self._wanted()
        self._due = 0.0 if wanted is None else wanted.due
        if wanted is None:
            if self.observed is not None:
                await self._take_down()
            self._reconciler.overlay(self._overlay(None, None))
            return
        await self._look_around(wanted)
        if self._applied is None or not wanted.fenced - self._left <= self._applied.fenced:
            # Whether there can be a tunnel or not: what belongs into it is not to take another way.
            await self._kernel.fence_tunnel(self._tunnel(wanted, {}))
            self._reconciler.overlay(self._overlay(wanted, self._mtu))
        backend = await self._backend()
        self.implementation = backend.name
        made = await backend.ensure(MESH_LINK, self._device_mtu())
        observed = await self._observe(backend)
        told = self._calls.choose(wanted, observed, made=made)
        if told.again:
            self._wake.set()
        if told.ended.due:
            self._due = min(self._due or told.ended.due, told.ended.due)
        device, before = Device(wanted.private_key, wanted.port, told.peers), observed
        changes = wireguard_plan(device, observed, told.configured, told.ended.anew)
        if changes:
            await backend.apply(changes)
            if not changes.changed or any(_moves(change, before) for change in changes.changed):
                self._paths.moved()
            observed = await self._observe(backend)
        self._calls.told(told, wanted, before, observed)
        self.observed = observed
        await self._calls.keep()
        await self._paths.measure(observed)
        mtus = self._paths.by_range(wanted.plan, self._device_mtu())
        self.routes = wanted.plan.routes
        tunnel = self._tunnel(wanted, mtus)
        if made or tunnel != self._applied or time.monotonic() > self._check_at:
            await self._apply(tunnel)
        self._mtu = min([*mtus.values(), self._device_mtu()])
        self._reconciler.overlay(self._overlay(wanted, self._mtu))

    async def _observe(self, backend: Backend) -> Observed:
        looked = steady.now()
        return self._handshakes.translated(await backend.observe(), looked)

    async def _look_around(self, wanted: Wanted) -> None:
        """See which of the others' ranges are this node's own already, as other programs' networks are."""
        judged = wanted.plan.routes, wanted.left
        if self._left_of == judged and self._applied is not None and time.monotonic() <= self._check_at:
            return
        others = (*wanted.plan.peers.values(), *wanted.plan.keyless)
        found = wants.contested(others, wanted.cluster, await self._kernel.routes())
        self._left, self._left_of = found.left, judged
        problems = (*wanted.refused, *found.problems)
        for problem in set(problems) - set(self.contested):
            self._log.warning(problem)
        self.contested = problems
        self._not_reached(wants.unreached(wanted, found.left))

    def _not_reached(self, unreached: Mapping[str, frozenset[IPNet]]) -> None:
        if unreached != self.unreached:
            self.unreached = unreached
            self.unreached_changed()

    def _tunnel(self, wanted: Wanted, mtus: Mapping[IPNet, int]) -> Tunnel:
        addresses = wanted.plan.addresses
        routes = {net: mtu for net, mtu in mtus.items() if net not in self._left}
        loopback = resolvers() | addresses if wanted.fenced else frozenset()
        return Tunnel(self._device_mtu(), addresses, routes, wanted.fenced - self._left, loopback)

    async def _apply(self, tunnel: Tunnel) -> None:
        began = time.process_time()
        self._applied = None
        await self._kernel.apply_tunnel(tunnel)
        self._applied = tunnel
        self._checked = time.monotonic()
        self._check_at = self._checked + self._checks.after(time.process_time() - began)

    def _overlay(self, wanted: Wanted | None, mtu: int | None) -> Overlay:
        former = self._fence.closed(self._state.networks)
        if wanted is None:
            return Overlay(wants.closed(former))
        plan = wanted.plan
        named = [network for network in self._state.networks.values() if network.environment]
        remote = {network.id: plan.remote.get(network.environment, frozenset()) for network in named}
        barred = {network.id: wanted.barred.get(network.environment, frozenset()) for network in named}
        beyond = frozenset().union(*plan.remote.values())
        elements = plan.elements | wants.closed(wanted.cluster | former)
        return Overlay(elements, remote, beyond, mtu, mesh.OVERHEAD, barred)

    async def prime(self) -> None:
        """Before anything else: tell the reconciler what is known from the last time, and close every way but the tunnel.

        Otherwise a restart would take the other nodes' ranges out of the rules for a moment, and a container that comes
        up with the engine could send before there is a tunnel.
        """
        wanted = self._wanted()
        self._reconciler.overlay(self._overlay(wanted, None))
        if wanted is None:
            return
        try:
            await self._look_around(wanted)
            await self._kernel.fence_tunnel(self._tunnel(wanted, {}))
        except StackpadError as error:
            # The rules close the same ways, and each round tries again.
            self._log.error("no fence yet", reason=str(error))

    async def _take_down(self) -> None:
        """This node is in no cluster any more.

        The resolver's address stays until the next reboot: Docker's ``daemon.json`` names it, and what containers ask
        there would otherwise leave by the default route, and wait for a time-out each time.
        """
        self.contested, self._mtu = (), None
        self._not_reached({})
        await (await self._backend()).remove()
        await self._apply(Tunnel(0, loopback=resolvers()))
        self.observed = None
        await self._calls.clear()

    def _device_mtu(self) -> int:
        return mesh.mtu(self._reconciler.facts.mtu)


def _moves(change: PeerChange, before: Observed) -> bool:
    """Whether a peer may be reached by another way than before."""
    return not change.anew or change.endpoint != before.peers[change.public_key].endpoint
