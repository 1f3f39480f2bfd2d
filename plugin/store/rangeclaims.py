"""Ranges of addresses in the store, which are one node's each: claimed, written again, forgotten.

All of it is compare-and-swap under one key, the lock. Who writes a range makes the lock another one, and who has seen
another lock than there is now looks again. So two nodes that claim overlapping ranges at once, which are different keys,
do not both get them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence

from plugin.model import ip_network
from plugin.ranges import blocks
from plugin.store.mesh import View
from plugin.store.view import StoreView
from stackpad import records
from stackpad.errors import Conflict, Unavailable
from stackpad.etcd import Compare, Delete, Etcd, KeyValue, Listing, Op, Put, absent, unchanged

AT_ONCE = 100
"""Operations in a transaction; etcd takes 128."""

CLAIM = 3.0
"""Seconds a driver call waits for a claim."""


class RangeClaims:
    """The ranges as node ``me`` claims them; ``seen`` is what it knows of the others."""

    def __init__(self, etcd: Etcd, seen: StoreView, me: str) -> None:
        self._etcd, self._seen, self._me = etcd, seen, me

    async def claim(
        self, choose: Callable[[View, Sequence[records.Range]], Sequence[records.Range]]
    ) -> Sequence[records.Range]:
        """Claim the ranges that ``choose`` picks, given all that are held, with a compare-and-swap; returns them.

        Held is also what the store has lost and its node has not written again yet.

        What ``choose`` raises is passed on. Raises :class:`Unavailable` if the store does not answer within
        :data:`CLAIM` seconds.
        """
        try:
            async with asyncio.timeout(CLAIM):
                while True:
                    lock, listing = await self._claims()
                    held = self._held(listing)
                    chosen = choose(self._seen.view(), held)
                    if not chosen:
                        return chosen
                    there = {kv.key: kv.value for kv in listing.items}
                    operations: list[Op] = [self._locked()]
                    for record in chosen:
                        key = records.range_key(record.net)
                        operations.append(Put(key, records.encode(record, there.get(key))))
                    if (await self._etcd.commit([_unchanged(lock)], operations)).succeeded:
                        return chosen
        except TimeoutError as error:
            raise Unavailable(
                f"the cluster's store did not answer within {CLAIM:.0f} s, so nobody can say whether the range is free; "
                "look at stackpad status, or use a range of this node's own blocks (--ipam-driver stackpad)"
            ) from error

    def _held(self, listing: Listing) -> list[records.Range]:
        """All ranges there are: a store that was wiped makes none of them free."""
        held = records.readable((kv.value for kv in listing.items), records.Range)
        there, view = {record.net for record in held}, self._seen.view()
        lost = (one for one in view.ranges.values() if not one.freed and one.owner not in view.removed)
        return [*held, *(one for one in lost if one.net not in there)]

    async def collect(self, over: Sequence[records.Range]) -> None:
        """Delete ranges given back for good, those that are in the store as in ``over`` still: a range that was given
        out again since, to whomever, has another owner, generation or time. Raises :class:`Unavailable`.
        """
        try:
            async with asyncio.timeout(CLAIM):
                for start in range(0, len(over), AT_ONCE):
                    while not await self._collected(over[start : start + AT_ONCE]):
                        pass
        except TimeoutError as error:
            raise Unavailable(f"the store did not answer within {CLAIM:.0f} s; ranges given back stay there") from error

    async def _collected(self, over: Sequence[records.Range]) -> bool:
        """Whether nobody has claimed anything between the look and the write."""
        lock, listing = await self._claims()
        there = {kv.key: kv.value for kv in listing.items}
        operations: list[Op] = []
        for record in over:
            key = records.range_key(record.net)
            found = records.readable([there[key]] if key in there else [], records.Range)
            if found and record.freed and _same_lease(found[0], record):
                operations.append(Delete(key))
        if not operations:
            return True
        return (await self._etcd.commit([_unchanged(lock)], [self._locked(), *operations])).succeeded

    async def restore(self, writes: Mapping[str, bytes]) -> bool:
        """Write ranges we hold already, as after a store was wiped; never over somebody else's claim.

        Returns whether nobody has claimed anything meanwhile: else it is to be tried again.
        """
        lock, listing = await self._claims()
        held = records.readable((kv.value for kv in listing.items), records.Range)
        there = {kv.key: kv.value for kv in listing.items}
        operations: list[Op] = [self._locked()]
        for key, value in writes.items():
            mine = records.decode(value, records.Range)
            newer = records.readable([there[key]] if key in there else [], records.Range)
            if newer and (newer[0].owner != self._me or newer[0].generation > mine.generation):
                continue  # given out again since: to somebody else, or to us, in a claim that is just being made
            with contextlib.suppress(Conflict):
                if not mine.freed:
                    blocks.refuse_claim(
                        ip_network(mine.net),
                        [other for other in held if other.owner != self._me],
                        owner=self._me,
                        names={},
                        now=time.time(),
                    )
                operations.append(Put(key, value))
        for start in range(0, len(operations), AT_ONCE):
            chunk = operations[start : start + AT_ONCE]
            if not (await self._etcd.commit([] if start else [_unchanged(lock)], chunk)).succeeded:
                return False
        return True

    async def _claims(self) -> tuple[KeyValue | None, Listing]:
        """The lock, and all ranges as of after it: a claim between the two makes the lock another one."""
        lock = await self._etcd.get(records.RANGES_LOCK)
        return lock, await self._etcd.list(records.RANGES)

    def _locked(self) -> Put:
        """What makes the lock another one."""
        return Put(records.RANGES_LOCK, records.encode(records.RangesLock(owner=self._me)))


def _same_lease(one: records.Range, other: records.Range) -> bool:
    return (one.owner, one.generation, one.freed) == (other.owner, other.generation, other.freed)


def _unchanged(lock: KeyValue | None) -> Compare:
    return absent(records.RANGES_LOCK) if lock is None else unchanged(records.RANGES_LOCK, lock.mod_revision)
