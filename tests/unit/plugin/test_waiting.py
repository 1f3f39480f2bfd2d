"""When a state that could not be used is opened again: whole, at rest, and never as an empty one instead of it."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from plugin.state import SCHEMA, State
from plugin.waiting import Waiting
from stackpad.errors import Unavailable


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A state with something in it, cut in half; the whole one is beside it."""
    made = tmp_path / "state" / "net.db"
    close(State(made))
    shutil.copy(made, tmp_path / "whole")
    os.truncate(made, made.stat().st_size // 2)
    return made


def waiting(path: Path) -> Waiting:
    with pytest.raises(Unavailable) as caught:
        State(path)
    return Waiting(path, str(caught.value))


def used(waits: Waiting) -> bool:
    return close(waits.look())


def close(state: State | None) -> bool:
    async def leave(state: State) -> None:
        async with state:
            pass

    if state is not None:
        asyncio.run(leave(state))
    return state is not None


def test_a_file_put_in_its_place(path: Path, tmp_path: Path) -> None:
    waits = waiting(path)
    assert [used(waits) for _ in range(3)] == [False] * 3
    assert "net.db cannot be used: database disk image is malformed" in waits.reason
    (tmp_path / "whole").rename(path)
    assert [used(waits) for _ in range(2)] == [False, True]


def test_a_file_is_left_alone_while_it_changes(path: Path, tmp_path: Path) -> None:
    """Its log is part of a database: without the log it would be an older one, and be taken for whole."""
    waits = waiting(path)
    shutil.copy(tmp_path / "whole", path)
    assert not used(waits)
    log = path.with_name("net.db-wal")
    for size in (10, 20, 30):
        log.write_bytes(b"x" * size)
        assert not used(waits)
    log.unlink()
    assert [used(waits) for _ in range(2)] == [False, True]


@pytest.mark.parametrize("empty", [False, True])
def test_a_file_that_is_taken_away_is_not_begun_anew(path: Path, tmp_path: Path, *, empty: bool) -> None:
    waits = waiting(path)
    path.unlink()
    if empty:
        path.touch()
    assert [used(waits) for _ in range(3)] == [False] * 3
    assert "is gone since it could not be used; put a copy there" in waits.reason
    assert not path.exists() or path.stat().st_size == 0
    (tmp_path / "whole").rename(path)
    assert [used(waits) for _ in range(2)] == [False, True]


def test_a_place_that_has_never_had_one(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    waits = waiting(tmp_path / "state" / "net.db")
    assert not used(waits)
    (tmp_path / "state").unlink()
    assert used(waits)


def test_a_newer_versions_is_waited_for_as_well(path: Path, tmp_path: Path) -> None:
    waits = waiting(path)
    (tmp_path / "whole").rename(path)
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    database.close()
    assert [used(waits) for _ in range(3)] == [False] * 3
    assert "newer version" in waits.reason
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA}")
    database.close()
    assert [used(waits) for _ in range(2)] == [False, True]


def test_looking_writes_nothing_and_keeps_nothing_open(path: Path, tmp_path: Path) -> None:
    """A record that makes no sense is found last, after all that could have been written."""
    shutil.copy(tmp_path / "whole", path)
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO networks VALUES ('key', X'7b')")
    database.close()
    waits = waiting(path)
    before, held = path.read_bytes(), len(os.listdir("/proc/self/fd"))
    assert [used(waits) for _ in range(3)] == [False] * 3
    assert (path.read_bytes(), len(os.listdir("/proc/self/fd"))) == (before, held)
    assert [file.name for file in path.parent.iterdir()] == ["net.db"]
