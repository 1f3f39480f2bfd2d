"""Watching and following a real etcd through restarts, compactions, wipes and silence."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from typing import TypeVar

import pytest

from stackpad.errors import Unavailable
from stackpad.etcd import Batch, Compacted, Etcd, Listing, Lost, Origin, Put, Snapshot, Stamp
from stackpad.etcd.following import AWAY, REFUSING, follow
from stackpad.etcd.transport import Rejected
from tests.etcd.server import BOUND, Server, answering, free_port, running

T = TypeVar("T")


async def soon(items: AsyncGenerator[T, None]) -> T:
    """The next one, within reason."""
    async with asyncio.timeout(BOUND):
        return await anext(items)


class Copy:
    """What somebody who follows ``prefix`` holds; refuses what would not fit."""

    def __init__(self, etcd: Etcd, prefix: str) -> None:
        self.items: dict[str, bytes] = {}
        self.revision = 0
        self.snapshots = self.losses = 0
        self.stream = etcd.follow(prefix)

    async def step(self) -> Snapshot | Batch | Lost:
        """Take one item in."""
        item = await soon(self.stream)
        match item:
            case Snapshot():
                self.items = {key: kv.value for key, kv in item.items.items()}
                self.revision, self.snapshots = item.revision, self.snapshots + 1
            case Batch():
                assert item.revision >= self.revision
                for event in item.events:
                    if event.kv is None:
                        del self.items[event.key]  # raises for what was told twice
                    else:
                        assert event.kv.mod_revision > self.revision
                        self.items[event.key] = event.kv.value
                self.revision = item.revision
            case Lost():
                self.losses += 1
        return item

    async def until_lost(self) -> None:
        """Go on until the store is told to be away."""
        while not isinstance(await self.step(), Lost):
            pass

    async def until(self, key: str, value: bytes | None) -> None:
        """Go on until ``key`` holds ``value``."""
        while self.items.get(key) != value:
            await self.step()


@pytest.fixture
async def copy(etcd: Etcd) -> AsyncIterator[Copy]:
    """One who follows "a/"."""
    made = Copy(etcd, "a/")
    async with contextlib.aclosing(made.stream):
        yield made


async def test_a_watch_tells_every_change_in_order(etcd: Etcd) -> None:
    revision = await etcd.put("a/1", b"before")
    async with contextlib.aclosing(etcd.watch("a/", revision)) as watch:
        await etcd.put("b", b"elsewhere")
        await etcd.put("a/1", b"x")
        first = await soon(watch)
        assert [(event.key, event.kv and event.kv.value) for event in first.events] == [("a/1", b"x")]
        assert first.revision == revision + 2
        done = await etcd.commit([], [Put("a/2", b"y"), Put("a/3", b"z")])
        await etcd.delete("a/1")
        both = await soon(watch)
        assert [event.key for event in both.events] == ["a/2", "a/3"]
        assert both.revision == done.revision
        assert [(event.key, event.kv) for event in (await soon(watch)).events] == [("a/1", None)]


async def test_a_watch_begins_in_the_past(etcd: Etcd) -> None:
    first = await etcd.put("a/1", b"1")
    for number in range(2, 50):
        await etcd.put("a/1", str(number).encode())
    seen: list[bytes] = []
    async with contextlib.aclosing(etcd.watch("a/", first)) as watch:
        while len(seen) < 48:
            seen += [event.kv.value for event in (await soon(watch)).events if event.kv]
    assert seen == [str(number).encode() for number in range(2, 50)]


async def test_one_event_may_be_larger_than_any_buffer(etcd: Etcd) -> None:
    revision = (await etcd.list("")).revision
    async with contextlib.aclosing(etcd.watch("a/", revision)) as watch:
        await etcd.commit([], [Put(f"a/{number}", bytes([number]) * 10_000) for number in range(120)])
        batch = await soon(watch)
    assert [event.kv and event.kv.value for event in batch.events] == [bytes([n]) * 10_000 for n in range(120)]


async def test_a_watch_from_before_a_compaction_says_so(etcd: Etcd) -> None:
    for number in range(5):
        revision = await etcd.put("a/1", str(number).encode())
    await etcd.compact(revision)
    with pytest.raises(Compacted) as caught:
        await soon(etcd.watch("a/", revision - 3))
    assert caught.value.revision == revision
    assert str(revision) in str(caught.value)


async def test_a_watch_after_what_never_was_says_so(etcd: Etcd) -> None:
    revision = await etcd.put("a/1", b"")
    with pytest.raises(Compacted, match="wiped or replaced"):
        await soon(etcd.watch("a/", revision + 1000))


async def test_a_compaction_does_not_touch_a_watch_that_keeps_up(etcd: Etcd) -> None:
    revision = await etcd.put("a/1", b"1")
    async with contextlib.aclosing(etcd.watch("a/", revision)) as watch:
        await etcd.put("a/1", b"2")
        assert (await soon(watch)).revision == revision + 1
        await etcd.compact(revision + 1)
        await etcd.put("a/1", b"3")
        assert (await soon(watch)).revision == revision + 2


async def test_a_watch_ends_with_its_store(server: Server, etcd: Etcd) -> None:
    revision = await etcd.put("a/1", b"1")
    async with contextlib.aclosing(etcd.watch("a/", revision)) as watch:
        await etcd.put("a/1", b"2")
        await soon(watch)
        await server.stop()
        with pytest.raises(Unavailable, match="check whether etcd was stopped") as caught:
            await soon(watch)
    assert server.url in str(caught.value)


async def test_a_silent_watch_is_made_anew_without_a_gap(server: Server) -> None:
    async with Etcd([server.url], quiet=0.05) as etcd, contextlib.aclosing(etcd.changes("a/", 0)) as changes:
        stands = 0
        while stands < 5:
            stands += not (await soon(changes)).events
        seen: list[bytes] = []
        for number in range(100):
            await etcd.put("a/1", str(number).encode())
            await asyncio.sleep(number % 10 / 100)
        while len(seen) < 100:
            seen += [event.kv.value for event in (await soon(changes)).events if event.kv]
    assert seen == [str(number).encode() for number in range(100)]


async def test_a_store_that_hangs_is_noticed(server: Server) -> None:
    async with Etcd([server.url], quiet=0.2, timeout=5) as etcd:
        revision = await etcd.put("a/1", b"1")
        async with contextlib.aclosing(etcd.watch("a/", revision)) as watch:
            await etcd.put("a/1", b"2")
            await soon(watch)
            server.signal(signal.SIGSTOP)
            with pytest.raises(Unavailable, match="did not answer within 5 s"):
                await soon(watch)
        with pytest.raises(Unavailable, match="did not answer within 5 s"):
            await etcd.put("a/1", b"3")
        server.signal(signal.SIGCONT)
        await answering(etcd)


async def test_following_begins_with_what_is_there(etcd: Etcd, copy: Copy) -> None:
    await etcd.put("a/1", b"1")
    await etcd.put("b", b"elsewhere")
    assert isinstance(await copy.step(), Snapshot)
    assert copy.items == {"a/1": b"1"}
    await etcd.put("a/2", b"2")
    await etcd.delete("a/1")
    await copy.until("a/1", None)
    assert copy.items == {"a/2": b"2"}


async def test_a_restart_is_followed_without_a_gap_or_another_snapshot(server: Server, etcd: Etcd, copy: Copy) -> None:
    await etcd.put("a/1", b"1")
    await copy.step()
    await etcd.put("a/1", b"2")
    await copy.step()
    await server.stop()
    assert isinstance(lost := await copy.step(), Lost)
    assert server.url in lost.reason
    await server.start()
    async with Etcd([server.url]) as other:
        await answering(other)
        await other.put("a/1", b"3")
        await other.put("a/2", b"4")
    await copy.until("a/2", b"4")
    assert copy.items == {"a/1": b"3", "a/2": b"4"}
    assert (copy.snapshots, copy.losses) == (1, 1)


async def test_coming_back_is_told_even_if_nothing_changed(server: Server, etcd: Etcd, copy: Copy) -> None:
    await etcd.put("a/1", b"1")
    await copy.step()
    await server.stop(signal.SIGKILL)
    await copy.until_lost()
    await server.start()
    while isinstance(item := await copy.step(), Lost):
        pass
    assert item == Batch(copy.revision, ())
    assert copy.snapshots == 1


async def test_what_was_compacted_while_away_is_listed_again(server: Server, etcd: Etcd, copy: Copy) -> None:
    await etcd.put("a/gone", b"1")
    await copy.step()
    await server.stop()
    await copy.until_lost()
    await server.start()
    async with Etcd([server.url]) as other:
        await answering(other)
        await other.delete("a/gone")
        await other.compact(await other.put("a/new", b"2"))
        await copy.until("a/new", b"2")
    assert copy.items == {"a/new": b"2"}


@pytest.mark.parametrize("writes", [0, 50])
async def test_a_wiped_store_is_listed_again(server: Server, etcd: Etcd, copy: Copy, writes: int) -> None:
    """Also when the new store has come further than the old one: its term is lower then, or its cluster another."""
    for number in range(20):
        await etcd.put("a/old", str(number).encode())
    await copy.step()
    await server.stop()
    await copy.until_lost()
    server.wipe()
    await server.start("--initial-cluster-token", "another")
    async with Etcd([server.url]) as other:
        await answering(other)
        for number in range(writes):
            await other.put("a/new", str(number).encode())
        await copy.until("a/old", None)
    assert copy.snapshots == 2


@contextlib.asynccontextmanager
async def lost(server: Server, etcd: Etcd, copy: Copy, tmp_path: Path) -> AsyncIterator[None]:
    """What is written meanwhile: at the end the store is put back from a copy of before, with three keys."""
    for number in range(3):
        await etcd.put(f"a/{number}", b"before")
    await server.stop()
    shutil.copytree(server.directory / "data", tmp_path / "copy")
    await server.start()
    await answering(etcd)
    await copy.step()
    yield
    await server.stop(signal.SIGKILL)
    await copy.until_lost()
    server.wipe()
    (tmp_path / "copy").rename(server.directory / "data")
    await server.start()


@pytest.mark.parametrize("writes", [0, 50])
@pytest.mark.parametrize("since", ["written", "deleted", "again"])
async def test_a_store_put_back_from_a_copy_is_listed_again(
    server: Server, etcd: Etcd, copy: Copy, tmp_path: Path, since: str, writes: int
) -> None:
    """Also when it has come further since than what is known: it is of the same cluster, and of a term as high."""
    async with lost(server, etcd, copy, tmp_path):
        if since == "deleted":
            await etcd.delete("a/1")
            await copy.until("a/1", None)
        else:
            key = "a/1" if since == "again" else "a/new"
            await etcd.put(key, b"since")
            await copy.until(key, b"since")
    async with Etcd([server.url]) as other:
        await answering(other)
        for number in range(writes):
            await other.put("a/2", str(number).encode())
        await other.put("a/end", b"")
        await copy.until("a/end", b"")
        there = await other.list("a/")
    assert copy.items == {kv.key: kv.value for kv in there.items}
    assert copy.items["a/1"] == b"before"
    assert copy.snapshots == 2


@pytest.mark.parametrize(
    ("since", "found"),
    [
        ({"1": b"since"}, {"1": b"now"}),
        ({"0": b"since", "1": b"same"}, {"2": b"now", "1": b"same"}),
        ({"1": b"same", "2": b"since"}, {"1": b"same", "2": b"now"}),
    ],
    ids=["the last one", "the one before", "after one that is the same"],
)
async def test_a_store_put_back_from_a_copy_and_as_far_again_is_listed_again(
    server: Server, etcd: Etcd, copy: Copy, tmp_path: Path, since: dict[str, bytes], found: dict[str, bytes]
) -> None:
    """As where its nodes write again what they have: the same keys, in the same revisions, and not all with the same."""
    async with lost(server, etcd, copy, tmp_path):
        for key, value in since.items():
            await etcd.put(f"a/{key}", value)
            await copy.until(f"a/{key}", value)
    async with Etcd([server.url]) as other:
        await answering(other)
        for key, value in found.items():
            await other.put(f"a/{key}", value)
        await other.put("a/end", b"")
        await copy.until("a/end", b"")
        there = await other.list("a/")
    assert copy.items == {kv.key: kv.value for kv in there.items}
    assert copy.snapshots == 2


async def test_a_restart_of_a_store_with_more_keys_than_are_compared_is_followed(
    server: Server, etcd: Etcd, copy: Copy
) -> None:
    """Of the transaction that the oldest of them was written in, others are not looked at."""
    for first in (0, 70, 140):
        await etcd.commit((), [Put(f"a/{number}", b"1") for number in range(first, first + 70)])
    await copy.step()
    await server.stop()
    await copy.until_lost()
    await server.start()
    async with Etcd([server.url]) as other:
        await answering(other)
        await other.put("a/end", b"")
        await copy.until("a/end", b"")
    assert len(copy.items) == 211
    assert copy.snapshots == 1


async def test_a_restart_after_a_transaction_of_many_keys_is_followed(server: Server, etcd: Etcd, copy: Copy) -> None:
    """They are all of one revision, and which of them is the last is not said."""
    await etcd.commit((), [Put(f"a/{number}", b"1") for number in range(20)])
    await copy.step()
    for last in (b"2", b"3"):
        await server.stop()
        await copy.until_lost()
        await server.start()
        async with Etcd([server.url]) as other:
            await answering(other)
            await other.commit((), [Put(f"a/{number}", last) for number in range(20)])
            await copy.until("a/19", last)
    assert copy.snapshots == 1


async def test_a_store_that_is_not_there_yet_is_waited_for(server: Server) -> None:
    await server.stop()
    async with Etcd([server.url]) as etcd:
        copy = Copy(etcd, "a/")
        async with contextlib.aclosing(copy.stream):
            assert isinstance(await copy.step(), Lost)
            await server.start()
            while not isinstance(await copy.step(), Snapshot):
                pass


async def test_a_store_that_was_away_long_is_found_as_soon_as_one_that_was_not(
    server: Server, etcd: Etcd, copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it was away, the next attempt is half a second off at most; one that refuses is asked less often."""
    await etcd.put("a/1", b"1")
    await copy.step()
    waits: list[float] = []
    sleep = asyncio.sleep

    async def recorded(seconds: float) -> None:
        waits.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr("stackpad.etcd.following.asyncio.sleep", recorded)
    await server.stop()

    async def until_found() -> None:
        await copy.until("a/1", b"2")

    async with asyncio.timeout(BOUND), asyncio.TaskGroup() as tasks:
        following = tasks.create_task(until_found())
        while len(waits) < 9:
            await sleep(0.05)
        assert not following.done()
        await server.start()
        async with Etcd([server.url]) as other:
            await answering(other)
            await other.put("a/1", b"2")
    assert max(waits) <= AWAY * 1.1
    assert sum(wait >= AWAY * 0.9 for wait in waits) >= 3, "it was never away for long"


