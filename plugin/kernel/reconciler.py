"""The loop that makes the kernel agree with the state; nobody else changes the kernel.

A driver call changes the state and then waits here until its network is *settled*. The loop takes every network
that changed since the last round, computes what each needs, and carries out the differences to what it last applied
in one batch; calls that arrive meanwhile are the next batch. A stable upstream is a part of its own like a network, and
changes in the same batch as the network that its containers are on. At the start, when a hint says that somebody has
changed something, and from time to time, nothing remembered is trusted: everything is observed and compared.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator

import structlog

from plugin import naming, upstreams
from plugin.kernel import flows, leading
from plugin.kernel.dataplane import EMPTY, Dataplane, Element, desired, plan, union
from plugin.kernel.monitor import Hint, Monitor
from plugin.kernel.node import NodeFacts
from plugin.kernel.overlay import Overlay
from plugin.kernel.writer import Kernel, Observation
from plugin.model import IPNet
from plugin.state import State
from stackpad.errors import StackpadError, Unavailable
from stackpad.prefixes import Prefixes

LOOK = 0.25
"""Seconds between two looks whether somebody has touched the firewall."""

RESYNC = 60.0
"""Seconds between two comparisons of everything, hint or no hint."""

RETRY = 2.0
"""Seconds until a failed comparison is tried again."""

UPSTREAM = "upstream "
"""What the key of a part begins with that is a stable upstream; a network's id has no space in it."""


