"""The one place where the kernel is written: links, firewall and foreign chains, in one thread.

A netlink request and a child process block; here they block a thread that has nothing else to do. Deleting links
and forgetting flows have a thread each: they wait for the kernel, and nobody waits for them but who gets an address whose
flows are not forgotten yet. Methods are safe to call from the event loop and are run in the order of the calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import structlog

from plugin.kernel import flows, leading, loopback
from plugin.kernel.conntrack import Selection
from plugin.kernel.dataplane import Dataplane, Element, Plan
from plugin.kernel.firewall import Firewall
from plugin.kernel.flows import Flows
from plugin.kernel.foreign import ForeignChains
from plugin.kernel.links import Links, Trash
from plugin.kernel.loopback import Loopback
from plugin.kernel.node import Node, NodeFacts, Route
from plugin.kernel.switches import Switches
from plugin.kernel.tunnel import Tunnel, TunnelLink
from plugin.model import IPAddress
from stackpad.errors import StackpadError, Unavailable

_P = ParamSpec("_P")
_T = TypeVar("_T")

_PATIENCE = 3.0
"""Seconds for which who gets an address waits for its flows to be forgotten."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What is there: our links, our firewall elements (``None``: the rules are not intact), and the node."""

    links: Dataplane
    elements: frozenset[Element] | None
    facts: NodeFacts


