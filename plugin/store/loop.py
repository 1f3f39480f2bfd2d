"""This node and the store: what is in it, what is ours in it, and the sign of life.

Three tasks. One follows the store and keeps the last copy on disk. One writes our records whenever they differ from
what the store has. One keeps a lease alive: while it lasts, the others show our names. None of them is waited for by a
driver call, and a store that is away changes nothing of what is known: peers, routes and names stay as they were.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from plugin.store.membership import Memory
from plugin.store.publisher import chunks, concerns, differences
from plugin.store.rangeclaims import AT_ONCE, RangeClaims
from plugin.store.view import StoreView, Touched
from stackpad import records
from stackpad.errors import StackpadError, Unavailable
from stackpad.etcd import (
    Batch,
    Delete,
    Etcd,
    LeaseGone,
    Lost,
    Op,
    Put,
    Rejected,
    Snapshot,
    absent,
    equals,
)
from stackpad.runtime import Backoff

BEAT = records.LEASE / 4
"""Seconds between two signs of life."""

SETTLE = 5.0
"""Seconds a node that the store had lost has to write all its records again."""

BYTES_AT_ONCE = 512 << 10
"""Bytes in a transaction; etcd takes 1.5 MiB, keys and all."""

REFUSED = 10.0
"""Seconds until a record that the store has refused is tried again as it is."""

FAILED, FAILED_LAST = 0.2, 1.0
"""Seconds until records that could not be written are tried again, at first and at last; a store that comes back ends
the wait.
"""

REMEMBER, AGAIN = 2.0, 0.1
"""Seconds between two copies of the view on disk, and where nodes or ranges have changed: what a node does not know when
it starts without a store goes out in clear. Times the thousands of records in it.
"""


class StoreLoop:
    """The store as one node sees and writes it.

    ``own`` gives the records that should be there, and ``whole`` says whether they are all of this node's: until then
    none is deleted. ``heard`` is told what a change was about.
    """

    def __init__(
        self,
        etcd: Etcd,
        memory: Memory,
        seen: StoreView,
        me: str,
        own: Callable[[], Mapping[str, records.Record] | None],
        heard: Callable[[Touched], None],
        whole: Callable[[], bool] = lambda: True,
    ) -> None:
        self.reason = "not connected yet"
        self.connected = asyncio.Event()
        self._etcd, self._memory, self._seen, self._me = etcd, memory, seen, me
        self._own, self._heard, self._whole = own, heard, whole
        self.ranges = RangeClaims(etcd, seen, me)
        self._publish, self._unsaved, self._back = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._urgent = asyncio.Event()
        self.writing = asyncio.Lock()
        """Held while this node's records are written, and while they are taken out for good: one under way would stay."""
        self._refused: dict[str, tuple[Op, str]] = {}
        self._settling: set[str] = set()
        self._silenced = ""
        self._again_at: float | None = None
        self._log = structlog.get_logger("store")

    def touch(self) -> None:
        """Our records may have changed."""
        self._publish.set()

    @property
    def problems(self) -> list[str]:
        """What of ours the store does not take: the sign of life; and of the records how many, and why, of the first."""
        found = []
        if self._silenced:
            key = records.key(records.ALIVE, self._me)
            found.append(f"this node gives no sign of life, so others hide its names; {key}: {self._silenced}")
        for key, (_, reason) in self._refused.items():
            found.append(f"{len(self._refused)} of this node's records cannot be published, such as {key}: {reason}")
            break
        return found

    async def run(self) -> None:
        """Follow, publish and beat until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(), name="store follow")
            tasks.create_task(self._write(), name="store publish")
            tasks.create_task(self._beat(), name="store lease")
            tasks.create_task(self._remember(), name="store copy")

    async def _follow(self) -> None:
        async with contextlib.aclosing(self._etcd.follow(records.ROOT)) as changes:
            async for change in changes:
                if isinstance(change, Lost):
                    self.connected.clear()
                    self.reason = change.reason
                    self._log.warning("the store is away; going on with what is known", reason=change.reason)
                    continue
                if isinstance(change, Snapshot):
                    touched = self._seen.replace({key: kv.value for key, kv in change.items.items()})
                    self._publish.set()
                elif isinstance(change, Batch):
                    if any(concerns(event.key, self._me) for event in change.events):
                        self._publish.set()
                    touched = self._seen.change(
                        (event.key, None if event.kv is None else event.kv.value) for event in change.events
                    )
                if not self.connected.is_set():
                    self._log.info("the store answers")
                    self.reason = ""
                    self.connected.set()
                    self._back.set()
                self._unsaved.set()
                if touched.mesh:
                    self._urgent.set()
                self._heard(touched)
                self._settle_later(touched.returned)
                for node in touched.silent:
                    asyncio.get_running_loop().call_later(records.LEASE, self._bury, node)

    def _settle_later(self, nodes: set[str]) -> None:
        for node in nodes - self._settling:
            asyncio.get_running_loop().call_later(SETTLE, self._settle, node)
        self._settling |= nodes

    def _settle(self, node: str) -> None:
        self._settling.discard(node)
        touched = self._seen.settle(node)
        self._heard(touched)
        self._settle_later(touched.returned)

    def _bury(self, node: str) -> None:
        self._heard(self._seen.bury(node))

    async def _write(self) -> None:
        backoff = Backoff(FAILED, FAILED_LAST)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._again_at):
                    await self._publish.wait()
            if self._again_at is not None and asyncio.get_running_loop().time() >= self._again_at:
                self._refused, self._again_at = {}, None
            await self.connected.wait()
            self._publish.clear()
            try:
                self._back.clear()
                async with self.writing:
                    await self._write_once()
                backoff.reset()
            except StackpadError as error:
                self._log.warning("our records could not be written", reason=str(error))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(next(backoff)):
                        await self._back.wait()
                        backoff.reset()
                self._publish.set()

    async def _write_once(self) -> None:
        wanted = self._own()
        if wanted is None:
            return
        writes, deletions = differences(wanted, self._seen.raw, self._me)
        operations: list[Op] = [Put(key, value) for key, value in writes.items()]
        operations += [Delete(key) for key in deletions if self._whole()]
        # Who writes tombstones also clears away the word of those that have left by themselves.
        operations += [Delete(records.NODES + node) for node in self._seen.departed if records.REMOVED + node in wanted]
        refused = {op.key: op for op in operations if self._refused.get(op.key, (None,))[0] == op}
        self._refused = {key: self._refused[key] for key in refused}
        due = [op for op in operations if op.key not in refused]
        if not await self._restore(
            {op.key: op for op in due if isinstance(op, Put) and op.key.startswith(records.RANGES)}
        ):
            self._publish.set()  # somebody has claimed a range meanwhile: look again
            return
        due = [op for op in due if not op.key.startswith(records.RANGES)]
        # The record of the node says that all of it is there, but for what the engine has not told yet: who lists before
        # it sees what it knew of the rest. It does not wait for the engine: its name would be free for another node.
        due.sort(key=lambda op: op.key == records.NODES + self._me)
        for chunk in chunks(due, AT_ONCE, BYTES_AT_ONCE):
            try:
                await self._etcd.commit((), chunk)
            except Rejected as error:
                self._log.warning("the store refuses some of our records", records=len(chunk), reason=str(error))
                await self._write_each(chunk)

    async def _restore(self, ranges: Mapping[str, Put]) -> bool:
        """Write our ranges, unless somebody claims one meanwhile: then nothing is written, and it is to be tried again.

        Where the store refuses them, the other records are written all the same.
        """
        if not ranges:
            return True
        try:
            return await self.ranges.restore({key: put.value for key, put in ranges.items()})
        except Rejected as error:
            self._log.warning("the store refuses our ranges", records=len(ranges), reason=str(error))
            for put in ranges.values():
                self._refuse(put, error)
            return True

    def _refuse(self, operation: Op, error: Rejected) -> None:
        """Leave an operation out until it is time to try it again."""
        self._refused[operation.key] = operation, str(error)
        self._again_at = self._again_at or asyncio.get_running_loop().time() + REFUSED

    async def _write_each(self, operations: Sequence[Op]) -> None:
        """Write one after the other: one that is refused stops no other."""
        for operation in operations:
            try:
                await self._etcd.commit((), [operation])
            except Rejected as error:
                self._refuse(operation, error)

    async def _beat(self) -> None:
        lease = 0
        key = records.key(records.ALIVE, self._me)
        value = records.encode(records.Alive(owner=self._me, since=time.time()))
        while True:
            try:
                if lease and key in self._seen.raw:
                    await self._etcd.keep_alive(lease)
                else:
                    lease = await self._etcd.grant(records.LEASE)
                    await self._etcd.put(key, value, lease)
            except LeaseGone:
                lease = 0
                continue
            except Rejected as error:
                if self._silenced != str(error):
                    self._log.warning("the store refuses our sign of life", key=key, reason=str(error))
                self._silenced = str(error)
                await asyncio.sleep(BEAT)
                continue
            except Unavailable as error:
                self._log.debug("no sign of life could be given", reason=str(error))
                await asyncio.sleep(0.5)
                continue
            self._silenced = ""
            await asyncio.sleep(BEAT)

    async def _remember(self) -> None:
        while True:
            await self._unsaved.wait()
            self._unsaved.clear()
            self._urgent.clear()
            copy = self._seen.memory()
            try:
                await asyncio.to_thread(self._memory.save_view, copy)
            except Unavailable as error:
                self._log.warning("the view could not be kept", reason=str(error))
            scale = max(1, len(copy) // 1000)
            await asyncio.sleep(AGAIN * scale)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REMEMBER * scale):
                    await self._urgent.wait()

    async def exchange(self, exchanges: Sequence[tuple[str, bytes | None, bytes | None]]) -> bool:
        """Have, at each key, the second value in place of the first (``None`` for nothing); all of them or none.

        Returns whether the first ones were there.
        """
        conditions = [absent(key) if before is None else equals(key, before) for key, before, _ in exchanges]
        operations: list[Op] = [Delete(key) if after is None else Put(key, after) for key, _, after in exchanges]
        return (await self._etcd.commit(conditions, operations)).succeeded

    async def commit(self, operations: Sequence[Op]) -> None:
        """Write ``operations``, at most :data:`AT_ONCE` in one transaction."""
        for start in range(0, len(operations), AT_ONCE):
            await self._etcd.commit((), operations[start : start + AT_ONCE])
