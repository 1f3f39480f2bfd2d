"""One watch, from its request to its end, and the read that tells whether it can be believed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping

import aiohttp
import msgspec

from stackpad.errors import Unavailable
from stackpad.etcd import sentences
from stackpad.etcd.messages import (
    OUT_OF_RANGE,
    Header,
    Line,
    Lines,
    RangeRequest,
    RangeResponse,
    WatchCreate,
    WatchRequest,
    WatchResponse,
    decode,
    prefix_range,
    to_wire,
)
from stackpad.etcd.records import Batch, Compacted, Event, KeyValue, Origin, Stamp
from stackpad.etcd.transport import Rejected, Transport

NEWEST = 100
"""Keys of a store that are compared to see whether its past is the one that is known."""


class TokenExpired(Unavailable):
    """A watch was refused for its token: unlike a call, it is told so in the stream."""


async def read(transport: Transport, request: RangeRequest) -> RangeResponse:
    """A linearizable read; raises :class:`Compacted` for a revision that is no longer there."""
    try:
        return await transport.call("/v3/kv/range", request, RangeResponse, repeatable=True)
    except Rejected as error:
        if error.code == OUT_OF_RANGE:
            raise Compacted(f"revision {request.revision} of the store is compacted; list again") from error
        raise


async def stream(
    transport: Transport, prefix: str, known: int, begun_at: Origin | None, held: Mapping[str, Stamp] | None, quiet: float
) -> AsyncGenerator[Batch, None]:
    """One stream, until it has been silent for a while; an empty batch says how far it came."""
    request = WatchRequest(WatchCreate(*prefix_range(prefix), start_revision=known + 1, progress_notify=True))
    lines, begun = Lines(), False
    async with transport.stream("/v3/watch", request) as (url, body):
        while True:
            try:
                async with asyncio.timeout(quiet if begun else transport.timeout):
                    data = await body.readany()
            except TimeoutError as error:
                if begun:
                    return
                raise transport.broken(url, error) from error
            except (aiohttp.ClientError, OSError) as error:
                raise transport.broken(url, error) from error
            if not data:
                raise transport.broken(url, EOFError("the watch ended"))
            for line in lines.feed(data):
                response = _result(transport, url, line)
                _check(transport, url, response, known)
                if response.created and not begun:
                    begun = True
                    await _same_store(transport, prefix, known, begun_at)
                    if held is not None:
                        await _same_past(transport, prefix, known, held)
                    yield Batch(known, ())
                elif response.events:
                    # The header may be ahead of what was sent so far; the last event is not.
                    known = response.events[-1].kv.mod_revision
                    yield Batch(known, tuple(map(Event.of, response.events)))
                elif not response.created:
                    known = max(known, response.header.revision)
                    yield Batch(known, ())


def _result(transport: Transport, url: str, line: bytes) -> WatchResponse:
    try:
        answer = decode(Line[WatchResponse], line)
    except msgspec.DecodeError as error:
        raise Unavailable(sentences.not_etcd(url, str(error))) from error
    if answer.result is None:
        raise transport.broken(url, EOFError(answer.error.text if answer.error else "an empty answer"))
    return answer.result


def _check(transport: Transport, url: str, response: WatchResponse, known: int) -> None:
    """Raise if etcd ends the watch. After a compaction it says so and then keeps the stream open for ever."""
    if response.compact_revision:
        oldest = response.compact_revision
        raise Compacted(f"changes after revision {known} are compacted, the oldest is {oldest}; list again", oldest)
    if response.canceled:
        sentence = sentences.refused(url, response.cancel_reason or "the watch was cancelled", transport.user)
        if transport.user and sentences.token_expired(False, response.cancel_reason):
            transport.forget_token()
            raise TokenExpired(sentence)
        raise Unavailable(sentence)


async def _same_store(transport: Transport, prefix: str, known: int, begun_at: Origin | None) -> None:
    """Raise :class:`Compacted` if the store never had revision ``known``: it would be silent until it has.

    The watch's own header will not do, since a member may lag behind; a linearizable read does not.
    """
    header = (await read(transport, RangeRequest(to_wire(prefix) or b"\0", count_only=True))).header
    now = origin(header)
    if header.revision < known or (begun_at and (now.cluster != begun_at.cluster or now.term < begun_at.term)):
        raise Compacted(f"the store is not the one that had revision {known}: it was wiped or replaced; list again")


async def _same_past(transport: Transport, prefix: str, known: int, held: Mapping[str, Stamp]) -> None:
    """Raise :class:`Compacted` unless at revision ``known`` the store had as many keys as are ``held``, and of those the
    same :data:`NEWEST`.

    One that was put back from a copy is of the same cluster, and may have come beyond ``known`` before it is looked at:
    its nodes write what they have again, some of it in the same revision as before. Not noticed would be one in which the
    last hundred writes were the same, each in its revision, after others.
    """
    newest_first = RangeRequest(
        *prefix_range(prefix), limit=NEWEST, revision=known, sort_order="DESCEND", sort_target="MOD"
    )
    there = await read(transport, newest_first)
    stamps = {kv.key: kv.stamp for kv in map(KeyValue.of, there.kvs)}
    since = min((revision for revision, _ in stamps.values()), default=0)
    newer = sum(revision > since for revision, _ in held.values())
    same = stamps.items() <= held.items() and newer == sum(revision > since for revision, _ in stamps.values())
    if there.count != len(held) or not same:
        raise Compacted(f"the store had another past at revision {known}: it was put back from a copy; list again")


def origin(header: Header) -> Origin:
    """Of an answer."""
    return Origin(header.cluster_id, header.raft_term)
