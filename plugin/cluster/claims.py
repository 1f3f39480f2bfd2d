"""The addresses that are this node's in its cluster: blocks to carve networks from, and ranges claimed one by one.

What is claimed is on this node's disk before a driver call is answered, and in the store before that, with a
compare-and-swap: a range is one node's, or nobody's. Ranges in a block of this node's own need no question to anybody.

Docker asks for many networks at once. Each change is a look, a word with the store and a write to the disk, and one at
a time: a block that was claimed and not remembered would be nobody's.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence

import msgspec
import structlog

from plugin import steady
from plugin.cluster.cluster import Cluster
from plugin.docker.ipam import refuse_ground
from plugin.model import IPNet, Network, ip_network
from plugin.naming import RESOLVER, RESOLVER6
from plugin.ranges import blocks
from plugin.settings import Settings
from plugin.steady import Moments
from plugin.store.membership import Membership
from plugin.store.mesh import View
from stackpad import records
from stackpad.errors import Conflict, Unavailable
from stackpad.etcd import Delete

UNUSED = 300.0
"""Seconds that no network is in a range that was claimed for one, until it is given back."""


class Claims:
    """Implements :class:`plugin.docker.ipam.Ranges`.

    ``listed`` are the networks that the engine knows, ``None`` before it was asked: one of them that is not here may come
    back with a copy of the state, and keeps its range.
    """

    def __init__(self, cluster: Cluster, settings: Settings, moments: Moments | None = None) -> None:
        self._cluster, self._settings = cluster, settings
        self._moments = moments or Moments()
        self._one_at_a_time = asyncio.Lock()
        self._unused: dict[Hashable, float] = {}
        self.listed: Callable[[], Collection[str] | None] = lambda: None
        self._log = structlog.get_logger("ranges")

    def blocks(self, version_: int) -> Sequence[IPNet]:
        """This node's blocks; none without a cluster. Raises :class:`Unavailable` if nobody can tell which they are."""
        if self._cluster.damage:
            raise Unavailable(
                "which addresses are this node's cannot be told, so none are chosen; name a range with --subnet, or "
                f"leave --ipam-driver stackpad out: {self._cluster.damage}"
            )
        return () if self._cluster.membership is None else self._cluster.membership.blocks(version_)

    def reserved(self) -> Sequence[IPNet]:
        """This node's own part of its first block, also while it is in no cluster: it may begin one later.

        And the addresses that it needs.
        """
        needed = [ip_network(str(address)) for address in self._cluster.grounds(claiming=True).needed]
        if self._cluster.membership is None:
            first = next(iter(self._settings.range4.subnets(new_prefix=self._settings.block_prefix)))
            return [blocks.own_part(first, self._settings.network_prefix), *needed]
        membership = self._cluster.membership
        return [
            *needed,
            *(
                blocks.own_part(held[0], membership.cluster.network_prefix)
                for version_ in (4, 6)
                if (held := membership.blocks(version_))
            ),
        ]

    def refuse(self, net: IPNet) -> None:
        """Raise :class:`Conflict` if no network may have ``net``: it is not private, or a node is reached by it."""
        refuse_ground(net, self._cluster.grounds(claiming=True))

    def beyond(self, version_: int) -> Sequence[IPNet]:
        """What an internal network needs routes to."""
        if self._cluster.membership is None:
            return ()
        cluster = self._cluster.membership.cluster
        own = [ip_network(cluster.range4), ip_network(f"{RESOLVER}/32")]
        if version_ == 6:
            own = [ip_network(cluster.range6), ip_network(f"{RESOLVER6}/128")]
        routes = [net for net in self._cluster.mesh.routes if net.version == version_]
        claimed = [net for net in routes if not any(net.overlaps(one) for one in own)]
        return [*own, *claimed]

    async def claim(self, network: Network) -> None:
        """Make a new network's ranges this node's, cluster-wide.

        Ranges in this node's blocks are already. Raises :class:`Conflict` naming who has one, and
        :class:`Unavailable` if nobody can tell now.
        """
        membership = self._cluster.membership
        if membership is None:
            return
        self._refuse_own_part(network, membership)
        wanted = outside(network, [*membership.blocks(4), *membership.blocks(6)])
        if not wanted:
            return
        names = {node.owner: node.name for node in self._cluster.view.nodes.values()}

        def choose(_: View, held: Sequence[records.Range]) -> Sequence[records.Range]:
            # Of its own ranges this node knows more than the store: one just given back may not have been written yet.
            # What no network is in has only still to be given back, and a new one does not wait for that.
            mine = {one.net for one in self._cluster.member_of().ranges if not one.freed and not self._networkless(one)}
            barring = [record for record in held if record.owner != membership.node or record.net in mine]
            chosen = []
            for net in wanted:
                blocks.refuse_claim(net, barring, owner=membership.node, names=names, now=time.time(), network=network.id)
                generation = max((r.generation for r in held if r.net == str(net)), default=0) + 1
                chosen.append(
                    records.Range(owner=membership.node, net=str(net), network=network.id, generation=generation)
                )
            return chosen

        async with self._one_at_a_time:
            await self._hold(await self._cluster.connected_store().ranges.claim(choose))

    async def grow(self, version_: int, full: Sequence[IPNet]) -> bool:
        """Claim one more block for networks of a family, beside the ``full`` ones that the caller has seen.

        Returns whether it did: it does not where there are others by now, since somebody else has waited less long.
        Raises :class:`Exhausted` or :class:`Unavailable`.
        """
        async with self._one_at_a_time:
            if list(self.blocks(version_)) != list(full):
                return False
            await self._grow(version_)
            return True

    async def _grow(self, version_: int) -> None:
        membership = self._cluster.member_of()
        text = membership.cluster.range4 if version_ == 4 else membership.cluster.range6
        prefix = membership.cluster.block_prefix if version_ == 4 else blocks.BLOCK6_PREFIX
        # What is ours is not chosen again where the store has forgotten it and has not been told of it again yet.
        avoid: list[IPNet | str] = [*membership.held(), *map(str, self._cluster.grounds(claiming=True).needed)]
        avoid += (net for net in await self._cluster.other_routes() if net.prefixlen)

        def choose(_: View, held: Sequence[records.Range]) -> Sequence[records.Range]:
            block = blocks.choose_block(
                ip_network(text), prefix, held, avoid=avoid, now=time.time(), owner=membership.node
            )
            generation = max((r.generation for r in held if r.net == str(block)), default=0) + 1
            return [records.Range(owner=membership.node, net=str(block), block=True, generation=generation)]

        chosen = await self._cluster.connected_store().ranges.claim(choose)
        await self._hold(chosen)
        self._log.info("this node has another block", block=chosen[0].net)

    async def release(self, network_id: str) -> None:
        """Give back what was claimed for a network that is no more."""
        self._cluster.networks_changed()
        async with self._one_at_a_time:
            membership = self._cluster.membership
            if membership is None or not any(r.network == network_id and not r.freed for r in membership.ranges):
                return
            freed = tuple(
                msgspec.structs.replace(r, freed=time.time()) if r.network == network_id and not r.freed else r
                for r in membership.ranges
            )
            self._note(freed)
            await self._cluster.keep(msgspec.structs.replace(membership, ranges=freed))
        self._cluster.networks_changed()

    async def _hold(self, chosen: Sequence[records.Range]) -> None:
        membership = self._cluster.member_of()
        nets = {record.net for record in chosen}
        kept = tuple(record for record in membership.ranges if record.net not in nets)
        try:
            await self._cluster.keep(msgspec.structs.replace(membership, ranges=(*kept, *chosen)))
        except Unavailable:
            # What is not remembered here is not to be held for ever there.
            with contextlib.suppress(Unavailable):
                await self._cluster.connected_store().commit([Delete(records.range_key(net)) for net in nets])
            raise

    async def run(self) -> None:
        """Forget ranges given back when their cool-down is over, until cancelled."""
        while True:
            await asyncio.sleep(blocks.COOL_DOWN / 10)
            with contextlib.suppress(Unavailable):
                await self.collect()

    async def collect(self) -> None:
        """Forget what this node has given back long enough ago, and what nodes that are gone have left behind; and give
        back what was claimed for networks that are here no more.

        What was seen given back cools down by a clock that does not jump. Raises :class:`Unavailable`; what could not be
        deleted is seen in the store at the next turn.
        """
        async with self._one_at_a_time:
            membership, store = self._cluster.membership, self._cluster.store
            if membership is None or store is None:
                return
            view = self._cluster.view
            self._moments.keep(self._note([*membership.ranges, *view.ranges.values()]))
            # First here: what this node still had on its disk would be written into the store again.
            there = self._give_back_unused(membership.ranges)
            kept = tuple(record for record in there if not self._cooled_down(record))
            kept += tuple(self._strays(membership, view))
            if kept != membership.ranges:
                self._note(kept)
                await self._cluster.keep(msgspec.structs.replace(membership, ranges=kept))
                self._cluster.networks_changed()
            mine = {record.net for record in kept}
            over = [
                record
                for record in view.ranges.values()
                if self._cooled_down(record)
                and (record.owner in view.removed or (record.owner == membership.node and record.net not in mine))
            ]
            if over:
                await store.ranges.collect(over)

    def _networkless(self, record: records.Range) -> bool:
        """Whether a range was claimed for a network and none is in it, since the disk refused to have it given back with
        its network: the engine has forgotten that, and does not ask again.
        """
        listed = self.listed()
        if record.block or record.freed or listed is None or record.network in listed:
            return False
        return not self._cluster.in_use(record)

    def _give_back_unused(self, ranges: Sequence[records.Range]) -> list[records.Range]:
        """``ranges``, with those given back now that were claimed for networks and have had none in them for a while."""
        now = steady.now()
        self._unused = {_lease(one): self._unused.get(_lease(one), now) for one in ranges if self._networkless(one)}
        over = {lease for lease, since in self._unused.items() if now - since >= UNUSED}
        if over:
            nets = [one.net for one in ranges if _lease(one) in over]
            self._log.warning("ranges of networks that are not here are given back", ranges=nets)
        return [msgspec.structs.replace(one, freed=time.time()) if _lease(one) in over else one for one in ranges]

    def _strays(self, membership: Membership, view: View) -> list[records.Range]:
        """Ranges that are this node's by the store alone: it was put back from a copy of before they were forgotten, or
        this node's ``membership.json`` was. Nobody else could have them, and nobody would give them back: that is done
        now, but for those that networks here are in, which are remembered again.
        """
        mine = {record.net for record in membership.ranges}
        found = []
        for record in view.ranges.values():
            if record.owner == membership.node and not record.freed and record.net not in mine:
                network = self._cluster.network_in(ip_network(record.net))
                if network is None:
                    found.append(msgspec.structs.replace(record, freed=time.time()))
                else:
                    # Given back with the network that is there now; a block is nobody's alone.
                    found.append(record if record.block else msgspec.structs.replace(record, network=network.id))
        if found:
            freed = [record.net for record in found if record.freed]
            kept = [record.net for record in found if not record.freed]
            self._log.warning("this node did not know of ranges of its own", given_back=freed, in_use=kept)
        return found

    def _cooled_down(self, record: records.Range) -> bool:
        """Whether a range was given back, and long enough ago to be forgotten."""
        return bool(record.freed) and self._moments.age(_lease(record), record.freed) > blocks.COOL_DOWN

    def _note(self, there: Iterable[records.Range]) -> set[Hashable]:
        """See when ranges were given back; returns what :attr:`_moments` has them under."""
        freed: set[Hashable] = set()
        for record in there:
            if record.freed:
                self._moments.of(_lease(record), record.freed)
                freed.add(_lease(record))
        return freed

    def _refuse_own_part(self, network: Network, membership: Membership) -> None:
        for version_ in (4, 6):
            for block in membership.blocks(version_)[:1]:
                own = blocks.own_part(block, membership.cluster.network_prefix)
                for subnet in network.subnets:
                    if subnet.net.version == own.version and subnet.net.overlaps(own):
                        raise Conflict(
                            f"range {subnet.pool} overlaps {own}, this node's own addresses in the tunnel; "
                            "choose another with --subnet, or leave it out"
                        )


def _lease(record: records.Range) -> Hashable:
    return record.net, record.owner, record.generation, record.freed


def outside(network: Network, held: Sequence[IPNet]) -> list[IPNet]:
    """The ranges of a network that do not lie in one of ``held``."""
    return [subnet.net for subnet in network.subnets if not any(blocks.within(subnet.net, block) for block in held)]


def named(ranges: Iterable[records.Range], networks: Iterable[Network], now: float) -> tuple[records.Range, ...]:
    """Ranges that were claimed for a node as it joined, each with the network it is for, with which it is given back.

    That of a network that has gone meanwhile is given back at once.
    """
    owners = {str(subnet.net): network.id for network in networks for subnet in network.subnets}
    return tuple(
        record
        if record.block
        else msgspec.structs.replace(record, network=owners[record.net])
        if record.net in owners
        else msgspec.structs.replace(record, freed=now)
        for record in ranges
    )
