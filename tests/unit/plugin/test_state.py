"""The state on a real disk: what was answered survives, and what could not be written never was."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import stat
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import msgspec
import pytest

from plugin.database import SCHEMA, Statement
from plugin.model import Allocation, Endpoint, Network, Pool, decode, encode
from plugin.state import State
from plugin.upstreams import Target
from stackpad.errors import Unavailable
from tests.samples import endpoint, network

NET, GUEST = network(), endpoint(network())
POOL = Pool("stackpad/10.192.1.0/24", "10.192.1.0/24", created=1.5)
ADDRESS = ip_address("10.192.1.2")
TAKEN = Allocation(POOL.id, str(ADDRESS))


async def fill(state: State) -> None:
    await state.put_network(NET)
    await state.put_endpoint(GUEST)
    await state.put_pool(POOL)
    await state.put_allocation(ADDRESS, TAKEN)


def contents(state: State) -> tuple[object, ...]:
    return (
        dict(state.networks),
        dict(state.endpoints),
        dict(state.pools),
        {pool: dict(taken) for pool, taken in state.allocations.items() if taken},
        {key: sorted(e.id for e in state.endpoints_of(key)) for key in state.networks},
        state.network_of_pool(POOL.pool),
    )


async def test_everything_survives(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "net.db"
    async with State(path) as state:
        await fill(state)
        before, own_range = contents(state), state.unique_local_range
    async with State(path) as state:
        assert contents(state) == before
        assert state.network_of_pool(POOL.pool) == NET
        assert state.unique_local_range == own_range


async def test_what_is_removed_stays_removed(tmp_path: Path) -> None:
    async with State(tmp_path / "net.db") as state:
        await fill(state)
        await state.drop_network(NET.id)
        await state.drop_pool(POOL.id)
        nothing = contents(state)
        assert nothing == ({}, {}, {}, {}, {}, None)
    async with State(tmp_path / "net.db") as state:
        assert contents(state) == nothing


async def test_one_by_one(state: State) -> None:
    await fill(state)
    await state.drop_endpoint(GUEST.id)
    await state.drop_allocation(POOL.id, ADDRESS)
    assert state.endpoints_of(NET.id) == []
    assert state.allocations_of(POOL.id) == {}
    assert state.networks == {NET.id: NET}


async def test_removing_what_is_not_there(state: State) -> None:
    await state.drop_network("x")
    await state.drop_endpoint("x")
    await state.drop_pool("x")
    await state.drop_allocation("x", ADDRESS)


async def test_a_change_replaces(tmp_path: Path) -> None:
    async with State(tmp_path / "net.db") as state:
        await fill(state)
        await state.put_endpoint(replace(GUEST, left=True))
    async with State(tmp_path / "net.db") as state:
        assert state.endpoints == {GUEST.id: replace(GUEST, left=True)}


def test_each_node_has_a_range_of_its_own(tmp_path: Path) -> None:
    ranges = {State(tmp_path / str(number)).unique_local_range for number in range(4)}
    assert len(ranges) == 4
    assert all(own.is_private and own.prefixlen == 48 for own in ranges)


async def test_nobody_else_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "net.db"
    async with State(path) as state:
        await fill(state)
        modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        assert (stat.S_IMODE(path.parent.stat().st_mode), modes) == (0o700, {0o600})


def test_a_newer_layout_is_refused(tmp_path: Path) -> None:
    State(tmp_path / "net.db")
    with sqlite3.connect(tmp_path / "net.db") as database:
        database.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    with pytest.raises(Unavailable, match=rf"newer version .*layout {SCHEMA + 1}, known is {SCHEMA}\); install that"):
        State(tmp_path / "net.db")


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "net.db").write_bytes(b"not a database, " * 1000)
    remedy = "make it root's, repair the disk or put a copy back, .* move the file away"
    with pytest.raises(Unavailable, match=rf"net\.db cannot be used: .*; {remedy}"):
        State(tmp_path / "net.db")


@pytest.mark.parametrize(
    ("table", "record"),
    [
        ("networks", b"{"),
        ("networks", b'{"id": 5}'),
        ("networks", b"\xff"),
        ("allocations", b'{"pool_id": "p", "address": "ten"}'),
        ("node", b""),
    ],
)
def test_a_record_that_makes_no_sense(tmp_path: Path, table: str, record: bytes) -> None:
    State(tmp_path / "net.db")
    with sqlite3.connect(tmp_path / "net.db") as database:
        if table == "node":
            database.execute("UPDATE node SET value = 'ten'")
        else:
            database.execute(f"INSERT INTO {table} VALUES ('key', ?)", (record,))  # noqa: S608 - named above
    with pytest.raises(Unavailable, match="cannot be used"):
        State(tmp_path / "net.db")


def test_a_place_where_no_file_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="cannot be used"):
        State(tmp_path / "file" / "net.db")


def widened(record: bytes) -> bytes:
    return msgspec.json.encode({**msgspec.json.decode(record), "of_the_future": [1]})


def test_a_newer_writers_fields_are_passed_over() -> None:
    assert decode(widened(encode(NET)), Network) == NET
    assert decode(widened(encode(GUEST)), Endpoint) == GUEST
    assert decode(widened(encode(POOL)), Pool) == POOL
    assert decode(widened(encode(TAKEN)), Allocation) == TAKEN


def test_an_older_writers_missing_fields_have_defaults() -> None:
    assert decode(b'{"id": "n", "subnets": []}', Network) == Network("n", ())
    assert decode(b'{"id": "e", "network_id": "n", "mac": "m"}', Endpoint) == Endpoint("e", "n", "m")


Change = Callable[[State], Awaitable[None]]


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.put_network(network(2)),
        lambda state: state.put_network(replace(NET, mtu=9000)),
        lambda state: state.put_endpoint(endpoint(NET, 9)),
        lambda state: state.put_endpoint(endpoint(network(7), 9)),
        lambda state: state.put_endpoint(replace(GUEST, left=True)),
        lambda state: state.put_pool(replace(POOL, released=True)),
        lambda state: state.put_pool(Pool("other", "10.9.0.0/24")),
        lambda state: state.put_allocation(ADDRESS + 1, Allocation(POOL.id, str(ADDRESS + 1))),
        lambda state: state.drop_network(NET.id),
        lambda state: state.drop_endpoint(GUEST.id),
        lambda state: state.drop_pool(POOL.id),
        lambda state: state.drop_allocation(POOL.id, ADDRESS),
    ],
)
async def test_what_the_disk_refuses_has_not_happened(tmp_path: Path, change: Change) -> None:
    async with State(tmp_path / "net.db") as state:
        await fill(state)
        before = contents(state)
        # The real refusal of a disk that is full, from SQLite itself.
        state._database.connection.execute("PRAGMA query_only = ON")
        with pytest.raises(Unavailable, match=r"cannot be written: .*; make room or repair the disk"):
            await change(state)
        assert contents(state) == before
        state._database.connection.execute("PRAGMA query_only = OFF")
        await change(state)
        assert contents(state) != before
        after = contents(state)
    async with State(tmp_path / "net.db") as state:
        assert contents(state) == after


def _refusing(state: State, refused: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the disk be full for these of the next writes."""
    real, turns = state._database._commit, iter(refused)

    def commit(statements: Iterable[Statement]) -> None:
        state._database.connection.execute(f"PRAGMA query_only = {'ON' if next(turns) else 'OFF'}")
        real(statements)

    monkeypatch.setattr(state._database, "_commit", commit)


