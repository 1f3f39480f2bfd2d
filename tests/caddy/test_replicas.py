"""Replicas whose addresses Caddy has: what is held against them, and what a visitor can do to them."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter

from aiohttp import web

from stackpad.routeoptions import RouteOptions
from tests.caddy.workshop import HOST, Handler, Shop, browser, container, free_port, upstream, url

ROUNDS = 30


async def broken(place: Shop) -> int:
    """The status of a request whose body is no body: the first chunk has no length."""
    insecure = ssl.create_default_context()
    insecure.check_hostname, insecure.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", place.settings.https_port, ssl=insecure, server_hostname=HOST
    )
    try:
        writer.write(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".encode())
        return int((await asyncio.wait_for(reader.readline(), 30)).split()[1])
    finally:
        writer.transport.abort()


async def visits(place: Shop, method: str) -> Counter[int]:
    """The statuses of visits one after the other, each with a body where ``method`` has one."""
    statuses: Counter[int] = Counter()
    async with browser() as session:
        for _ in range(ROUNDS):
            async with session.request(method, url(place), data=b"x" * 100 if method == "POST" else None) as answer:
                statuses[answer.status] += 1
    return statuses


def named(name: str) -> Handler:
    """A replica that reads what it is sent."""

    async def say(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(text=name)

    return say


async def test_a_visitor_cannot_take_a_site_down(place: Shop) -> None:
    """To Caddy what he breaks is a failure of the replica that he was sent to; there are no more of them to break."""
    async with upstream(named("one")) as one, upstream(named("two")) as two:
        await place.apply(container("web-1", port=one), container("web-2", port=two))
        assert await place.status() == 200
        for _ in range(3):
            # More than there are replicas, and what is held against them lasts longer than what follows.
            assert {await broken(place) for _ in range(4)} <= {400, 502}
            assert [await place.status() for _ in range(4)] == [200] * 4
            assert await place.status(HOST, "/", "--data", "x") == 200
        options = RouteOptions(body=10)
        await place.apply(*(container(f"web-{port}", port=port, options=options) for port in (one, two)))
        too_large = ("--data", "x" * 1000, "--header", "Transfer-Encoding: chunked")
        assert {await place.status(HOST, "/", *too_large) for _ in range(4)} == {413}
        assert [await place.status() for _ in range(4)] == [200] * 4


async def test_visits_with_a_body_while_a_replica_takes_no_connection(place: Shop) -> None:
    """Caddy 2.6 has no body left for another try: it loses one visit in three seconds, and holds it against nobody."""
    async with upstream(named("one")) as one:
        await place.apply(container("web-1", port=one), container("web-2", port=free_port()))
        assert await place.status() == 200
        assert await visits(place, "GET") == {200: ROUNDS}
        found = await visits(place, "POST")
        if place.adapter._keep_streams:
            assert found == {200: ROUNDS}
        else:
            assert found[200] > ROUNDS / 2, found
        # Those that are broken are held against the living one, too.
        await broken(place)
        await broken(place)
        assert await visits(place, "GET") == {200: ROUNDS}
