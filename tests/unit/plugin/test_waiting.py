"""When a state that could not be used is opened again: whole, at rest, and never as an empty one instead of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sqlite3
import sys
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from plugin import sockets, waiting
from plugin.database import SCHEMA
from plugin.metrics import Metrics
from plugin.settings import Settings
from plugin.state import State
from plugin.waiting import Waiting
from stackpad.errors import Unavailable

CALLER = """
import json, signal, socket, sys
going, calls, broken = True, 0, []
def stop(*_):
    global going
    going = False
signal.signal(signal.SIGTERM, stop)
print("calling", flush=True)
while going:
    calls += 1
    with socket.socket(socket.AF_UNIX) as there:
        there.settimeout(30)
        try:
            there.connect(sys.argv[1])
            there.sendall(b"POST /Call HTTP/1.1\\r\\nHost: plugin\\r\\nContent-Length: 1\\r\\n\\r\\n0")
            if not there.recv(4096).startswith(b"HTTP/1.1 200"):
                broken.append("no answer")
        except OSError as error:
            broken.append(repr(error))
print(json.dumps([calls, broken]))
"""
"""Calls one after the other, each on a connection of its own, until told to end; prints how many, and what broke."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A state with something in it, cut in half; the whole one is beside it."""
    made = tmp_path / "state" / "net.db"
    close(State(made))
    shutil.copy(made, tmp_path / "whole")
    os.truncate(made, made.stat().st_size // 2)
    return made


def waits_at(path: Path) -> Waiting:
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
    waits = waits_at(path)
    assert [used(waits) for _ in range(3)] == [False] * 3
    assert "net.db cannot be used: database disk image is malformed" in waits.reason
    (tmp_path / "whole").rename(path)
    assert [used(waits) for _ in range(2)] == [False, True]


def test_a_file_is_left_alone_while_it_changes(path: Path, tmp_path: Path) -> None:
    """Its log is part of a database: without the log it would be an older one, and be taken for whole."""
    waits = waits_at(path)
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
    waits = waits_at(path)
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
    waits = waits_at(tmp_path / "state" / "net.db")
    assert not used(waits)
    (tmp_path / "state").unlink()
    assert used(waits)


def test_a_newer_versions_is_waited_for_as_well(path: Path, tmp_path: Path) -> None:
    waits = waits_at(path)
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
    waits = waits_at(path)
    before, held = path.read_bytes(), len(os.listdir("/proc/self/fd"))
    assert [used(waits) for _ in range(3)] == [False] * 3
    assert (path.read_bytes(), len(os.listdir("/proc/self/fd"))) == (before, held)
    assert [file.name for file in path.parent.iterdir()] == ["net.db"]


async def test_the_ingress_is_told_as_well(path: Path, tmp_path: Path) -> None:
    """On its own socket: it is no plugin that is away, and none that is older."""
    settings, stop = Settings(host_run=tmp_path / "run", host_lib=tmp_path), asyncio.Event()
    path.parent.rename(settings.state_file.parent)
    async with asyncio.TaskGroup() as tasks:
        waits = tasks.create_task(waiting.opened(settings, [], Metrics(), stop))
        for socket in (settings.admin_socket, settings.web_socket):
            async with asyncio.timeout(30):
                while not await asyncio.to_thread(socket.exists):  # noqa: ASYNC110 - what is asked has no event
                    await asyncio.sleep(0.01)
            connector = aiohttp.UnixConnector(str(socket))
            async with aiohttp.ClientSession(connector=connector) as session, session.get("http://plugin/web") as answer:
                assert (answer.status, "cannot be used" in await answer.text()) == (503, True), socket
        stop.set()
        assert await waits is None
    assert not settings.web_socket.exists()


async def test_no_call_is_lost_while_others_take_the_sockets_over(tmp_path: Path) -> None:
    """Again and again, with callers on one of two sockets all the time; they end while somebody serves."""
    called, quiet = sockets.listen(tmp_path / "called"), sockets.listen(tmp_path / "quiet")

    async def answer(_: web.Request) -> web.Response:
        return web.Response()

    async with contextlib.AsyncExitStack() as outer:
        outer.callback(called.socket.close)
        outer.callback(quiet.socket.close)
        callers = []
        for _ in range(3):
            words = (sys.executable, "-c", CALLER, str(called.path))
            callers.append(await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE))
            outer.callback(_end, callers[-1])
        for caller in callers:
            assert caller.stdout is not None
            assert await caller.stdout.readline() == b"calling\n"
        for turn in range(150):
            async with contextlib.AsyncExitStack() as stack:
                for listener in (called, quiet):
                    application = web.Application()
                    application.router.add_route("*", "/{path:.*}", answer)
                    await waiting._site(stack, application, [listener])
                await asyncio.sleep(0.01)
                if turn == 149:
                    for caller in callers:
                        caller.terminate()
                    said = [json.loads((await caller.communicate())[0]) for caller in callers]
    assert [broken for _, broken in said] == [[]] * len(callers)
    assert all(calls > 150 for calls, _ in said)


def _end(caller: asyncio.subprocess.Process) -> None:
    if caller.returncode is None:
        caller.kill()
