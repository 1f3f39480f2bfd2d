"""A node's records reach a real store whole, whatever one of them is like."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import msgspec
import pytest

from plugin.local.attachments import LONGEST, NAMES, PORTS
from plugin.store import loop as storeloop
from plugin.store.loop import StoreLoop
from plugin.store.membership import Memory
from plugin.store.view import StoreView
from stackpad import records
from stackpad.errors import Unavailable
from stackpad.etcd import Etcd
from tests.etcd.server import BOUND, Server

ME = "me"


def endpoint(number: int, size: int = 0, **changes: object) -> records.Endpoint:
    """A record that is a little longer than ``size``."""
    made = records.Endpoint(
        owner=ME, id=f"e{number}", network="n", environment="shop", names=("x" * size,), addresses=("10.1.0.1",)
    )
    return msgspec.structs.replace(made, **changes)


def keyed(*made: records.Endpoint) -> dict[str, records.Record]:
    return {records.key(records.ENDPOINTS, ME, record.id): record for record in made}


class Node:
    """What one should have in the store, and the loop that sees to it."""

    def __init__(self, etcd: Etcd, directory: Path) -> None:
        self.wanted: dict[str, records.Record] = {}
        self.whole = True
        self.etcd = etcd
        self.loop = StoreLoop(
            etcd, Memory(directory), StoreView(), ME, lambda: self.wanted, lambda _: None, lambda: self.whole
        )

    async def stored(self) -> set[str]:
        return {kv.key for kv in (await self.etcd.list(records.ENDPOINTS)).items}

    def want(self, *made: records.Endpoint) -> None:
        self.wanted |= keyed(*made)
        self.loop.touch()

    async def until(self, keys: Callable[[], object]) -> None:
        """Wait until the store has endpoints with exactly these keys."""
        async with asyncio.timeout(BOUND):
            while await self.stored() != keys():  # noqa: ASYNC110 - what is asked has no event
                await asyncio.sleep(0.02)


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(BOUND):
        while not what():  # noqa: ASYNC110 - what is asked has no event
            await asyncio.sleep(0.02)


@pytest.fixture
async def node(etcd: Etcd, tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(etcd, tmp_path)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(made.loop.run())
        yield made
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_many_large_records_go_in_several_transactions(node: Node) -> None:
    """The largest records that a container can have, more than a store takes in one transaction."""
    names, ports = ("x" * LONGEST,) * NAMES, ("65535/tcp",) * PORTS
    node.want(*(endpoint(number, names=names, ports=ports) for number in range(250)))
    assert sum(len(records.encode(record)) for record in list(node.wanted.values())[:100]) > 1.5 * (1 << 20)
    await node.until(lambda: set(node.wanted))
    assert node.loop.problems == []


@pytest.mark.parametrize("size", [1700 << 10, 3 << 20])  # etcd's own limit, and its transport's
async def test_a_record_that_the_store_refuses_stops_no_other(node: Node, size: int) -> None:
    bad = endpoint(100, size)
    (bad_key,) = keyed(bad)
    node.want(*(endpoint(number) for number in range(100)), bad, *(endpoint(number) for number in range(101, 250)))
    await node.until(lambda: set(node.wanted) - {bad_key})
    await until(lambda: node.loop.problems)
    (problem,) = node.loop.problems
    assert f"1 of this node's records cannot be published, such as {bad_key}: " in problem
    assert "a record is larger than etcd takes (--max-request-bytes" in problem
    node.want(endpoint(300))  # nor one that comes later
    await node.until(lambda: set(node.wanted) - {bad_key})
    assert len(node.loop.problems) == 1
    node.want(endpoint(100))
    await node.until(lambda: set(node.wanted))
    assert node.loop.problems == []


async def test_whose_fault_it_is_shows_when_each_is_written_alone(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a transaction was refused for is told by each of its operations."""
    monkeypatch.setattr(storeloop, "BYTES_AT_ONCE", 1 << 30)
    bad = [endpoint(number, 2 << 20) for number in (3, 7)]
    good = [endpoint(number, 700 << 10) for number in (1, 5, 9)]
    node.want(*good, *bad)
    await node.until(lambda: set(keyed(*good)))
    await until(lambda: "2 of this node's records" in "".join(node.loop.problems))