class Reconciler:
    """Brings the kernel to what the state says, and keeps it there."""

    def __init__(self, state: State, kernel: Kernel) -> None:
        self.ready = asyncio.Event()
        self.facts = NodeFacts(1500, frozenset(), frozenset())
        self.facts_changed: Callable[[], None] = lambda: None
        self.route_gone: Callable[[IPNet], None] = lambda _: None
        self.repairs = 0
        self.failures: dict[str, str] = {}
        self._state, self._kernel = state, kernel
        self._overlay = Overlay()
        self._beyond = Prefixes()
        self._beside: dict[str, frozenset[Element]] = {}
        self._admitting: list[asyncio.Future[None]] = []
        self._again: asyncio.TimerHandle | None = None
        self._applied: dict[str, Dataplane] = {}
        self._common: frozenset[Element] = frozenset()
        self._leaving: set[str] = set()
        self._lost: frozenset[str] = frozenset()
        self._returned: frozenset[str] = frozenset()
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        self._wake = asyncio.Event()
        self._hints: set[Hint] = set(Hint)
        self._last_resync = 0.0
        self._log = structlog.get_logger("reconciler")

    def touch(self, network_id: str) -> None:
        """The network has changed; the kernel follows soon, and nobody waits for it."""
        self._want(network_id)

    async def settle(self, network_id: str) -> None:
        """Return when the kernel has what the state says of this network now.

        Raises :class:`StackpadError` with the reason if that cannot be done.
        """
        await self._settled(network_id)

    async def settle_upstreams(self, numbers: Iterable[int]) -> None:
        """The same for stable upstreams, all at once."""
        await asyncio.gather(*[self._settled(upstream_key(number)) for number in numbers])

    def _settled(self, key: str) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._want(key).append(future)
        return future

    def _want(self, key: str) -> list[asyncio.Future[None]]:
        for number in self._state.upstreams_on(key):
            self._waiting.setdefault(upstream_key(number), [])
        self._wake.set()
        return self._waiting.setdefault(key, [])

    def remote(self, network_id: str) -> frozenset[IPNet]:
        """Other nodes' ranges that the firewall lets a network's containers reach, and be reached from."""
        return self._overlay.remote.get(network_id, frozenset())

    def overlay(self, given: Overlay) -> None:
        """Take over what the cluster says now; the kernel follows soon, and nobody waits for it."""
        before, self._overlay = self._overlay, given
        for network_id in self._state.networks:
            if before.mtu != given.mtu or before.parts(network_id) != given.parts(network_id):
                self.touch(network_id)
        if before.beyond != given.beyond:
            self._beyond = Prefixes(given.beyond)
            for number in self._state.upstreams_on(""):
                self.touch(upstream_key(number))
        if before.elements != given.elements:
            self._hear(Hint.NODE)

    def beside(self, what: str, elements: frozenset[Element]) -> None:
        """Have ``elements`` in the rules beside those of networks, instead of what was given as ``what`` before."""
        if self._beside.get(what, frozenset()) != elements:
            self._beside[what] = elements
            self._hear(Hint.NODE)

    async def admit(self, what: str, elements: frozenset[Element]) -> None:
        """The same, and return when the kernel has them; raises :class:`StackpadError` if that cannot be done."""
        self.beside(what, elements)
        if elements <= self._common:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._admitting.append(future)
        # Also where the same is being done just now for somebody else: he alone would hear of it.
        self._hear(Hint.NODE)
        await future

    def _common_wanted(self) -> frozenset[Element]:
        return self.facts.elements | self._overlay.elements | frozenset().union(*self._beside.values())

    @property
    def mtu(self) -> int:
        """What a container gets whose network names no MTU, in bytes: what fits the uplinks and the tunnel."""
        uplinks, tunnel = self.facts.mtu, self._overlay.mtu
        return uplinks - self._overlay.overhead if tunnel is None else min(uplinks, tunnel)

    def forget_port(self, network_id: str, endpoint_id: str) -> None:
        """Treat an endpoint's veth pair as gone, so that the next round makes one."""
        name = naming.port_name(endpoint_id)
        applied = self._applied.get(network_id, EMPTY)
        ports = {key: port for key, port in applied.ports.items() if key != name}
        self._applied[network_id] = Dataplane(applied.bridges, ports, applied.elements)
        self._lost -= {endpoint_id}

    @property
    def lost(self) -> Collection[str]:
        """Endpoints that Docker has not taken back although their veth pair is gone."""
        return self._lost

    def abandoned(self, endpoint_id: str) -> bool:
        """Whether no container has the endpoint any more, though Docker has not taken it back.

        Its veth pair is gone at this moment, or the end that was in the container has been back in the node's namespace
        since the last comparison: that is where Docker puts it when the container is removed.
        """
        returned = endpoint_id in self._returned and exists(naming.peer_name(endpoint_id))
        known = self._state.endpoints.get(endpoint_id)
        gone = known is not None and bool(known.sandbox) and not exists(naming.port_name(endpoint_id))
        return endpoint_id in self._lost or returned or gone

    async def run(self) -> None:
        """Reconcile until cancelled."""
        with Monitor(self._hear, self._expects, self.route_gone):
            while True:
                await self._round()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK):
                        await self._wake.wait()

    async def _round(self) -> None:
        self._wake.clear()
        if time.monotonic() - self._last_resync > RESYNC:
            self._hints.update(Hint)
        try:
            if Hint.LINKS in self._hints:
                await self._compare_everything()
            elif Hint.NODE in self._hints:
                await self._refresh_facts()
            touched = not await self._kernel.firewall_intact()
            if touched:
                await self._repair_firewall()
            if self._waiting:
                await self._apply_changes()
            if touched or await self._kernel.foreign_is_silent():
                await self._mend_foreign()
        except (StackpadError, OSError) as error:
            failure = (
                error if isinstance(error, StackpadError) else Unavailable(f"the kernel could not be asked: {error}")
            )
            self._log.error("the kernel could not be brought in step", reason=str(failure), retry_in=RETRY)
            self._hints.update(Hint)
            self._fail_waiting(failure)
            await asyncio.sleep(RETRY)

    def _hear(self, hint: Hint) -> None:
        self._hints.add(hint)
        self._wake.set()

    def _look_again(self) -> None:
        self._again = None
        self._hear(Hint.LINKS)

    def _expects(self, name: str) -> bool:
        # Our own removals are heard while they are still under way.
        return name not in self._leaving and any(
            name in part.bridges or name in part.ports for part in self._applied.values()
        )

    async def _compare_everything(self) -> None:
        self._hints.clear()
        self._last_resync = time.monotonic()
        seen = await self._kernel.observe()
        before, self.facts = self.facts, seen.facts
        if self.facts != before:
            self.facts_changed()
        self._lost = frozenset(
            endpoint.id
            for endpoint in self._state.endpoints.values()
            if endpoint.sandbox and naming.port_name(endpoint.id) not in seen.links.ports
        )
        interfaces = {name for _, name in socket.if_nameindex()}
        self._returned = frozenset(
            endpoint.id for endpoint in self._state.endpoints.values() if naming.peer_name(endpoint.id) in interfaces
        )
        networks = dict(self._state.networks)
        if await self._kernel.prepare(ipv6=any(network.ipv6 for network in networks.values())):
            self._repaired("forwarding", "the node passed no packets on")
        await self._kernel.stand(bool(self._state.upstreams))
        wanted = {key: self._desired(key) for key in (*networks, *map(upstream_key, self._state.upstreams))}
        with self._admissions():
            await self._compare(seen, wanted)
        self.failures.clear()
        self.ready.set()

    async def _compare(self, seen: Observation, wanted: dict[str, Dataplane]) -> None:
        whole, common = union(wanted.values()), self._common_wanted()
        elements = whole.elements | common
        whole = Dataplane(whole.bridges, whole.ports, elements)
        there, flushed = seen.elements, seen.elements is None
        if there is None:
            # Who could send before they were taken away has flows all the same.
            there = union(self._applied.values()).elements
        late = self._kernel.late(plan(whole, Dataplane(elements=there)), moving=flushed)
        if late:
            # Nobody is kept waiting for one address: who gets it comes at another comparison.
            wanted = {key: flows.hold_back(part, there, late) for key, part in wanted.items()}
            whole = flows.hold_back(whole, there, late)
            self._log.warning("connections of earlier owners are not forgotten yet", addresses=sorted(late))
            if self._again is None:
                self._again = asyncio.get_running_loop().call_later(RETRY, self._look_again)
        if flushed:
            # Rules first: a link without rules around it must not exist.
            await self._kernel.install_firewall(whole.elements, there)
            self._repaired("firewall", "the tables were missing or changed")
            there = whole.elements
        observed = Dataplane(seen.links.bridges, seen.links.ports, there)
        steps = plan(whole, observed)
        if steps:
            (error,) = await self._kernel.apply([steps])
            if error is not None:
                raise error
            self._repaired("links", f"{len(steps.new_bridges)} bridges made, {len(steps.old_links)} links removed")
        await self._mend_foreign()
        self._applied, self._common = wanted, common

    @contextlib.contextmanager
    def _admissions(self) -> Iterator[None]:
        """Those who wait for an admission hear of it when what is done inside has gone well."""
        admitting, self._admitting = self._admitting, []
        try:
            yield
        except BaseException:
            self._admitting = [*admitting, *self._admitting]
            raise
        _resolve(admitting, None)

    async def _refresh_facts(self) -> None:
        self._hints.discard(Hint.NODE)
        before, self.facts = self.facts, await self._kernel.facts()
        if await self._kernel.stand(bool(self._state.upstreams)):
            self._repaired("upstreams", "their addresses were not as they should be")
        with self._admissions():
            common = self._common_wanted()
            if common != self._common:
                steps = plan(Dataplane(elements=common), Dataplane(elements=self._common))
                (error,) = await self._kernel.apply([steps])
                if error is not None:
                    raise error
                self._common = common
        if self.facts != before:
            self.facts_changed()
        if self.facts.mtu != before.mtu:
            for network_id in self._state.networks:
                self.touch(network_id)

    async def _apply_changes(self) -> None:
        if any(key.startswith(UPSTREAM) for key in self._waiting):
            await self._kernel.stand(bool(self._state.upstreams))
        networks = self._state.networks
        if any(networks[network_id].ipv6 for network_id in self._waiting if network_id in networks):
            await self._kernel.prepare(ipv6=True)
        waiting, self._waiting = self._waiting, {}
        wanted = {key: self._desired(key) for key in waiting}
        plans = {key: plan(part, self._applied.get(key, EMPTY)) for key, part in wanted.items()}
        self._leaving = {name for steps in plans.values() for name in steps.old_links}
        try:
            outcome = await self._kernel.apply(list(plans.values()))
        except BaseException:
            for key, futures in waiting.items():
                self._waiting[key] = [*futures, *self._waiting.get(key, ())]
            raise
        for (network_id, futures), error in zip(waiting.items(), outcome, strict=True):
            if error is None:
                self._applied[network_id] = wanted[network_id]
                self.failures.pop(network_id, None)
                if wanted[network_id] is EMPTY:
                    del self._applied[network_id]
            else:
                self.failures[network_id] = str(error)
                self._hints.update(Hint)
                self._log.warning("network not settled", network=network_id[:12], reason=str(error))
            _resolve(futures, error)

    async def _repair_firewall(self) -> None:
        """Somebody has written to nftables; put right what of it was ours."""
        found = await self._kernel.observe_firewall()
        wanted = union(self._applied.values()).elements | self._common
        if found is None:
            await self._kernel.install_firewall(wanted)
            self._repaired("firewall", "the tables were flushed or changed")
        elif found != wanted:
            steps = plan(Dataplane(elements=wanted), Dataplane(elements=found))
            (error,) = await self._kernel.apply([steps])
            if error is not None:
                raise error
            self._repaired("firewall", f"{len(found ^ wanted)} elements differed")

    async def _mend_foreign(self) -> None:
        for chain in await self._kernel.repair_foreign():
            self._repaired(chain, "our accepts were missing")

    def _desired(self, key: str) -> Dataplane:
        if key.startswith(UPSTREAM):
            return self._desired_upstream(int(key.removeprefix(UPSTREAM)))
        network = self._state.networks.get(key)
        if network is None:
            return EMPTY
        endpoints = self._state.endpoints_of(network.id)
        remote, barred = self._overlay.known(network.id), bool(self._overlay.barred.get(network.id))
        return desired(network, endpoints, uplink_mtu=self.mtu, lost=self._lost, remote=remote, barred=barred)

    def _desired_upstream(self, number: int) -> Dataplane:
        targets = self._state.upstreams.get(number)
        if targets is None:
            return EMPTY
        there = upstreams.reachable(targets, self._state.endpoints, self._beyond.__contains__)
        return Dataplane(elements=leading.elements(number, [t for t in there if t.endpoint not in self._lost]))

    def _repaired(self, what: str, reason: str) -> None:
        if self.ready.is_set():
            self.repairs += 1
            self._log.warning("repaired", what=what, reason=reason)

    def _fail_waiting(self, error: StackpadError) -> None:
        waiting, self._waiting = self._waiting, {}
        admitting, self._admitting = self._admitting, []
        for futures in (*waiting.values(), admitting):
            _resolve(futures, Unavailable(str(error)))


def upstream_key(number: int) -> str:
    """The key of a stable upstream among the parts that are settled."""
    return f"{UPSTREAM}{number}"


def exists(interface: str) -> bool:
    """Whether a link of this name is in the node's namespace."""
    try:
        socket.if_nametoindex(interface)
    except OSError:
        return False
    return True


def _resolve(futures: Iterable[asyncio.Future[None]], error: StackpadError | None) -> None:
    for future in futures:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
