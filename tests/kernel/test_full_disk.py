"""The state on a file system without room: what is refused has not happened, and who starts there knows all."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import structlog

from plugin import app
from plugin.cluster.cluster import Cluster
from plugin.docker.ipam import Ipam
from plugin.kernel.node import Route
from plugin.kernel.reconciler import Reconciler
from plugin.kernel.writer import Kernel
from plugin.metrics import Metrics
from plugin.model import Pool
from plugin.settings import Settings
from plugin.state import State
from plugin.store.membership import Memory
from plugin.wireguard.backend import Backend
from stackpad import files
from stackpad.engine import Engine
from stackpad.errors import Unavailable
from tests.netns import PROC, eventually
from tests.testbed.shell import ROOT
from tests.unit.plugin.tunnel.test_wants import MINE

POOLS = {f"p{number}": Pool(f"p{number}", f"10.192.{number}.0/24") for number in range(40)}
MORE = Pool("more", "10.193.0.0/24")

_FILL_AND_HANG = """
import asyncio, sys, time
from pathlib import Path
from plugin.model import Pool
from plugin.state import State

async def main():
    state = State(Path(sys.argv[1]))
    for number in range(40):
        await state.put_pool(Pool(f"p{number}", f"10.192.{number}.0/24"))
    print("written", flush=True)
    time.sleep(60)

asyncio.run(main())
"""


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of a MiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for a tmpfs")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=False)


def fill(place: Path) -> Path:
    """Take the last byte; returns what to remove for there to be room again."""
    ballast = place / "ballast"
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return ballast


def written_by_a_killed_one(path: Path) -> None:
    """What is in it is in the file beside the database only."""
    with subprocess.Popen([sys.executable, "-c", _FILL_AND_HANG, path], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)


async def written_to_the_end(path: Path) -> None:
    """What is in it is in the database alone."""
    async with State(path) as state:
        for pool in POOLS.values():
            await state.put_pool(pool)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("by", ["a killed one", "one that has ended", "an older one"])
async def test_who_starts_on_a_full_disk_knows_all_and_writes_when_there_is_room(small: Path, by: str) -> None:
    path = small / "net.db"
    if by == "a killed one":
        written_by_a_killed_one(path)
    else:
        await written_to_the_end(path)
    if by == "an older one":
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("DROP TABLE upstreams")
    ballast = fill(small)
    async with State(path) as state:
        fill(small)  # what opening has freed, somebody else takes
        assert state.pools == POOLS
        own_range = state.unique_local_range
        for _ in range(3):
            with pytest.raises(Unavailable, match=r"net.db cannot be written: .*full; make room"):
                await state.put_pool(MORE)
            with pytest.raises(Unavailable, match=r"net.db cannot be written: .*full; make room"):
                await state.drop_pool("p1")
        assert state.pools == POOLS
        ballast.unlink()
        await state.put_pool(MORE)
        await state.drop_pool("p1")
        await state.put_upstreams({20001: ()})
        after = dict(state.pools)
    async with State(path) as state:
        assert state.pools == after
        assert state.upstreams == {20001: ()}
        assert state.unique_local_range == own_range


async def test_a_state_cannot_begin_on_a_full_disk(small: Path) -> None:
    ballast = fill(small)
    with pytest.raises(Unavailable, match=r"net.db cannot be used"):
        State(small / "net.db")
    ballast.unlink()
    async with State(small / "net.db") as state:
        await state.put_pool(MORE)


def test_a_small_file_is_replaced_whole_or_not_at_all(small: Path) -> None:
    path = small / "view.json"
    files.replace(path, b"old")
    ballast = fill(small)
    with pytest.raises(Unavailable, match=r"view.json cannot be written: .*No space left on device; make room"):
        files.replace(path, b"new" * 4096)
    assert path.read_bytes() == b"old"
    assert sorted(file.name for file in small.iterdir()) == ["ballast", "view.json"]
    ballast.unlink()
    files.replace(path, b"new")
    assert path.read_bytes() == b"new"


async def _no_routes() -> list[Route]:
    return []


async def test_the_janitor_goes_on_when_there_is_room_again(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "JANITOR_EVERY", 0.05)
    monkeypatch.setattr(app, "JANITOR_GRACE", 0.0)
    await written_to_the_end(small / "net.db")
    async with State(small / "net.db") as state, asyncio.TaskGroup() as tasks:
        fill(small)
        with structlog.testing.capture_logs() as told:
            janitor = tasks.create_task(app._janitor(Ipam(state, Settings(host_lib=small), _no_routes), Metrics()))
            await eventually(lambda: len(told) > 1, "it to be told, more than once")
        assert "net.db cannot be written" in told[0]["reason"]
        assert told[0]["log_level"] == "warning"
        assert state.pools == POOLS
        (small / "ballast").unlink()
        await eventually(lambda: not state.pools, "them to be given back")
        janitor.cancel()


async def _no_backend() -> Backend:
    raise Unavailable("none in this test")


async def test_a_store_that_the_settings_name_anew_is_used_and_kept_when_there_is_room_again(
    netns: None, small: Path, tmp_path: Path
) -> None:
    settings = Settings(host_lib=small, store=("http://127.0.0.1:1",))
    directory = settings.state_file.parent
    directory.mkdir()
    memory = Memory(directory)
    memory.save(msgspec.structs.replace(MINE, gateway=None, control=True, store=("http://127.0.0.1:2",)))
    kernel, engine = Kernel(run=tmp_path, proc=PROC), Engine(f"unix://{tmp_path}/engine")
    async with State(settings.state_file) as state, asyncio.TaskGroup() as tasks:
        cluster = Cluster(settings, state, kernel, Reconciler(state, kernel), engine, _no_backend)
        ballast = fill(small)
        with structlog.testing.capture_logs() as told:
            running = tasks.create_task(cluster._run_membership())
            await eventually(lambda: cluster.store, "the store to be asked")
            await eventually(lambda: "127.0.0.1:1" in cluster.store.reason, "the one that is set")  # type: ignore[union-attr]
        assert any("membership.json cannot be written" in each.get("reason", "") for each in told)
        ballast.unlink()
        cluster._changed.set()
        await eventually(lambda: memory.load().store == settings.store, "it to be kept")  # type: ignore[union-attr]
        running.cancel()