@pytest.mark.parametrize("busy", [False, True])
async def test_what_was_refused_is_tried_again(node: Node, monkeypatch: pytest.MonkeyPatch, busy: bool) -> None:
    monkeypatch.setattr(storeloop, "REFUSED", 0.2)
    tried, commits = list[int](), node.etcd.commit

    async def commit(compares: object, success: list[object]) -> object:
        tried.append(len(success))
        return await commits(compares, success)  # type: ignore[arg-type]

    monkeypatch.setattr(node.etcd, "commit", commit)
    node.want(endpoint(1, 2 << 20))

    def often() -> bool:
        if busy:
            node.loop.touch()
        return len(tried) >= 6

    await until(often)
    assert set(tried) == {1}


async def test_what_is_not_wanted_any_more_is_no_problem(node: Node) -> None:
    node.want(endpoint(1, 2 << 20), endpoint(2))
    await until(lambda: node.loop.problems)
    del node.wanted[records.key(records.ENDPOINTS, ME, "e1")]
    node.loop.touch()
    await until(lambda: not node.loop.problems)
    await node.until(lambda: set(node.wanted))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that waits an hour after a failure."""
    monkeypatch.setattr(storeloop, "FAILED", 3600.0)
    monkeypatch.setattr(storeloop, "FAILED_LAST", 3600.0)


@pytest.mark.usefixtures("patient")
async def test_a_store_that_is_back_is_written_to_at_once(
    node: Node, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the wait after a failure is."""
    commits, failed = node.etcd.commit, asyncio.Event()

    async def commit(compares: object, success: object) -> object:
        if not failed.is_set():
            failed.set()
            raise Unavailable("as if it were about to go")
        return await commits(compares, success)  # type: ignore[arg-type]

    monkeypatch.setattr(node.etcd, "commit", commit)
    async with asyncio.timeout(BOUND):
        await node.loop.connected.wait()
    node.want(endpoint(1))
    async with asyncio.timeout(BOUND):
        await failed.wait()
    await server.stop()
    await until(lambda: not node.loop.connected.is_set())
    node.want(endpoint(2))
    await server.start()
    async with asyncio.timeout(BOUND):
        await node.loop.connected.wait()
    await node.until(lambda: set(node.wanted))


async def test_what_is_not_known_yet_is_not_taken_for_gone(node: Node) -> None:
    """A plugin that starts knows its containers only when the engine has said them; the others have their names."""
    one, two = endpoint(1), endpoint(2)
    node.want(one, two)
    await node.until(lambda: keyed(one, two).keys())
    node.whole, node.wanted = False, {}
    node.want(endpoint(3))
    await node.until(lambda: keyed(one, two, endpoint(3)).keys())
    node.whole = True
    node.loop.touch()
    await node.until(lambda: keyed(endpoint(3)).keys())


async def test_the_node_s_record_is_not_there_before_its_ranges(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who lists in between would take them for given up; another node that writes at the same time is in the way."""
    place = records.key(records.NODES, ME)
    claimed = records.Range(owner=ME, net="10.192.0.0/18", block=True)
    restore, seen = node.loop.ranges.restore, list[bool]()

    async def contended(writes: Mapping[str, bytes]) -> bool:
        seen.append(await node.etcd.get(place) is not None)
        return len(seen) > 3 and await restore(writes)

    monkeypatch.setattr(node.loop.ranges, "restore", contended)
    node.wanted = {
        place: records.Node(owner=ME, name="me", public_keys=(), mesh4="10.192.0.1"),
        records.range_key(claimed.net): claimed,
        **keyed(*(endpoint(number) for number in range(250))),
    }
    node.loop.touch()
    await node.until(lambda: set(keyed(*(endpoint(number) for number in range(250)))))
    async with asyncio.timeout(BOUND):
        while (there := await node.etcd.get(place)) is None:  # noqa: ASYNC110 - what is asked has no event
            await asyncio.sleep(0.02)
    assert seen == [False] * 4
    ranges = [kv.create_revision for kv in (await node.etcd.list(records.RANGES)).items]
    endpoints = [kv.create_revision for kv in (await node.etcd.list(records.ENDPOINTS)).items]
    assert there.create_revision >= max(*ranges, *endpoints)


async def test_ranges_of_others_are_remembered_at_once(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose node starts anew and does not know of one sends what is for it in clear."""
    monkeypatch.setattr(storeloop, "REMEMBER", 1e6)
    for number in range(3):
        claimed = records.Range(owner="other", net=f"172.31.{number}.0/24", network="n")
        await node.etcd.put(records.range_key(claimed.net), records.encode(claimed))
        key = records.range_key(claimed.net)
        await until(lambda: key in Memory(tmp_path).load_view())  # noqa: B023 - called at once
