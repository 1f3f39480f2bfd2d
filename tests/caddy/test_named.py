"""Hosts that are found by name: they come, go and change without a write, and nothing that runs ends by it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import WSMsgType, web

from ingress.caddy.nameserver import NameServer
from ingress.routes import State, Table, WebContainer
from tests.caddy.workshop import HOST, Shop, browser, container, eventually, free_port, shop, upstream, url

OTHER = "other.acme.stackpad.test"


class Named:
    """A shop with ``ROUTING=srv``; what it applies is answered for by name, too."""

    def __init__(self, place: Shop) -> None:
        self.place, self.table = place, Table()
        self.names = NameServer(place.settings)
        self._open: contextlib.AsyncExitStack | None = None

    async def start(self) -> None:
        """Answer Caddy's questions, by the latest table."""
        self._open = contextlib.AsyncExitStack()
        await self.names.serve(self._open)

    async def stop(self) -> None:
        """Answer nothing any more."""
        if self._open is not None:
            await self._open.aclose()
            self._open = None

    async def apply(self, *containers: WebContainer) -> int:
        """Have these served; returns how many writes that took."""
        before = self.place.adapter._api.writes
        self.table = await self.place.apply(*containers, before=self.table)
        self.names.learn(self.table)
        return self.place.adapter._api.writes - before


@pytest.fixture
async def named(binary: str, tmp_path: Path) -> AsyncIterator[Named]:
    async with shop(binary, tmp_path, routing="srv", names_port=free_port()) as place:
        made = Named(place)
        await made.start()
        yield made
        await made.stop()


async def test_hosts_come_and_go_without_a_write(named: Named) -> None:
    place = named.place
    async with upstream("one") as first, upstream("other") as second:
        await named.apply()
        assert await named.apply(container(port=first)) == 0
        assert await place.visit(HOST) == (200, "one")
        assert await named.apply(container(port=first), container("o", port=second, project="other")) == 0
        assert await place.visit(OTHER) == (200, "other")
        assert await named.apply(container(port=second), container("o", port=second, project="other")) == 0
        await eventually(lambda: _is(place, HOST, 200, "other"), "the change")
        assert await named.apply(container(port=second)) == 0
        await eventually(lambda: _is(place, OTHER, 404, "Nothing here"), "the host to be nobody's")
        assert await named.apply(container(port=second, state=State.DOWN)) == 0
        await eventually(lambda: _is(place, HOST, 503, "Not running"), "nobody to be up")
        assert await place.adapter.in_step()


async def test_what_asks_for_something_special_is_in_the_table(named: Named) -> None:
    """Beside those found by name: paths, and whatever options; and names below a wildcard."""
    place = named.place
    async with upstream("one") as first, upstream("below") as second, upstream("wild") as third:
        whole, below = container(port=first), container("b", port=second, service="below", path="/below")
        wild = container("w", port=third, project="wild", domains=("*.wild.example",))
        other = container("o", port=first, project="other")
        assert await named.apply(whole, below, wild, other) > 0
        assert await place.visit(HOST) == (200, "one")
        assert await place.visit(HOST, "/below") == (200, "below")
        assert await place.visit("any.wild.example") == (200, "wild")
        assert await place.visit("wild.acme.stackpad.test") == (200, "wild")
        assert await place.visit(OTHER) == (200, "one")
        assert (await place.visit(HOST, "/", "--header", "Host: nobody.acme.stackpad.test"))[0] == 404


async def test_a_wildcard_has_no_visitors_of_a_name_below_it(named: Named) -> None:
    """Neither its own project's, nor of another one's that had the name before."""
    place = named.place
    async with upstream("exact") as first, upstream("wild") as second:
        exact = container(port=first, project="first", domains=("shop.example.test",))
        wild = container("w", port=second, project="wild", domains=("*.example.test", "own.example.test"))
        await named.apply(exact)
        assert await place.visit("shop.example.test") == (200, "exact")
        await named.apply(exact, wild)
        for _ in range(3):
            assert await place.visit("shop.example.test") == (200, "exact")
        assert await place.visit("any.example.test") == (200, "wild")
        assert await place.visit("own.example.test") == (200, "wild")


