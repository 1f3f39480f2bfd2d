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
import time
from collections.abc import Callable, Collection, Iterable, Mapping

import structlog

from plugin import naming
from plugin.kernel import flows
from plugin.kernel.dataplane import EMPTY, Dataplane, Element, Plan, plan, union
from plugin.kernel.monitor import Hint, Monitor
from plugin.kernel.node import NodeFacts
from plugin.kernel.overlay import Overlay
from plugin.kernel.parts import UPSTREAM, Parts, upstream_key
from plugin.kernel.settling import Settling, resolve
from plugin.kernel.vanished import Vanished
from plugin.kernel.writer import Kernel, Observation
from plugin.model import IPNet
from plugin.state import State
from stackpad.errors import StackpadError, Unavailable

LOOK = 0.25
"""Seconds between two looks whether somebody has touched the firewall."""

RESYNC = 60.0
"""Seconds between two comparisons of everything, hint or no hint."""

RETRY = 2.0
"""Seconds until a failed comparison is tried again."""


class Reconciler:
    """Brings the kernel to what the state says, and keeps it there."""

    def __init__(self, state: State, kernel: Kernel) -> None:
        self.ready = asyncio.Event()
        self.facts_changed: Callable[[], None] = lambda: None
        self.route_gone: Callable[[IPNet], None] = lambda _: None
        self.repairs = 0
        self.failures: dict[str, str] = {}
        self._state, self._kernel = state, kernel
        self._vanished = Vanished(state)
        self._parts = Parts(state, lambda: self._vanished.lost)
        self._settling = Settling()
        self._again: asyncio.TimerHandle | None = None
        self._applied: dict[str, Dataplane] = {}
        self._common: frozenset[Element] = frozenset()
        self._leaving: set[str] = set()
        self._wake = asyncio.Event()
        self._hints: set[Hint] = set(Hint)
        self._last_resync = 0.0
        self._log = structlog.get_logger("reconciler")

    @property
    def facts(self) -> NodeFacts:
        """What there is on the node beside us, as last observed."""
        return self._parts.facts

    @property
    def mtu(self) -> int:
        """What a container gets whose network names no MTU, in bytes."""
        return self._parts.mtu

    @property
    def lost(self) -> Collection[str]:
        """Endpoints that Docker has not taken back although their veth pair is gone."""
        return self._vanished.lost

    def abandoned(self, endpoint_id: str) -> bool:
        """Whether no container has the endpoint any more, though Docker has not taken it back."""
        return self._vanished.abandoned(endpoint_id)

    def remote(self, network_id: str) -> frozenset[IPNet]:
        """Other nodes' ranges that the firewall lets a network's containers reach, and be reached from."""
        return self._parts.remote(network_id)

    def touch(self, network_id: str) -> None:
        """The network has changed; the kernel follows soon, and nobody waits for it."""
        self._touched(network_id)
        self._settling.touch(network_id)

    async def settle(self, network_id: str) -> None:
        """Return when the kernel has what the state says of this network now.

        Raises :class:`StackpadError` with the reason if that cannot be done.
        """
        await self._settled(network_id)

    async def settle_upstreams(self, numbers: Iterable[int]) -> None:
        """The same for stable upstreams, all at once."""
        await asyncio.gather(*[self._settled(upstream_key(number)) for number in numbers])

    def _settled(self, key: str) -> asyncio.Future[None]:
        self._touched(key)
        return self._settling.wait_for(key)

    def _touched(self, key: str) -> None:
        for upstream in self._parts.upstreams_on(key):
            self._settling.touch(upstream)
        self._wake.set()

    def overlay(self, given: Overlay) -> None:
        """Take over what the cluster says now; the kernel follows soon, and nobody waits for it."""
        parts, common = self._parts.take_over(given)
        for key in parts:
            self.touch(key)
        if common:
            self._hear(Hint.NODE)

    def beside(self, what: str, elements: frozenset[Element]) -> None:
        """Have ``elements`` in the rules beside those of networks, instead of what was given as ``what`` before."""
        if self._parts.set_beside(what, elements):
            self._hear(Hint.NODE)

    async def admit(self, what: str, elements: frozenset[Element]) -> None:
        """The same, and return when the kernel has them; raises :class:`StackpadError` if that cannot be done."""
        self.beside(what, elements)
        if elements <= self._common:
            return
        future = self._settling.wait_for_admission()
        # Also where the same is being done just now for somebody else: he alone would hear of it.
        self._hear(Hint.NODE)
        await future

    def forget_port(self, network_id: str, endpoint_id: str) -> None:
        """Treat an endpoint's veth pair as gone, so that the next round makes one."""
        name = naming.port_name(endpoint_id)
        applied = self._applied.get(network_id, EMPTY)
        ports = {key: port for key, port in applied.ports.items() if key != name}
        self._applied[network_id] = Dataplane(applied.bridges, ports, applied.elements)
        self._vanished.found(endpoint_id)

    def give_up_port(self, network_id: str, endpoint_id: str) -> None:
        """Make no veth pair for an endpoint that has none and could not be given one, until :meth:`forget_port`."""
        if self._vanished.missed(endpoint_id):
            self.touch(network_id)

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
            if self._settling.changed:
                await self._apply_changes()
            if touched or await self._kernel.foreign_is_silent():
                await self._mend_foreign()
        except (StackpadError, OSError) as error:
            failure = (
                error if isinstance(error, StackpadError) else Unavailable(f"the kernel could not be asked: {error}")
            )
            self._log.error("the kernel could not be brought in step", reason=str(failure), retry_in=RETRY)
            self._hints.update(Hint)
            self._settling.fail(Unavailable(str(failure)))
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
        made = {name for part in self._applied.values() for name in part.ports} if self.ready.is_set() else None
        seen = await self._kernel.observe(self._vanished.expected())
        before, self._parts.facts = self.facts, seen.facts
        if self.facts != before:
            self.facts_changed()
        self._vanished.look(seen.links.ports, made)
        # One that comes meanwhile is carried out by itself, and fails by itself.
        networks = dict(self._state.networks)
        if await self._kernel.prepare(ipv6=any(network.ipv6 for network in networks.values())):
            self._repaired("forwarding", "the node passed no packets on")
        await self._kernel.stand(bool(self._state.upstreams))
        with self._settling.admitted():
            await self._compare(seen, self._parts.all(networks))
        self.failures.clear()
        self.ready.set()

    async def _compare(self, seen: Observation, wanted: dict[str, Dataplane]) -> None:
        whole, common = union(wanted.values()), self._parts.common
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
            if not self._is_asked_for(steps, wanted):
                made = f"{len(steps.new_bridges)} bridges and {len(steps.new_ports)} links made"
                self._repaired("links", f"{made}, {len(steps.old_links)} removed")
        await self._mend_foreign()
        self._applied, self._common = wanted, common

    def _is_asked_for(self, steps: Plan, wanted: Mapping[str, Dataplane]) -> bool:
        """Whether all of ``steps`` is what has just changed in the state, and would have come without a comparison."""
        changed = self._settling.changed
        new, old = (union(parts.get(key, EMPTY) for key in changed) for parts in (wanted, self._applied))
        arriving = (new.bridges.keys() | new.ports.keys()) - old.bridges.keys() - old.ports.keys()
        leaving = (old.bridges.keys() | old.ports.keys()) - new.bridges.keys() - new.ports.keys()
        return (
            not steps.changed_bridges
            and not steps.changed_ports
            and arriving.issuperset(bridge.name for bridge in steps.new_bridges)
            and arriving.issuperset(port.name for port in steps.new_ports)
            and leaving.issuperset(steps.old_links)
            and steps.new_elements <= new.elements - old.elements
            and steps.old_elements <= old.elements - new.elements
        )

    async def _refresh_facts(self) -> None:
        self._hints.discard(Hint.NODE)
        before, self._parts.facts = self.facts, await self._kernel.facts()
        if await self._kernel.stand(bool(self._state.upstreams)):
            self._repaired("upstreams", "their addresses were not as they should be")
        with self._settling.admitted():
            common = self._parts.common
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
        changed, networks = self._settling.changed, self._state.networks
        if any(key.startswith(UPSTREAM) for key in changed):
            await self._kernel.stand(bool(self._state.upstreams))
        if any(networks[network_id].ipv6 for network_id in changed if network_id in networks):
            await self._kernel.prepare(ipv6=True)
        with self._settling.carried_out() as waiting:
            wanted = {key: self._parts.part(key) for key in waiting}
            plans = {key: plan(part, self._applied.get(key, EMPTY)) for key, part in wanted.items()}
            self._leaving = {name for steps in plans.values() for name in steps.old_links}
            outcome = await self._kernel.apply(list(plans.values()))
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
            resolve(futures, error)

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

    def _repaired(self, what: str, reason: str) -> None:
        if self.ready.is_set():
            self.repairs += 1
            self._log.warning("repaired", what=what, reason=reason)