@pytest.mark.parametrize("refused", list(itertools.product([True, False], repeat=3)))
@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(
    "choices",
    [
        pytest.param(
            [
                lambda state: state.put_network(replace(NET, mtu=9000)),
                lambda state: state.put_network(replace(NET, environment="shop")),
                lambda state: state.drop_network(NET.id),
            ],
            id="network",
        ),
        pytest.param(
            [
                lambda state: state.put_endpoint(replace(GUEST, left=True)),
                lambda state: state.put_endpoint(replace(GUEST, sandbox="/s")),
                lambda state: state.drop_endpoint(GUEST.id),
            ],
            id="endpoint",
        ),
        pytest.param(
            [
                lambda state: state.put_pool(replace(POOL, released=True)),
                lambda state: state.put_pool(replace(POOL, dynamic=True)),
                lambda state: state.drop_pool(POOL.id),
            ],
            id="pool",
        ),
        pytest.param(
            [
                lambda state: state.put_allocation(ADDRESS, replace(TAKEN, created=7.0)),
                lambda state: state.drop_allocation(POOL.id, ADDRESS),
                lambda state: state.drop_pool(POOL.id),
            ],
            id="allocation",
        ),
    ],
)
async def test_what_is_changed_at_once_is_in_memory_as_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choices: list[Change], there: bool, refused: list[bool]
) -> None:
    """Whichever of the changes of one record the disk refuses."""
    for number, changes in enumerate(itertools.permutations(choices)):
        path = tmp_path / f"{number}.db"
        async with State(path) as state:
            if there:
                await fill(state)
            _refusing(state, refused, monkeypatch)
            done = await asyncio.gather(*(change(state) for change in changes), return_exceptions=True)
            in_memory = contents(state)
            assert all(one is None or isinstance(one, Unavailable) for one in done)
            assert not state._under_way, "nothing is kept of what is over"
        async with State(path) as state:
            assert contents(state) == in_memory, (number, done)


async def test_what_is_asked_for_twice_at_once_is_written_where_the_disk_refuses_the_first(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    _refusing(state, [True, False], monkeypatch)
    refused, kept = await asyncio.gather(*(state.put_network(NET) for _ in range(2)), return_exceptions=True)
    assert isinstance(refused, Unavailable)
    assert kept is None
    assert state.networks == {NET.id: NET}
    assert state.network_of_pool(POOL.pool) == NET


async def test_stable_upstreams_survive_and_are_found_by_network(tmp_path: Path) -> None:
    here, beyond = Target("10.192.1.2", 80, GUEST.id, NET.id), Target("10.7.0.2", 80)
    table = {20001: (here, beyond), 20002: (here,), 20003: ()}
    async with State(tmp_path / "net.db") as state:
        await state.put_upstreams({**table, 20004: None})
    async with State(tmp_path / "net.db") as state:
        assert state.upstreams == table
        assert (set(state.upstreams_on(NET.id)), set(state.upstreams_on(""))) == ({20001, 20002}, {20001})
        await state.put_upstreams({20001: None, 20002: None, 20003: (here,)})
        assert (set(state.upstreams_on(NET.id)), set(state.upstreams_on(""))) == ({20003}, set())
    async with State(tmp_path / "net.db") as state:
        assert state.upstreams == {20003: (here,)}
        state._database.connection.execute("PRAGMA query_only = ON")
        with pytest.raises(Unavailable, match="cannot be written"):
            await state.put_upstreams({20003: None, 20004: (beyond,)})
        assert state.upstreams == {20003: (here,)}
        assert (set(state.upstreams_on(NET.id)), set(state.upstreams_on(""))) == ({20003}, set())