async def test_a_store_that_refuses_is_not_asked_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    class Refusing:
        async def list(self, prefix: str) -> Listing:
            raise Rejected("no", 3, "no")

        async def changes(
            self, prefix: str, after_revision: int, origin: Origin | None, held: Mapping[str, Stamp]
        ) -> AsyncGenerator[Batch, None]:
            raise AssertionError("there is nothing to watch yet")
            yield Batch(0, ())

    async def recorded(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 12:
            raise _EnoughError

    async def until_enough() -> None:
        async with contextlib.aclosing(follow(Refusing(), "a/")) as items:
            async for item in items:
                assert item == Lost("no")

    monkeypatch.setattr("stackpad.etcd.following.asyncio.sleep", recorded)
    with pytest.raises(_EnoughError):
        await until_enough()
    assert max(waits) > REFUSING / 2


class _EnoughError(Exception):
    """What ends a test that would go on for ever."""


async def test_following_can_be_cancelled_anywhere(server: Server, etcd: Etcd) -> None:
    async def follow() -> None:
        async with contextlib.aclosing(etcd.follow("a/")) as items:
            async for _ in items:
                pass

    for step in range(20):
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(follow())
            await asyncio.sleep(step / 1000)
            task.cancel()
    await etcd.put("a/1", b"still well")


async def test_changes_under_load_are_all_followed(server: Server, etcd: Etcd, copy: Copy) -> None:
    """Eight writers, one who follows, and a restart in between."""
    await copy.step()

    async def write(name: str) -> None:
        async with Etcd([server.url]) as own:
            for number in range(60):
                while True:
                    try:
                        await own.put(f"a/{name}/{number % 7}", str(number).encode())
                        break
                    except Unavailable:
                        await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as tasks:
        for name in "abcdefgh":
            tasks.create_task(write(name))
        await asyncio.sleep(0.2)
        await server.stop()
        await server.start()
        for name in "abcdefgh":
            await copy.until(f"a/{name}/3", b"59")
    await answering(etcd)
    assert copy.items == {kv.key: kv.value for kv in (await etcd.list("a/")).items}
    assert copy.snapshots == 1


class Relay:
    """A path to the store which can begin to swallow everything, as a firewall does that forgot a connection."""

    def __init__(self, port: int) -> None:
        self._target, self._open = port, asyncio.Event()
        self._open.set()

    async def pair(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._target)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._copy(reader, other_writer))
            tasks.create_task(self._copy(other_reader, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        writer.close()

    def swallow(self) -> None:
        """From now on, nothing arrives, and nobody is told."""
        self._open.clear()

    def release(self) -> None:
        """Let go what was kept."""
        self._open.set()


async def test_a_path_that_swallows_everything_is_left_for_another(tmp_path: Path) -> None:
    async with running(tmp_path / "one", tcp=True) as server:
        relay, port = Relay(int(server.url.rpartition(":")[2])), free_port()
        async with (
            await asyncio.start_server(relay.pair, "127.0.0.1", port),
            Etcd([f"http://127.0.0.1:{port}", server.url], timeout=5, quiet=0.5) as etcd,
            Etcd([server.url]) as direct,
        ):
            copy = Copy(etcd, "a/")
            async with contextlib.aclosing(copy.stream):
                await copy.step()
                await direct.put("a/1", b"1")
                await copy.until("a/1", b"1")
                relay.swallow()
                await direct.put("a/1", b"2")
                await copy.until("a/1", b"2")
                assert copy.snapshots == 1
                assert await etcd.put("a/1", b"3") > 0
            relay.release()