async def test_hosts_that_cannot_be_asked_for_are_nobodys_at_once(named: Named) -> None:
    async with upstream("hello") as port:
        await named.apply(container(port=port))
        for odd in (f"{HOST}.", "a..b", f"{'a' * 64}.example", "-a.example", "[::1]", "x_y.z"):
            status, text = await named.place.visit(HOST, "/", "--http1.1", "--header", f"Host: {odd}")
            assert (status, "Nothing here" in text) in {(404, True), (400, False)}, (odd, text)
        assert await named.place.visit(HOST.upper()) == (200, "hello")


async def test_a_change_is_seen_after_nobody_has_answered_for_a_while(named: Named) -> None:
    async with upstream("one") as first, upstream("other") as second:
        await named.apply(container(port=first))
        assert await named.place.visit(HOST) == (200, "one")
        await named.stop()
        await asyncio.sleep(1.5)
        await named.place.visit(HOST)
        await named.start()
        await named.apply(container(port=second))
        await eventually(functools.partial(_is, named.place, HOST, 200, "other"), "the change")


async def test_a_websocket_outlives_whatever_others_do(named: Named) -> None:
    """And what becomes of its own service; with Caddy 2.6, too, which ends them all at a change of its configuration."""

    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    async with upstream(echo) as port, upstream("other") as second, browser() as visitor:
        await named.apply(container(port=port))
        async with visitor.ws_connect(url(named.place)) as socket:
            for number in range(10):
                others = [container(f"o{n}", port=second, project=f"other{n}") for n in range(number)]
                replica = [container("web-2", port=second)] if number % 2 else []
                assert await named.apply(container(port=port), *replica, *others) == 0
                await socket.send_str(f"{number}")
                assert await socket.receive_str() == f"{number}"
            await named.apply()
            await socket.send_str("last")
            message = await socket.receive()
            assert (message.type, message.data) == (WSMsgType.TEXT, "last")


async def test_no_visit_fails_over_redeploys(named: Named) -> None:
    """The new version beside the old one, which goes when Caddy has had the time to ask again."""
    statuses: list[int] = []
    enough = asyncio.Event()

    async def visit() -> None:
        async with browser() as visitor:
            while not enough.is_set():
                async with visitor.get(url(named.place)) as answer:
                    await answer.read()
                    statuses.append(answer.status)

    async def several() -> bool:
        return len(statuses) > 20

    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        old = contextlib.AsyncExitStack()
        port = await old.enter_async_context(upstream("0"))
        await named.apply(container("0", port=port))
        tasks.create_task(visit())
        for number in range(1, 5):
            fresh = contextlib.AsyncExitStack()
            stack.push_async_callback(fresh.aclose)
            now = await fresh.enter_async_context(upstream(str(number)))
            await named.apply(container(str(number), port=now))
            await eventually(functools.partial(_is, named.place, HOST, 200, str(number)), "the new version")
            await asyncio.sleep(1.5)  # longer than Caddy remembers
            await old.aclose()
            old = fresh
        await eventually(several, "some visits")
        enough.set()
    assert set(statuses) == {200}


async def test_who_comes_while_nobody_answers_waits(named: Named) -> None:
    """As for an ingress that is started anew."""
    async with upstream("hello") as port, asyncio.TaskGroup() as tasks:
        await named.apply(container(port=port))
        await named.stop()
        visit = tasks.create_task(named.place.visit(HOST))
        await asyncio.sleep(1.0)
        assert not visit.done()
        await named.start()
        assert await visit == (200, "hello")


async def _is(place: Shop, host: str, status: int, text: str) -> bool:
    found, body = await place.visit(host)
    return found == status and text in body
