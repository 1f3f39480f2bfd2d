"""Looks at certificates: at real servers on loopback that show one, refuse, keep silent or are not there."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from ingress.certificates import seen
from ingress.certificates.reading import Issued
from ingress.certificates.seen import FAILED, UNVISITED, WAITING, Seen
from tests import certs
from tests.freeport import free_port

HOST = "shop.acme.stackpad.test"
ALERT = b"\x15\x03\x03\x00\x02\x02\x50"
"""A fatal alert, internal error: what Caddy answers where it has no certificate."""

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(ALERT)
    writer.close()


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "GAP", 0.0)
    monkeypatch.setattr(seen, "SHORT", 0.01)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def listening(talk: Talk, context: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[int]:
    async with await asyncio.start_server(talk, "127.0.0.1", port, ssl=context) as server:
        yield int(server.sockets[0].getsockname()[1])


@contextlib.asynccontextmanager
async def looking(port: int, path: Path) -> AsyncIterator[Seen]:
    made = Seen(port, path)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(made.run())
        try:
            yield made
        finally:
            running.cancel()


@contextlib.asynccontextmanager
async def caddyish(directory: Path, issuer: str = "An authority") -> AsyncIterator[tuple[int, list[str]]]:
    """A server with a certificate, and the names that were asked for."""
    certs.put(directory, "server", "*.acme.stackpad.test", issuer=issuer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.crt", directory / "server.key")
    asked: list[str] = []
    context.sni_callback = lambda _, name, __: asked.append(str(name))

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with listening(talk, context) as port:
        yield port, asked


async def test_a_look_follows_caddys_question_and_nothing_else_does(tmp_path: Path) -> None:
    async with caddyish(tmp_path) as (port, asked), looking(port, tmp_path / "kept.json") as found:
        assert found.of(HOST) == (None, UNVISITED)
        found.cover({}, [], [HOST, "other.acme.stackpad.test"])
        found.asked(HOST)
        assert found.of(HOST) == (None, WAITING)
        await until(lambda: found.of(HOST)[0] is not None)
        certificate, reason = found.of(HOST)
        assert certificate is not None
        assert (certificate.issuer, reason) == ("An authority", None)
        for _ in range(100):
            found.asked(HOST)
        assert asked == [HOST], "one that is known is not looked at again because Caddy asks"
        assert found.of("other.acme.stackpad.test") == (None, UNVISITED)
        assert found.earliest([HOST, "other.acme.stackpad.test"]) == certificate.not_after
    async with looking(port, tmp_path / "kept.json") as later:
        assert later.of(HOST) == (certificate, None), "also after a restart, without a look"
        assert later.of(HOST, certificate.not_after)[1] == "it has expired"


async def test_none_is_told_and_not_tried_in_a_hot_loop(tmp_path: Path) -> None:
    async with listening(refuse) as port, looking(port, tmp_path / "kept.json") as found:
        found.asked(HOST)
        await until(lambda: found.looks["none"] == 1)
        assert found.of(HOST) == (None, FAILED)
        for _ in range(100):
            found.asked(HOST)
        assert not found._queue
        found._rest[HOST] = (time.monotonic(), found._rest[HOST][1])
        found.asked(HOST)
        await until(lambda: found.looks["none"] == 2)
        assert found._rest[HOST][1] == 2 * seen.FIRST


async def test_a_caddy_that_cannot_be_reached_is_tried_some_times(tmp_path: Path) -> None:
    async with looking(free_port(), tmp_path / "kept.json") as found:
        found.asked(HOST)
        await until(lambda: found.looks["unreachable"] == seen.TRIES)
        assert "does not answer: " in str(found.of(HOST)[1])
        assert found.earliest([HOST]) == 0.0


async def test_many_hosts_are_no_storm(tmp_path: Path) -> None:
    held: list[asyncio.StreamWriter] = []
    most = 0
    letting = asyncio.Event()

    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal most
        held.append(writer)
        most = max(most, len(held))
        await letting.wait()
        held.remove(writer)
        writer.write(ALERT)
        writer.close()

    async with listening(hold) as port, looking(port, tmp_path / "kept.json") as found:
        for number in range(200):
            found.asked(f"p{number}.acme.stackpad.test")
        await until(lambda: len(held) == seen.AT_ONCE)
        letting.set()
        await until(lambda: found.looks["none"] == 200)
        assert most == seen.AT_ONCE


async def test_names_in_files_and_wildcards_need_nobodys_question(tmp_path: Path) -> None:
    files = {"*.acme.stackpad.test": Issued("From a file", time.time() + 1000)}
    async with caddyish(tmp_path) as (port, asked), looking(port, tmp_path / "kept.json") as found:
        found.cover(files, [], [HOST])
        certificate, _ = found.of(HOST)
        assert certificate == files["*.acme.stackpad.test"]
        assert found.earliest([]) == certificate.not_after
        found.cover({}, ["*.acme.stackpad.test", "*.empty.stackpad.test"], [HOST, "a.acme.stackpad.test"])
        assert "none for *.acme.stackpad.test yet" in str(found.of(HOST)[1])
        await until(lambda: found.of(HOST)[0] is not None)
        assert found.of("late.acme.stackpad.test")[0] == found.of(HOST)[0]
        assert asked == ["a.acme.stackpad.test"], "one host stands for all of the organisation"


async def test_what_cannot_be_read_is_seen_again(tmp_path: Path) -> None:
    (tmp_path / "kept.json").write_text('{"a": 1}')
    async with caddyish(tmp_path) as (port, _), looking(port, tmp_path / "kept.json") as found:
        assert found.of("a") == (None, UNVISITED)
        found.asked(HOST)
        await until(lambda: found.of(HOST)[0] is not None)


async def test_memory_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "MAX_KEPT", 3)
    made = Seen(1, tmp_path / "kept.json")
    for number in range(20):
        made._saw(f"known{number}", Issued("x", 1e10 + number))
        made._missed(f"missed{number}", FAILED)
    made._kept()
    assert list(made._known) == ["known19", "known18", "known17"]
    assert (len(made._rest), len(made._reasons)) == (6, 3)
    for number in range(20):
        made.asked(f"new{number}")
    assert len(made._queue) == 3
