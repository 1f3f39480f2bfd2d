"""Who is let in at a site in the tunnel: real connections, from several addresses of the loopback interface."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from aiohttp import web

from plugin.cluster import door, sites
from plugin.cluster.door import Door
from plugin.cluster.sites import Sites
from plugin.resolver.limits import Pace
from tests.freeport import free_port
from tests.netns import eventually

ONE, OTHER, STRANGER = "127.0.0.11", "127.0.0.12", "127.0.0.13"
ASKED = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"
BOUND = 60.0


@dataclass
class House:
    """A site with a door, and its port."""

    door: Door
    port: int

    async def connect(self, guest: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=(guest, 0))

    async def ask(self, guest: str, said: bytes = ASKED) -> bytes:
        """All that is answered until the connection ends; nothing where it is refused."""
        try:
            reader, writer = await self.connect(guest)
            writer.write(said)
            async with asyncio.timeout(BOUND):
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            with contextlib.suppress(UnboundLocalError):
                writer.close()


async def hello(_: web.Request) -> web.Response:
    return web.Response(text="hello")


async def stuck(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(text="heard")


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(door, "LASTS", 1.0)
    application = web.Application()
    application.router.add_get("/hello", hello)
    application.router.add_post("/stuck", stuck)
    made = House(Door(lambda address: address in {ONE, OTHER}), free_port())
    tasks, descriptors = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))
    async with contextlib.AsyncExitStack() as stack:
        await Sites().serve(stack, application, "127.0.0.1", made.port, made.door)
        yield made
    assert made.door.limit.total == 0
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks, "no task left")
    await eventually(lambda: len(os.listdir("/proc/self/fd")) <= descriptors, "no descriptor left")


async def test_a_guest_is_answered_and_a_stranger_is_not(house: House) -> None:
    close = ASKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert (await house.ask(ONE, close)).endswith(b"hello")
    assert await house.ask(STRANGER, close) == b""


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET /hel", id="half a line"),
        pytest.param(b"GET /hello HTTP/1.1\r\nHost: x\r\n", id="half a head"),
        pytest.param(b"POST /stuck HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf", id="half a body"),
        pytest.param(b"POST /stuck HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf", id="a chunk"),
        pytest.param(ASKED, id="a request, and no other"),
        pytest.param(b"GET /hello HTTP/1.1\r\nHost: x\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", id="an upgrade"),
    ],
)
async def test_every_connection_ends(house: House, said: bytes) -> None:
    """Nobody but the door would end it: the other side goes on waiting."""
    await house.ask(ONE, said)
    await eventually(lambda: house.door.limit.total == 0, "the end of the connection")


async def test_who_does_not_read_keeps_nothing(house: House) -> None:
    _, writer = await house.connect(ONE)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(ASKED * 10_000)
    await eventually(lambda: house.door.limit.total == 1, "the connection")
    await eventually(lambda: house.door.limit.total == 0, "its end")
    writer.transport.abort()


async def test_one_guest_takes_no_other_ones_place(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "LASTS", BOUND)
    held = [await house.connect(ONE) for _ in range(door.EACH)]
    await eventually(lambda: house.door.limit.now[ONE] == door.EACH, "as many as one may have")
    assert await house.ask(ONE) == b"", "one more is refused"
    close = ASKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert (await house.ask(OTHER, close)).endswith(b"hello")
    for _, writer in held:
        writer.close()
    await eventually(lambda: house.door.limit.total == 0, "those to be gone")
    assert (await house.ask(ONE, close)).endswith(b"hello"), "and then it has its place again"


async def test_who_connects_without_end_is_refused_and_others_are_not(house: House) -> None:
    house.door._pace = Pace(door.PACE, door.BURST, lambda: 0.0)
    close = ASKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    answers = [await house.ask(ONE, close) for _ in range(int(door.BURST) * 2)]
    assert answers[int(door.BURST) + 1 :] == [b""] * (int(door.BURST) - 1)
    assert all(answer.endswith(b"hello") for answer in answers[: int(door.BURST)])
    assert (await house.ask(OTHER, close)).endswith(b"hello")


async def test_what_is_no_request_is_not_in_the_log(house: House, caplog: pytest.LogCaptureFixture) -> None:
    for said in (b"\x16\x03\x01\x02\x00\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"A" * 5000 + b"\r\n"):
        assert b" 400 " in (await house.ask(ONE, said)).split(b"\r\n")[0]
    assert not caplog.records


def test_a_port_that_somebody_has_is_told() -> None:
    with contextlib.closing(sites._listen("127.0.0.1", port := free_port())) as first:
        first.listen()
        with pytest.raises(Exception, match=f"127.0.0.1:{port} cannot be listened on"):
            sites._listen("127.0.0.1", port)
