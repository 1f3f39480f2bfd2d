"""Kinds of traffic that are not a page: through numbers and through addresses, while Caddy is told of others' changes."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.caddy.workshop import HOST, eventually
from tests.caddy.world import World, made
from tests.load import browser
from tests.netns import netns as netns

SLOW = float(os.environ.get("STACKPAD_SLOW_SECONDS", "3"))
"""Seconds that a slow response takes."""

MEGABYTE = bytes(range(256)) * 4096


@pytest.fixture(params=["numbers", "addresses"])
async def world(request: pytest.FixtureRequest, netns: None, binary: str, tmp_path: Path) -> AsyncIterator[World]:
    """A node whose one service has two containers, which Caddy is told of in either way."""
    numbered = request.param == "numbers"
    async with made(binary, tmp_path, upstreams="auto" if numbered else "direct") as there:
        await there.start(10)
        await there.start(11)
        await there.follow()
        assert await there.shop.status() == 200
        assert ("sp_turn" in str(there.shown)) == numbered
        yield there


def url(world: World, path: str) -> str:
    return f"https://{HOST}:{world.shop.settings.https_port}{path}"


async def test_everything_under_way_goes_on_over_changes_of_others(world: World, tmp_path: Path) -> None:
    """All at once, while Caddy is told of somebody else's service again and again."""
    page = await world.shop.visit(HOST)
    async with asyncio.TaskGroup() as tasks:
        kinds = [tasks.create_task(kind(world)) for kind in (upload, slow, events)]
        while not all(kind.done() for kind in kinds):
            await world.neighbour()
            await asyncio.sleep(0.5)
    assert page[0] == 200
    await websocket(world)
    await http_3(world, tmp_path)


async def upload(world: World) -> None:
    """A hundred megabytes, slowly enough to be under way over a change."""

    async def body() -> AsyncIterator[bytes]:
        for number in range(100):
            yield MEGABYTE
            if number % 20 == 0:
                await eventually(functools.partial(changed_since, world, world.neighbours), "a change")

    expected = hashlib.sha256()
    for _ in range(100):
        expected.update(MEGABYTE)
    async with browser() as session, session.post(url(world, "/upload"), data=body()) as answer:
        assert answer.status == 200
        assert await answer.text() == f"{100 * len(MEGABYTE)} {expected.hexdigest()}"


async def changed_since(world: World, changes: int) -> bool:
    """Whether Caddy has been told something since then."""
    return world.neighbours > changes


async def slow(world: World) -> None:
    """A response that takes its time."""
    status, text = await world.shop.visit(HOST, f"/slow?seconds={SLOW}", "--max-time", str(SLOW + 60))
    assert (status, text in {"c10", "c11"}) == (200, True)


async def events(world: World) -> None:
    """Server-sent events, one by one."""
    async with browser() as session, session.get(url(world, "/events")) as answer:
        for number in range(25):
            assert await asyncio.wait_for(answer.content.readuntil(b"\n\n"), 30) == f"data: {number}\n\n".encode()


async def websocket(world: World) -> None:
    """One outlives a change where Caddy can do that, and is told of its end where it cannot."""
    async with browser() as session, session.ws_connect(url(world, "/ws")) as socket:
        await socket.send_str("before")
        name = (await socket.receive_str(timeout=30)).split()[0]
        await world.neighbour()
        if world.shop.adapter._keep_streams:
            await socket.send_str("after")
            assert await socket.receive_str(timeout=30) == f"{name} after"
        else:
            ends = {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.ERROR}
            assert (await socket.receive(timeout=30)).type in ends


async def http_3(world: World, tmp_path: Path) -> None:
    """A page over QUIC; the rest of the test is done by then, so that a missing client costs nothing else."""
    if shutil.which("gtlsclient") is None:
        pytest.skip("no gtlsclient: install the package ngtcp2-client")
    # It says to the server the name that it looks up, and so the name has to be one.
    (tmp_path / "hosts").write_text(f"127.0.0.1 {HOST}\n")
    port = str(world.shop.settings.https_port)
    (tmp_path / "pages").mkdir()
    ask = ("gtlsclient", "--no-quic-dump", "--exit-on-all-streams-close", f"--download={tmp_path}/pages")
    process = await asyncio.create_subprocess_exec(
        "unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(tmp_path / "hosts"), *ask,
        HOST, port, f"https://{HOST}:{port}/page",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    text = said.decode(errors="replace")
    assert "[:status: 200]" in text, text
    assert (tmp_path / "pages/page").read_text() in {"c10", "c11"}
