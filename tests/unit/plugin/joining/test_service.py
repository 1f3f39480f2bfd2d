"""The join service's HTTP, as far as it comes without a store: nobody here has a token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest
import structlog.testing
from aiohttp.test_utils import TestServer

from plugin.joining.guests import Guests
from plugin.joining.service import MOST, TOLD, TOLD_EACH, JoinService
from plugin.resolver.limits import Pace
from plugin.store.loop import StoreLoop
from plugin.store.mesh import View
from stackpad.errors import InvalidRequest, Unavailable

BOUND = 60.0


async def nobody(_: str) -> str:
    raise Unavailable("nobody is there")


@pytest.fixture
def service(tmp_path: Path) -> JoinService:
    def none() -> None:
        raise Unavailable("nobody gets that far")

    return JoinService(none, none, View, Guests(tmp_path), cast(StoreLoop, None), (), nobody)  # type: ignore[arg-type]


@pytest.fixture
async def server(service: JoinService) -> AsyncIterator[TestServer]:
    made = TestServer(service.application())
    async with made:
        yield made


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/join", b"", 405), ("PUT", "/join", b"{}", 405), ("PATCH", "/join", b"", 405),
        ("BREW", "/join", b"", 400), ("POST", "/", b"{}", 404), ("POST", "/join/", b"{}", 404),
        ("POST", "/join?x=%ff", b"{}", 400), ("OPTIONS", "*", b"", 404), ("POST", "/join", b"", 400),
        ("POST", "/join", b"[" * 60_000, 400),
        ("POST", "/join", b"\xff", 400), ("POST", "/join", b"[]", 400), ("POST", "/join", b" " * (MOST + 1), 400),
    ],
)  # fmt: skip
async def test_every_answer_is_the_last_on_its_connection(
    server: TestServer, method: str, path: str, body: bytes, status: int
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    async with asyncio.timeout(BOUND):
        answer = await reader.read()
    writer.close()
    assert answer.split()[1] == str(status).encode(), answer
    assert answer.count(b"\r\nDate: ") == 1


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Transfer-Encoding: chunked", b"x\r\n"),
        (b"Transfer-Encoding: chunked", b"5\r\nabcdefgh\r\n"),
        (b"Content-Length: 4\r\nContent-Encoding: gzip", b"none"),
        (b"Content-Length: 4\r\nContent-Length: 5", b"none"),
        (b"Content-Length: -1", b""),
        (b"Expect: wonders\r\nContent-Length: 2", b"{}"),
    ],
)
async def test_what_is_no_request_is_no_fault_of_ours(server: TestServer, head: bytes, body: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"POST /join HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n" + body)
    async with asyncio.timeout(BOUND):
        answer = await reader.read()
    writer.close()
    assert 400 <= int(answer.split()[1]) < 500, answer


async def test_refusals_do_not_fill_the_log(service: JoinService) -> None:
    service._telling = Pace(TOLD, TOLD_EACH, lambda: 0.0)
    with structlog.testing.capture_logs() as lines:
        for _ in range(TOLD_EACH * 3):
            assert service._refusal(InvalidRequest("no"), "10.192.0.2").status == 400
        assert [line["reason"] for line in lines] == ["no"] * (TOLD_EACH + 1)
        service._refusal(InvalidRequest("no"), "10.192.0.3")
    assert len(lines) == TOLD_EACH + 2, "of another guest it is told"
