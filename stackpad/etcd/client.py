"""The calls of the store."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Final

from stackpad.errors import Unavailable
from stackpad.etcd import following, sentences, watching
from stackpad.etcd.endpoints import Tls
from stackpad.etcd.messages import (
    NOT_FOUND,
    OUT_OF_RANGE,
    Alarm,
    AlarmRequest,
    AlarmResponse,
    CompactRequest,
    DeleteRequest,
    DeleteResponse,
    Header,
    LeaseRequest,
    LeaseResponse,
    Line,
    Nothing,
    PutRequest,
    RangeRequest,
    StatusResponse,
    TxnRequest,
    TxnResponse,
    prefix_range,
    to_wire,
)
from stackpad.etcd.records import (
    Answer,
    Batch,
    Compare,
    KeyValue,
    LeaseGone,
    Listing,
    Lost,
    Op,
    Origin,
    Outcome,
    Put,
    Snapshot,
    Stamp,
)
from stackpad.etcd.transport import Rejected, Transport

_PAGE: Final = 1000
_QUIET: Final = 20.0
"""Seconds of silence after which a watch is made anew, since silence cannot be told from a store that hangs."""


class Etcd:
    """An etcd cluster; an async context manager. Safe to use from many tasks of one event loop at once.

    ``endpoints`` are ``https://HOST:2379``, ``http://HOST:2379`` or ``unix:///PATH``, tried in turn. ``timeout`` is
    for one attempt at one endpoint, in seconds. Every call may raise :class:`stackpad.errors.Unavailable`; one that
    writes raises its subclass :class:`Undecided` when the answer got lost.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        tls: Tls | None = None,
        user: str = "",
        password: str = "",
        timeout: float = 3.0,
        quiet: float = _QUIET,
    ) -> None:
        self._transport = Transport(endpoints, tls=tls, user=user, password=password, timeout=timeout)
        self._quiet = quiet

    async def __aenter__(self) -> Etcd:
        """Make ready; connections are opened by the first calls."""
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        await self._transport.__aexit__(kind, error, trace)

    async def get(self, key: str) -> KeyValue | None:
        """The key as the whole cluster holds it now (linearizable), or None."""
        answer = await watching.read(self._transport, RangeRequest(to_wire(key)))
        return KeyValue.of(answer.kvs[0]) if answer.kvs else None

    async def list(self, prefix: str) -> Listing:
        """All keys that begin with ``prefix``, as of one revision; raises :class:`Compacted` if that got lost amid."""
        start, end = prefix_range(prefix)
        items: list[KeyValue] = []
        header, more = Header(), True
        while more:
            page = await watching.read(self._transport, RangeRequest(start, end, limit=_PAGE, revision=header.revision))
            header = page.header if not header.revision else header
            items += map(KeyValue.of, page.kvs)
            more = page.more
            if more:
                start = page.kvs[-1].key + b"\0"
        return Listing(header.revision, tuple(items), watching.origin(header))

    async def put(self, key: str, value: bytes, lease: int = 0) -> int:
        """Write; returns the revision it made. Raises :class:`LeaseGone`."""
        answer = await self._write("/v3/kv/put", PutRequest(to_wire(key), value, lease))
        return answer.header.revision

    async def delete(self, key: str) -> int:
        """Delete; returns whether the key was there, as 1 or 0."""
        return (await self._write("/v3/kv/deleterange", DeleteRequest(to_wire(key)))).deleted

    async def delete_prefix(self, prefix: str) -> int:
        """Delete all keys that begin with ``prefix`` at once; returns how many there were."""
        return (await self._write("/v3/kv/deleterange", DeleteRequest(*prefix_range(prefix)))).deleted

    async def commit(self, compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()) -> Outcome:
        """Do all of ``success`` if all of ``compares`` hold, else all of ``failure``: at once, or not at all.

        Raises :class:`LeaseGone` if a put names a lease that is gone.
        """
        request = TxnRequest(
            [compare.wire for compare in compares], [op.wire() for op in success], [op.wire() for op in failure]
        )
        leases = [op.lease for op in (*success, *failure) if isinstance(op, Put)]
        # A transaction without a condition that may do anything is a write; one that only reads may be repeated.
        with _gone(next((lease for lease in leases if lease), 0)):
            answer = await self._transport.call("/v3/kv/txn", request, TxnResponse, repeatable=False)
        return Outcome(answer.succeeded, answer.header.revision, tuple(map(Answer.of, answer.responses)))

    async def grant(self, ttl: int) -> int:
        """A new lease of ``ttl`` seconds; returns its id."""
        # An answer that got lost leaves a lease behind which ends by itself: so it may be asked for twice.
        answer = await self._transport.call("/v3/lease/grant", LeaseRequest(TTL=ttl), LeaseResponse, repeatable=True)
        return answer.ID

    async def keep_alive(self, lease: int) -> int:
        """Begin the lease's time again; returns its seconds. Raises :class:`LeaseGone`."""
        line = await self._transport.call(
            "/v3/lease/keepalive", LeaseRequest(ID=lease), Line[LeaseResponse], repeatable=True
        )
        if line.error is not None:
            raise Unavailable(sentences.refused("", line.error.text, ""))
        if line.result is None or not line.result.TTL:
            raise LeaseGone(f"lease {lease:x} has ended; ask for a new one and write its keys again")
        return line.result.TTL

    async def revoke(self, lease: int) -> None:
        """End the lease and delete its keys. Raises :class:`LeaseGone`."""
        with _gone(lease):
            await self._transport.call("/v3/lease/revoke", LeaseRequest(ID=lease), Nothing, repeatable=False)

    async def watch(self, prefix: str, after_revision: int, origin: Origin | None = None) -> AsyncGenerator[Batch, None]:
        """Every change under ``prefix`` after ``after_revision``, in order and without a gap.

        With ``origin``, of the listing it continues, a store that was wiped since is noticed as well. Raises
        :class:`Compacted` when the changes are no longer there, :class:`Unavailable` when the stream ends.
        """
        async with contextlib.aclosing(self.changes(prefix, after_revision, origin)) as batches:
            async for batch in batches:
                if batch.events:
                    yield batch

    async def changes(
        self, prefix: str, after_revision: int, origin: Origin | None = None, held: Mapping[str, Stamp] | None = None
    ) -> AsyncGenerator[Batch, None]:
        """As :meth:`watch`, and a batch without events each time the watch stands, or is told how far it came.

        ``held`` are the keys that are there as of the last batch, if the caller keeps them: a store that was put back
        from a copy, and has come as far since by another way, is noticed by them.
        """
        known, renewed = after_revision, False
        while True:
            try:
                async with contextlib.aclosing(
                    watching.stream(self._transport, prefix, known, origin, held, self._quiet)
                ) as batches:
                    async for batch in batches:
                        known, renewed = batch.revision, False
                        yield batch
            except watching.TokenExpired:
                if renewed:
                    raise
                renewed = True

    def follow(self, prefix: str) -> AsyncGenerator[Snapshot | Batch | Lost, None]:
        """What is under ``prefix`` and all that becomes of it, for ever: see :mod:`stackpad.etcd.following`."""
        return following.follow(self, prefix)

    async def status(self) -> StatusResponse:
        """Version and size of the member that answers."""
        return await self._transport.call("/v3/maintenance/status", Nothing(), StatusResponse, repeatable=True)

    async def alarms(self) -> Sequence[Alarm]:
        """What members have raised: a quota used up, a corruption."""
        request = AlarmRequest("GET")
        return (await self._transport.call("/v3/maintenance/alarm", request, AlarmResponse, repeatable=True)).alarms

    async def disarm(self, alarm: Alarm) -> None:
        """Take an alarm back, when its reason is gone."""
        request = AlarmRequest("DEACTIVATE", alarm.member_id, alarm.alarm)
        await self._transport.call("/v3/maintenance/alarm", request, Nothing, repeatable=True)

    async def compact(self, revision: int) -> None:
        """Forget what was overwritten before ``revision``. Doing it twice is no error."""
        try:
            await self._transport.call(
                "/v3/kv/compaction", CompactRequest(revision, physical=True), Nothing, repeatable=True
            )
        except Rejected as error:
            if error.code != OUT_OF_RANGE or "compacted" not in error.text:
                raise

    async def defragment(self) -> None:
        """Give what compaction freed back to the disk. The member that answers stands still meanwhile."""
        await self._transport.call("/v3/maintenance/defragment", Nothing(), Nothing, repeatable=True)

    async def _write(self, path: str, request: PutRequest | DeleteRequest) -> DeleteResponse:
        with _gone(request.lease if isinstance(request, PutRequest) else 0):
            return await self._transport.call(path, request, DeleteResponse, repeatable=False)


@contextlib.contextmanager
def _gone(lease: int) -> Iterator[None]:
    """Translate the refusal of a lease that is not there."""
    try:
        yield
    except Rejected as error:
        if error.code == NOT_FOUND and "lease" in error.text:
            raise LeaseGone(f"lease {lease:x} has ended; ask for a new one and write its keys again") from error
        raise
