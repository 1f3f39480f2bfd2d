"""What an ingress may ask of the plugin: what is written here, and nothing that anybody adds elsewhere."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from plugin import sockets
from plugin.admin import ingress as ingressadmin
from plugin.admin.ingress import narrowed, served
from plugin.admin.interface import Admin
from plugin.admin.node import NodeAdmin
from plugin.admin.upstreams import UpstreamAdmin
from plugin.admin.web import WebAdmin
from tests.netns import eventually

MEANT = {
    ("GET", "/web"), ("PUT", "/web"), ("POST", "/web/hosts"), ("GET", "/upstreams"), ("PUT", "/upstreams"),
    ("PATCH", "/upstreams"), ("GET", "/networks"), ("GET", "/services"),
}  # fmt: skip
"""What somebody who has taken an ingress over can ask for; docs/security.md says what comes of it."""

KEPT_FROM_IT = {
    "/node/init", "/node/join", "/node/leave", "/node/rm", "/node/token", "/node/token/rm", "/node/rotate-key",
    "/cluster", "/status", "/ports", "/metrics", "/healthz",
}  # fmt: skip


def whole() -> web.Application:
    """The admin interface of a plugin in no cluster and without networks, as the plugin builds it."""
    cluster = SimpleNamespace(
        shown={},
        membership=None,
        store=None,
        shown_changed=None,
        view=SimpleNamespace(nodes={}, endpoints={}),
        unreached={},
        presence=SimpleNamespace(alone=tuple),
    )
    state, nothing = cast(Any, SimpleNamespace(networks={}, endpoints={}, upstreams={})), cast(Any, None)
    of_cluster = cast(Any, cluster)
    parts = (NodeAdmin(of_cluster, nothing), WebAdmin(of_cluster, nothing), UpstreamAdmin(state, nothing))
    return Admin(nothing, state, nothing, nothing, nothing, *parts).application()


def routes(application: web.Application) -> set[tuple[str, str]]:
    """Methods and paths that are answered."""
    return {(one.method, "" if one.resource is None else one.resource.canonical) for one in application.router.routes()}


def test_it_has_what_is_meant_and_nothing_else() -> None:
    assert routes(narrowed(whole())) == MEANT


async def test_every_other_route_of_the_admin_socket_is_not_there() -> None:
    """Handlers that are reached fail here, for there is no plugin behind them; so a 404 is that of the router."""
    others = routes(whole()) - MEANT
    assert {path for _, path in others} >= KEPT_FROM_IT
    async with TestClient(TestServer(narrowed(whole()))) as client:
        for method, path in others:
            async with client.request(method, path, json={}) as answer:
                there = path in {path for _, path in MEANT}
                assert answer.status == (405 if there else 404), (method, path)


@pytest.mark.parametrize(
    "target",
    ["/node", "/node/leave/", "//node/leave", "/web/../node/leave", "/web/%2e%2e/node/leave", "/web/", "/", "*",
     "http://plugin/node/leave", "/web%00/node/leave", "/NODE/LEAVE", "/web?x=/node/leave/../..//node/leave"],
)  # fmt: skip
async def test_no_way_of_writing_a_path_leads_to_another(target: str) -> None:
    async with TestServer(narrowed(whole())) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(f"POST {target} HTTP/1.1\r\nHost: plugin\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        head = await reader.readline()
        writer.close()
    assert head.split()[1] in {b"404", b"405", b"400"}, head


async def test_what_is_meant_is_answered_by_the_same_handlers() -> None:
    async with TestClient(TestServer(narrowed(whole()))) as client:
        for path, expected in (("/networks", []), ("/services", []), ("/upstreams", {})):
            async with client.get(path) as answer:
                assert (answer.status, await answer.json()) == (200, expected), path
        async with client.put("/upstreams", data=b"[]") as answer:
            assert (answer.status, "cannot be read" in await answer.text()) == (400, True)
        async with client.post("/web/hosts", data=b"{}") as answer:
            assert (answer.status, "do not fit" in await answer.text()) == (400, True)


async def test_few_bodies_are_in_memory_at_a_time() -> None:
    """And who has none is not kept waiting by those who have."""
    reading, most, go = 0, 0, asyncio.Event()

    async def take(request: web.Request) -> web.Response:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        await request.read()
        await go.wait()
        reading -= 1
        return web.Response()

    async def tell(_: web.Request) -> web.Response:
        return web.Response()

    application = web.Application()
    application.router.add_put("/web", take)
    application.router.add_get("/networks", tell)
    async with TestClient(TestServer(narrowed(application))) as client, asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(client.put("/web", data=b"{}")) for _ in range(3 * ingressadmin.BODIES)]
        await eventually(lambda: reading == ingressadmin.BODIES, "as many as may be")
        async with client.get("/networks") as answer:
            assert answer.status == 200
        go.set()
        assert [(await call).status for call in calls] == [200] * len(calls)
    assert most == ingressadmin.BODIES


async def test_a_stop_ends_its_stream_as_well() -> None:
    server = TestServer(narrowed(whole()))
    async with TestClient(server) as client, client.get("/web") as stream:
        assert json.loads(await stream.content.readline())["all"] is True
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.close())
            assert await stream.content.read() == b"" or stream.content.at_eof()


async def say(path: Path) -> bytes:
    """The whole answer to one request on a connection of its own."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"GET /services HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    try:
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def test_there_are_so_many_connections_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams that nobody reads among them; the room of one that goes is another's."""
    monkeypatch.setattr(ingressadmin, "MOST", 3)
    listener = sockets.listen(tmp_path / "web.sock")
    async with served(narrowed(whole()), listener, 1.0):
        held = [await asyncio.open_unix_connection(listener.path) for _ in range(3)]
        held[0][1].write(b"GET /web HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b" 200 " in await held[0][0].readline()
        answer = await say(listener.path)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"3 connections to the plugin's socket for the ingress are open already; close some" in answer
        held[0][1].close()
        async with asyncio.timeout(30):
            while b" 200 " not in await say(listener.path):  # noqa: ASYNC110 - what is asked has no event
                await asyncio.sleep(0.01)
        for _, writer in held:
            writer.close()
            await writer.wait_closed()


async def test_who_went_away_does_not_keep_others_waiting_for_his_body(tmp_path: Path) -> None:
    """A call may wait for the kernel, and an ingress tries again; what it has left must not be in its own way."""
    entered = 0

    async def take(request: web.Request) -> web.Response:
        nonlocal entered
        entered += 1
        if await request.read() == b"slow":
            await asyncio.Event().wait()
        return web.Response()

    application, listener = web.Application(), sockets.listen(tmp_path / "web.sock")
    application.router.add_put("/web", take)
    async with served(narrowed(application), listener, 1.0):
        for _ in range(ingressadmin.BODIES):
            before = entered
            _, writer = await asyncio.open_unix_connection(tmp_path / "web.sock")
            writer.write(b"PUT /web HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nslow")
            while entered == before:  # noqa: ASYNC110 - a call that comes has no event
                await asyncio.sleep(0.01)
            writer.close()
        reader, writer = await asyncio.open_unix_connection(tmp_path / "web.sock")
        writer.write(b"PUT /web HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfast")
        async with asyncio.timeout(60):
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()
    listener.remove()