class Kernel:
    """Adapter for everything of the kernel that we observe and change; an asynchronous context manager."""

    def __init__(self, *, run: Path, proc: Path) -> None:
        self._run, self._proc = run, proc
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kernel")
        self._trash_thread = ThreadPoolExecutor(1, thread_name_prefix="trash")
        self._flows_thread = ThreadPoolExecutor(1, thread_name_prefix="flows")
        self._flows = Flows()
        self._log = structlog.get_logger("kernel")

    async def __aenter__(self) -> Kernel:
        """Open the sockets, in the threads that will use them."""
        await self._call(self._open)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the sockets; what is in the kernel stays, containers go on."""
        # What the trash thread is at still needs its socket, and what is to be forgotten nobody knows of afterwards.
        for thread in (self._trash_thread, self._flows_thread):
            await asyncio.get_running_loop().run_in_executor(self._thread, thread.shutdown)
        await self._call(self._close)
        self._thread.shutdown()

    def _open(self) -> None:
        self._switches = Switches(self._proc)
        self._links = Links(self._switches)
        self._node = Node(self._proc)
        self._firewall = Firewall()
        self._foreign = ForeignChains(self._run, self._proc)
        self._trash = Trash()
        self._tunnel = TunnelLink()
        self._loopback = Loopback(self._proc)

    def _close(self) -> None:
        self._links.close()
        self._node.close()
        self._trash.close()
        self._tunnel.close()
        self._loopback.close()

    async def observe(self, expected: Collection[str] = ()) -> Observation:
        """Everything, read anew; of our links at least those of ``expected`` that are there."""
        return await self._call(
            lambda: Observation(self._links.observe(expected), self._firewall.observe(), self._node.facts())
        )

    async def facts(self) -> NodeFacts:
        """The node's own addresses and uplinks."""
        return await self._call(self._node.facts)

    async def routes(self) -> list[Route]:
        """The node's routes that a new network must not cover."""
        return await self._call(self._node.routes)

    async def prepare(self, *, ipv6: bool) -> bool:
        """Switch forwarding on, for IPv6 only if some network has it; tells whether it was off."""
        return await self._call(self._switches.forward, ipv6=ipv6)

    async def fence_tunnel(self, wanted: Tunnel) -> None:
        """Put those of the tunnel's routes and addresses in place that need no link."""
        await self._call(self._tunnel.fence, wanted)

    async def stand(self, wanted: bool) -> bool:
        """Have the stable upstreams' addresses on the node, or not; returns whether anything was changed."""
        return await self._call(self._loopback.stand, wanted)

    async def apply_tunnel(self, wanted: Tunnel) -> bool:
        """Put the tunnel's addresses and routes right; returns whether anything was not."""
        return await self._call(self._tunnel.apply, wanted)

    async def path_mtus(self, addresses: Iterable[IPAddress]) -> dict[IPAddress, int]:
        """The MTU of the way to each address, in bytes; those without a way are left out."""
        found = await self._call(self._tunnel.path_mtus, tuple(addresses))
        return {address: mtu for address, mtu in found.items() if mtu is not None}

    async def install_firewall(self, elements: frozenset[Element], before: Iterable[Element] = ()) -> None:
        """Replace our tables by whole ones holding ``elements``; who could send by what was there ``before`` has left."""
        await self._call(self._firewall.install, elements)
        self._note(flows.addresses(before) - flows.addresses(elements))

    async def observe_firewall(self) -> frozenset[Element] | None:
        """The elements in our sets, ``None`` if the rules are not intact."""
        return await self._call(self._firewall.observe)

    async def firewall_intact(self) -> bool:
        """Whether nobody but us has written to nftables since the last look."""
        return await self._call(self._firewall.intact)

    async def repair_foreign(self) -> list[str]:
        """Put our accepts back where Docker's chains lack them; returns the chains mended."""
        return await self._call(self._foreign.repair)

    async def foreign_is_silent(self) -> bool:
        """Whether changes of the foreign chains may go unnoticed by :meth:`firewall_intact`."""
        return await self._call(self._foreign.uses_legacy)

    async def apply(self, plans: Sequence[Plan]) -> list[StackpadError | None]:
        """Carry out ``plans`` and say for each what went wrong, if anything did.

        Their firewall changes are one transaction; where that fails, each is tried by itself, so that one network's
        trouble is not another's. Who gets an address that somebody has had comes after all others, once its flows are
        forgotten; he is refused if that takes too long.
        """
        leaving = flows.addresses(element for plan in plans for element in plan.old_elements)
        taken = [self._taken(plan, leaving) for plan in plans]
        first = [
            _departures(plan, addresses) if addresses else plan for plan, addresses in zip(plans, taken, strict=True)
        ]
        outcome = await self._carry_out(first)
        late = [position for position, addresses in enumerate(taken) if addresses and outcome[position] is None]
        if not late:
            return outcome
        await self._forget(frozenset().union(*(taken[position] for position in late)))
        for position in late:
            remembered = self._flows.remembered(taken[position])
            if remembered:
                who = f"the container that had {', '.join(sorted(remembered))} before"
                outcome[position] = Unavailable(f"connections of {who} are not forgotten yet; try again")
        late = [position for position in late if outcome[position] is None]
        rest = [_without(plans[position], first[position].old_elements) for position in late]
        for position, error in zip(late, await self._carry_out(rest), strict=True):
            outcome[position] = error
        return outcome

    def late(self, plan: Plan, *, moving: bool = False) -> frozenset[str]:
        """The addresses that get an owner by ``plan`` while an earlier one has flows; they are forgotten soon."""
        arriving = flows.addresses(plan.new_elements)
        found = self._flows.remembered(arriving)
        if found:
            self._later(self._flows_thread, self._flows.forget)
        return found | arriving.intersection(flows.addresses(plan.old_elements)) if moving else found

    def _taken(self, plan: Plan, leaving: Collection[str]) -> frozenset[str]:
        """The addresses that get an owner by ``plan`` while flows of an earlier one may be there."""
        arriving = flows.addresses(plan.new_elements)
        return self._flows.remembered(arriving) | arriving.intersection(leaving)

    async def _forget(self, addresses: Collection[str]) -> None:
        """Wait until the flows of ``addresses`` are forgotten, but not for long; a driver call is waiting."""
        if self._flows.remembered(addresses):
            forgetting = asyncio.get_running_loop().run_in_executor(self._flows_thread, self._flows.forget)
            await asyncio.wait([forgetting], timeout=_PATIENCE)

    async def _carry_out(self, plans: Sequence[Plan]) -> list[StackpadError | None]:
        new = [element for plan in plans for element in plan.new_elements]
        outcome, changed = await self._call(self._apply, plans)
        if any(plan.old_links for plan in plans):
            self._later(self._trash_thread, self._trash.empty)
        gone = flows.addresses(element for plan in plans for element in plan.old_elements)
        self._note(gone, flows.udp_ports(new))
        numbers = leading.numbers(new)
        if numbers:
            self._later(self._trash_thread, loopback.hurry, numbers, changed)
        return outcome

    def _note(self, gone: frozenset[str], redirected: frozenset[Selection] = frozenset()) -> None:
        if gone or redirected:
            self._flows.note(gone, redirected)
            self._later(self._flows_thread, self._flows.forget)

    def _apply(self, plans: Sequence[Plan]) -> tuple[list[StackpadError | None], float]:
        """What went wrong with each, and when the firewall changed (monotonic clock, seconds)."""
        outcome: list[StackpadError | None] = [None] * len(plans)
        for position, plan in enumerate(plans):
            try:
                with _told():
                    self._links.apply(plan)
            except StackpadError as error:
                outcome[position] = error
        sound = [position for position, error in enumerate(outcome) if error is None]
        try:
            self._change_firewall([plans[position] for position in sound])
        except StackpadError as error:
            if len(sound) == 1:
                outcome[sound[0]] = error
            else:
                for position in sound:
                    try:
                        self._change_firewall([plans[position]])
                    except StackpadError as own:
                        outcome[position] = own
        changed = time.monotonic()
        for position, plan in enumerate(plans):
            try:
                with _told():
                    self._links.discard(plan.old_links)
            except StackpadError as error:
                outcome[position] = outcome[position] or error
        return outcome, changed

    def _change_firewall(self, plans: Sequence[Plan]) -> None:
        new = [element for plan in plans for element in plan.new_elements]
        old = [element for plan in plans for element in plan.old_elements]
        with _told():
            self._firewall.apply(new, old)

    async def remove_rules(self) -> None:
        """Take our tables and our accepts away; only right where there is no network left to keep apart."""
        await self._call(self._loopback.stand, False)
        await self._call(self._firewall.remove)
        await self._call(self._foreign.remove)

    def _later(self, thread: ThreadPoolExecutor, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> None:
        """Call it when the thread is free, and wait for nothing; what goes wrong there is in the log."""
        thread.submit(function, *args, **kwargs).add_done_callback(self._look_at)

    def _look_at(self, done: Future[Any]) -> None:
        if not done.cancelled() and done.exception() is not None:
            self._log.error("what was to be cleared away is still there", exc_info=done.exception())

    async def _call(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        loop = asyncio.get_running_loop()
        with _told():
            return await loop.run_in_executor(self._thread, functools.partial(function, *args, **kwargs))


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """A process that has no more files, or no memory for a child, says so, and tries again; it does not end."""
    try:
        yield
    except OSError as error:
        raise Unavailable(f"the kernel could not be asked or changed: {error}") from error


def _departures(plan: Plan, taken: Collection[str]) -> Plan:
    """What of ``plan`` comes before flows are forgotten: nobody sends from the addresses any more."""
    return Plan(old_elements=frozenset(each for each in plan.old_elements if flows.address(each) in taken))


def _without(plan: Plan, done: frozenset[Element]) -> Plan:
    return replace(plan, old_elements=plan.old_elements - done)
