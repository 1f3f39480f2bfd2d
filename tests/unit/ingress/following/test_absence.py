"""Whether there is a plugin: one that is only away for a moment is waited for, and one that does not come is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from ingress.following import absence
from ingress.following.absence import PATIENCE, Absence
from ingress.following.fleet import Fleet
from stackpad.listening import Place

LINE = b'{"all": true, "node": "", "control": true, "connected": true, "records": {}}\n'


def test_a_plugin_without_a_socket_is_waited_for_and_not_for_ever() -> None:
    seen = Absence()
    assert seen.waits(socket=False, directory=True, now=100.0)
    assert seen.waits(socket=False, directory=True, now=99.9 + PATIENCE)
    assert not seen.waits(socket=False, directory=True, now=100.0 + PATIENCE)
    assert not seen.waits(socket=False, directory=True, now=1e9)


def test_one_that_was_seen_is_waited_for_anew() -> None:
    seen = Absence()
    for now in (0.0, 2 * PATIENCE):
        assert seen.waits(socket=True, directory=True, now=now)
        assert seen.waits(socket=False, directory=True, now=now + 1.0)
        assert not seen.waits(socket=False, directory=True, now=now + 1.0 + PATIENCE)


def test_without_a_directory_nobody_is_waited_for() -> None:
    assert not Absence().waits(socket=False, directory=False, now=0.0)


@asynccontextmanager
async def plugin(path: Path) -> AsyncIterator[None]:
    """One that tells of no other node."""

    async def told(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(LINE)
        await asyncio.sleep(3600)
        return answer

    application = web.Application()
    application.add_routes([web.get("/web", told)])
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.UnixSite(runner, path).start()
        yield
    finally:
        await runner.cleanup()


async def test_who_waited_in_vain_goes_on_says_so_and_hears_a_plugin_that_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = asyncio.Event()
    fleet = Fleet(Place(tmp_path / "web.sock"), heard.set)
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(fleet.follow())
        async with asyncio.timeout(30):
            while not fleet.problem:  # noqa: ASYNC110 - it has tried once
                await asyncio.sleep(0.01)
            assert fleet.plugin_there
            assert not fleet.lacking
            assert not heard.is_set()
            monkeypatch.setattr(absence, "PATIENCE", 0.0)
            await heard.wait()
            assert not fleet.plugin_there
            assert f"no plugin has a socket in {tmp_path}" in fleet.lacking
            assert "upgraded first" in fleet.lacking
            heard.clear()
            async with plugin(tmp_path / "web.sock"):
                await heard.wait()
                assert fleet.known.is_set()
                assert not fleet.lacking
                following.cancel()


async def test_where_no_directory_is_none_is_missed(tmp_path: Path) -> None:
    fleet = Fleet(Place(tmp_path / "none" / "web.sock"), lambda: None)
    assert not fleet.plugin_there
    assert not fleet.lacking
