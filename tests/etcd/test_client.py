"""Keys, transactions and leases on a real etcd."""

from __future__ import annotations

import asyncio

import pytest

from stackpad.errors import Unavailable
from stackpad.etcd import (
    Answer,
    Compacted,
    Delete,
    Etcd,
    Get,
    LeaseGone,
    Put,
    Undecided,
    absent,
    equals,
    present,
    unchanged,
)
from tests.etcd.server import BOUND, Server, answering, free_port


async def test_a_key_is_written_read_and_deleted(etcd: Etcd) -> None:
    assert await etcd.get("a") is None
    revision = await etcd.put("a", b"\x00\xff1")
    kv = await etcd.get("a")
    assert kv is not None
    assert (kv.key, kv.value, kv.mod_revision, kv.create_revision, kv.version) == (
        "a",
        b"\x00\xff1",
        revision,
        revision,
        1,
    )
    await etcd.put("a", b"")
    kv = await etcd.get("a")
    assert kv is not None
    assert (kv.value, kv.version, kv.create_revision, kv.mod_revision) == (b"", 2, revision, revision + 1)
    assert await etcd.delete("a") == 1
    assert await etcd.delete("a") == 0
    assert await etcd.get("a") is None


async def test_keys_need_not_be_ascii_nor_utf8(etcd: Etcd) -> None:
    for key in ("größe/☃", "raw/\udcff\udc80"):
        await etcd.put(key, b"x")
        kv = await etcd.get(key)
        assert kv is not None
        assert kv.key == key


async def test_a_prefix_of_several_pages_is_listed_at_one_revision(etcd: Etcd) -> None:
    names = [f"many/{number:05}" for number in range(2300)]
    for start in range(0, len(names), 100):
        await etcd.commit([], [Put(name, name.encode()) for name in names[start : start + 100]])
    await etcd.put("many", b"outside")
    revision = await etcd.put("many0", b"outside")
    listing = await etcd.list("many/")
    assert [kv.key for kv in listing.items] == names
    assert listing.revision == revision
    assert len((await etcd.list("")).items) == 2302
    assert await etcd.delete_prefix("many/") == 2300
    assert (await etcd.list("many/")).items == ()
    assert await etcd.get("many") is not None


async def test_a_transaction_does_all_of_one_branch(etcd: Etcd) -> None:
    done = await etcd.commit([absent("a"), absent("b")], [Put("a", b"1"), Put("b", b"2")], [Get("a")])
    assert done.succeeded
    assert done.responses == (Answer(), Answer())
    refused = await etcd.commit([absent("a")], [Put("c", b"3")], [Get("a"), Get("c"), Delete("b")])
    assert not refused.succeeded
    held = refused.responses[0].kv
    assert held is not None
    assert (held.value, held.mod_revision) == (b"1", done.revision)
    assert refused.responses[1:] == (Answer(), Answer(deleted=1))
    assert await etcd.get("c") is None


@pytest.mark.parametrize("exists", [False, True])
async def test_conditions_hold_when_they_say(etcd: Etcd, exists: bool) -> None:
    revision = await etcd.put("k", b"v") if exists else 0

    async def holds(*compares: object) -> bool:
        return (await etcd.commit(compares, [])).succeeded  # type: ignore[arg-type]

    assert await holds(absent("k")) is not exists
    assert await holds(present("k")) is exists
    assert await holds(unchanged("k", revision))
    assert not await holds(unchanged("k", revision + 1))
    assert await holds(equals("k", b"v")) is exists
    assert not await holds(equals("k", b""))
    assert await holds(present("k"), unchanged("k", revision)) is exists


async def test_twenty_clients_count_by_compare_and_swap(server: Server) -> None:
    async def count(times: int) -> None:
        async with Etcd([server.url]) as etcd:
            while times:
                kv = await etcd.get("counter")
                value, revision = (int(kv.value), kv.mod_revision) if kv else (0, 0)
                done = await etcd.commit([unchanged("counter", revision)], [Put("counter", str(value + 1).encode())])
                times -= done.succeeded

    async with asyncio.timeout(BOUND), asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(count(10))
    async with Etcd([server.url]) as etcd:
        kv = await etcd.get("counter")
    assert kv is not None
    assert (kv.value, kv.version) == (b"200", 200)


async def test_keys_of_a_lease_go_with_it(etcd: Etcd) -> None:
    lease = await etcd.grant(60)
    await etcd.put("alive", b"", lease)
    kv = await etcd.get("alive")
    assert kv is not None
    assert kv.lease == lease
    assert await etcd.keep_alive(lease) == 60
    await etcd.revoke(lease)
    assert await etcd.get("alive") is None
    with pytest.raises(LeaseGone, match="ask for a new one"):
        await etcd.keep_alive(lease)
    with pytest.raises(LeaseGone):
        await etcd.revoke(lease)
    with pytest.raises(LeaseGone):
        await etcd.put("alive", b"", lease)
    with pytest.raises(LeaseGone):
        await etcd.commit([], [Put("alive", b"", lease)])


async def test_a_lease_nobody_keeps_alive_ends(etcd: Etcd) -> None:
    lease = await etcd.grant(5)
    revision = await etcd.put("alive", b"", lease)
    async with asyncio.timeout(BOUND):
        ended = await anext(etcd.watch("alive", revision))
    assert [(event.key, event.kv) for event in ended.events] == [("alive", None)]
    with pytest.raises(LeaseGone):
        await etcd.keep_alive(lease)


async def test_too_large_a_transaction_is_refused_in_words(etcd: Etcd) -> None:
    with pytest.raises(Unavailable, match="--max-txn-ops") as caught:
        await etcd.commit([], [Put(str(number), b"") for number in range(129)])
    assert not isinstance(caught.value, Undecided)


async def test_compaction_may_be_repeated_and_forgets(etcd: Etcd) -> None:
    await etcd.put("a", b"1")
    revision = await etcd.put("a", b"2")
    await etcd.compact(revision)
    await etcd.compact(revision)
    await etcd.defragment()
    status = await etcd.status()
    assert status.version.startswith("3.")
    assert status.size > 0
    watch = etcd.watch("a", 0)
    with pytest.raises(Compacted) as caught:
        await anext(watch)
    assert caught.value.revision == revision


async def test_the_next_endpoint_is_tried_and_kept(server: Server) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    async with Etcd([nobody, "unix:///nonexistent/etcd", server.url]) as etcd:
        await etcd.put("a", b"1")
        assert await etcd.get("a") is not None


async def test_a_store_that_is_away_is_named(tmp_path: object) -> None:
    port = free_port()
    async with Etcd([f"http://127.0.0.1:{port}", "unix:///nonexistent/etcd"]) as etcd:
        with pytest.raises(Unavailable) as caught:
            await etcd.put("a", b"1")
    assert f"http://127.0.0.1:{port}" in str(caught.value)
    assert "unix:///nonexistent/etcd" in str(caught.value)
    assert "check that etcd runs there" in str(caught.value)
    assert not isinstance(caught.value, Undecided)


async def test_it_recovers_when_the_store_comes_back(server: Server, etcd: Etcd) -> None:
    await etcd.put("a", b"1")
    await server.stop()
    with pytest.raises(Unavailable):
        await etcd.get("a")
    await server.start()
    await answering(etcd)
    assert await etcd.put("a", b"2") > 0
