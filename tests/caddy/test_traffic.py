"""Kinds of traffic that are not a page: through numbers and through addresses, while Caddy is told of others' changes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.caddy.workshop import HOST
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


async def test_a_hundred_megabytes_are_sent_over_changes_of_others(world: World) -> None:
    async def body() -> AsyncIterator[bytes]:
        for number in range(100):
            yield MEGABYTE
            if number in {30, 60}:
                await world.neighbour()

    expected = hashlib.sha256()
    for _ in range(100):
        expected.update(MEGABYTE)
    async with browser() as session, session.post(url(world, "/upload"), data=body()) as answer:
        assert answer.status == 200
        assert await answer.text() == f"{100 * len(MEGABYTE)} {expected.hexdigest()}"


async def test_a_slow_response_is_waited_for_over_changes_of_others(world: World) -> None:
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(world.shop.visit(HOST, f"/slow?seconds={SLOW}", "--max-time", str(SLOW + 60)))
        for _ in range(3):
            await asyncio.sleep(SLOW / 4)
            await world.neighbour()
    status, text = waiting.result()
    assert (status, text in {"c10", "c11"}) == (200, True)


async def test_events_go_on_over_changes_of_others(world: World) -> None:
    async with browser() as session, session.get(url(world, "/events")) as answer:
        for number in range(12):
            assert await asyncio.wait_for(answer.content.readuntil(b"\n\n"), 30) == f"data: {number}\n\n".encode()
            if number % 5 == 4:
                await world.neighbour()


async def test_websockets_go_on_over_changes_of_others_where_caddy_can_do_that(world: World) -> None:
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


async def test_http_3(world: World, tmp_path: Path) -> None:
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
