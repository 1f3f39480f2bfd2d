"""What visitors get through Caddy for what is in the table."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import aiohttp
from aiohttp import web

from ingress.routes import State
from stackpad.cli import httpport, visit
from stackpad.cli.reports import Routes
from stackpad.labels import Wire
from tests.caddy.workshop import HOST, CaddyProcess, Shop, browser, container, eventually, free_port, upstream, url


async def test_a_host_is_served_and_its_neighbours_are_not(place: Shop) -> None:
    async with upstream("hello") as port:
        await place.apply(container(port=port))
        assert await place.visit(HOST) == (200, "hello")
        assert await place.status("other.acme.stackpad.test") == 0, "no certificate for a host nobody has"
        assert await place.status("shop.acme.stackpad.test.evil.example") == 0
        # One who has a certificate's connection and asks for another host gets our page, not Caddy's empty 200.
        other = "--header", "Host: other.acme.stackpad.test"
        status, answer = await place.visit(HOST, "/", *other, headers=True)
        assert (status, "Nothing here" in answer) == (404, True)
        # Nobody on the way keeps it: a host that is new has it for the moment until Caddy has been told of it.
        assert "cache-control: no-store" in map(str.lower, answer.splitlines())


async def test_http_is_sent_on_to_https(place: Shop) -> None:
    async with upstream() as port:
        await place.apply(container(port=port, domains=("www.example.test",)))
        for host in (HOST, "www.example.test"):
            status, head = await place.visit(host, "/a?b=c", scheme="http", headers=True)
            assert status == 308
            location = next(line for line in head.splitlines() if line.lower().startswith("location:"))
            assert location.split()[1].startswith(f"https://{host}")
            assert location.split()[1].endswith("/a?b=c")
            found = await asyncio.to_thread(
                httpport.ask, host, "/\N{LATIN SMALL LETTER A WITH DIAERESIS}", port_of(place), ()
            )
            step = visit.explain(host, "/", Routes(control=True), (), visit.Answer(), (), 0.0, found)[2]
            assert (step.name, step.ok) == ("HTTP", True), step
            assert f"sends visitors on to https://{host}" in step.text


def port_of(place: Shop) -> int:
    """Where visitors without https come in."""
    return place.settings.http_port


async def test_an_answer_of_the_operators_at_the_http_port_is_told(place: Shop) -> None:
    site = {"listen": [f"127.0.0.1:{port_of(place)}"], "routes": [{"handle": [{"handler": "static_response"}]}]}
    await place.caddy.ask("PUT", "/config/apps/http", {"servers": {"own": site}})
    found = await asyncio.to_thread(httpport.ask, HOST, "/", port_of(place), ())
    assert (found.status, found.problem) == (200, "")
    nobody = await asyncio.to_thread(httpport.ask, HOST, "/", free_port(), ())
    assert (nobody.status, nobody.problem) == (0, "127.0.0.1: Connection refused")


async def test_certificates_are_asked_for_and_refused_when_nobody_answers(place: Shop) -> None:
    async with upstream() as port:
        await place.apply(container(port=port))
        place.known.clear()
        assert await place.status() == 0
        assert HOST in place.questions
        place.known.add(HOST)
        assert await place.status() == 200


async def test_down_is_503_and_gone_is_404(place: Shop) -> None:
    async with upstream() as port:
        up = await place.apply(container(port=port))
        assert await place.status() == 200
        await place.apply(container(port=port, state=State.DOWN), before=up)
        status, answer = await place.visit(HOST, headers=True)
        assert (status, "Not running" in answer, "retry-after: 5" in answer.lower()) == (503, True, True)
        await place.apply()
        status, page = await place.visit(HOST)
        assert (status, "Nothing here" in page) == (404, True)
        await place.apply(container(port=port))
        assert await place.status() == 200, "a host that was removed comes back"


async def test_many_hosts_are_each_their_own(place: Shop) -> None:
    """So many that the table is in parts, and wildcards as many."""
    async with upstream("one") as first, upstream("other") as second:
        numbers = range(600)
        many = [container(f"web-{n}", port=second if n % 2 else first, project=f"p{n}") for n in numbers]
        wild = [
            container(f"wild-{n}", port=second if n % 2 else first, project=f"q{n}", domains=(f"*.w{n}.example",))
            for n in numbers
        ]
        await place.apply(*many, *wild)
        for n in (0, 77, 598):
            text = "other" if n % 2 else "one"
            assert await place.visit(f"p{n}.acme.stackpad.test") == (200, text)
            assert await place.visit(f"any.w{n}.example") == (200, text)
        for nobodys in ("p9999.acme.stackpad.test", "any.w9999.example"):
            assert await place.status("p0.acme.stackpad.test", "/", "--header", f"Host: {nobodys}") == 404


async def test_a_dead_upstream_has_our_page_and_is_not_contagious(place: Shop) -> None:
    async with upstream("alive") as port:
        await place.apply(container(port=free_port()), container("b", port=port, project="other", service="b"))
        for _ in range(3):
            status, page = await place.visit(HOST)
            assert (status, "No answer" in page) == (502, True)
            assert await place.visit("other.acme.stackpad.test") == (200, "alive")


async def test_replicas_take_turns_and_a_dead_one_is_not_noticed(place: Shop) -> None:
    async with upstream("one") as first, upstream("two") as second:
        await place.apply(container("web-1", port=first), container("web-2", port=second))
        assert {(await place.visit(HOST))[1] for _ in range(6)} == {"one", "two"}
        await place.apply(container("web-1", port=first), container("web-2", port=free_port()))
        assert [await place.visit(HOST) for _ in range(8)] == [(200, "one")] * 8


async def test_a_change_of_configuration_ends_no_visit_that_tries_another_replica(place: Shop) -> None:
    """A replica's address goes silent, and that it does is itself a change of what Caddy is told."""
    async with upstream("one") as living:
        with silent() as dead:
            both = await place.apply(container("web-1", port=living), container("web-2", port=dead))
            visits = [asyncio.ensure_future(place.visit(HOST)) for _ in range(4)]
            await eventually(lambda: under_way(place, dead), "a visit to wait for the silent one")
            await place.apply(container("web-1", port=living), before=both)
            assert await asyncio.gather(*visits) == [(200, "one")] * 4


async def under_way(place: Shop, port: int) -> bool:
    """Whether Caddy has a request to this port under way."""
    there = await place.caddy.ask("GET", "/reverse_proxy/upstreams")
    return any(one["address"] == f"127.0.0.1:{port}" and one["num_requests"] for one in there)


@contextlib.contextmanager
def silent() -> Iterator[int]:
    """A port that answers no attempt to connect, not even with a refusal: its queue of connections is full."""
    with socket.socket() as listening, contextlib.ExitStack() as stack:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield int(listening.getsockname()[1])


async def test_paths_go_to_their_services_and_the_longest_wins(place: Shop) -> None:
    async with upstream("web") as one, upstream("api") as two, upstream("v2") as three:
        await place.apply(
            container("web", port=one),
            container("api", port=two, service="api", path="/api"),
            container("v2", port=three, service="v2", path="/api/v2"),
        )
        asked = ("/", "/apix", "/api", "/api/x?y=/api/v2", "/api/v2", "/api/v2/z", "/api/v22")
        answers = [(await place.visit(HOST, path))[1] for path in asked]
        assert answers == ["web", "web", "api", "api", "v2", "v2", "api"]
        await place.apply(container("api", port=two, service="api", path="/api"))
        assert await place.status(HOST, "/elsewhere") == 404


async def test_http2_and_large_bodies_pass_both_ways(place: Shop, tmp_path: Path) -> None:
    body = tmp_path / "large"
    body.write_bytes(bytes(range(256)) * 4096 * 24)

    async def echo(request: web.Request) -> web.Response:
        data = await request.read()
        return web.Response(text=f"{len(data)} {hashlib.sha256(data).hexdigest()}")

    async with upstream(echo) as port:
        await place.apply(container(port=port))
        upload = ("--http2", "--data-binary", f"@{body}")
        expected = f"{body.stat().st_size} {hashlib.sha256(body.read_bytes()).hexdigest()}"
        assert await place.visit(HOST, "/", *upload) == (200, expected)
        version = ("--http2", "--output", str(tmp_path / "body"), "--write-out", "%{http_version}\n%{http_code}")
        assert await place.visit(HOST, "/", *version) == (200, "2")


async def test_what_the_tenant_is_told_of_the_visitor(place: Shop) -> None:
    async def tell(request: web.Request) -> web.Response:
        names = ("Host", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-For")
        return web.json_response({name: request.headers.get(name, "") for name in names})

    async with upstream(tell) as port:
        await place.apply(container(port=port))
        told = json.loads((await place.visit(HOST, "/", "--header", "X-Forwarded-For: 192.0.2.9"))[1])
    assert told["Host"].partition(":")[0] == told["X-Forwarded-Host"].partition(":")[0] == HOST
    assert told["X-Forwarded-Proto"] == "https"
    assert told["X-Forwarded-For"].endswith("127.0.0.1")
    assert "192.0.2.9" not in told["X-Forwarded-For"], "what a visitor says of himself is not believed"


async def test_events_come_while_the_stream_is_open(place: Shop) -> None:
    release = asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: first\n\n")
        await release.wait()
        await response.write(b"data: second\n\n")
        return response

    async with upstream(stream) as port, browser() as session:
        await place.apply(container(port=port))
        await place.status(HOST, "/", "--max-time", "1")  # the certificate
        async with session.get(url(place)) as response:
            assert await asyncio.wait_for(response.content.readuntil(b"\n\n"), 60) == b"data: first\n\n"
            release.set()
            assert await asyncio.wait_for(response.content.readuntil(b"\n\n"), 60) == b"data: second\n\n"


async def test_websockets_pass_and_outlive_changes_where_caddy_can_do_that(place: Shop) -> None:
    async def echo(request: web.Request) -> web.WebSocketResponse:
        there = web.WebSocketResponse()
        await there.prepare(request)
        async for message in there:
            await there.send_str(f"echo {message.data}")
        return there

    async with upstream(echo) as port, upstream() as other, browser() as session:
        before = await place.apply(container(port=port))
        assert await place.status() in {400, 426}
        async with session.ws_connect(url(place)) as socket:
            await socket.send_str("one")
            assert await socket.receive_str(timeout=60) == "echo one"
            await place.apply(container(port=port), container("b", port=other, project="b", service="b"), before=before)
            survives = "stream_close_delay" in json.dumps(await place.caddy.ask("GET", "/id/stackpad"))
            await asyncio.wait_for(_after(socket, survives), 60)


async def _after(socket: aiohttp.ClientWebSocketResponse, survives: bool) -> None:
    if survives:
        await socket.send_str("two")
        assert await socket.receive_str() == "echo two"
    else:
        assert (await socket.receive()).type in {
            aiohttp.WSMsgType.CLOSE,
            aiohttp.WSMsgType.CLOSED,
            aiohttp.WSMsgType.CLOSING,
            aiohttp.WSMsgType.ERROR,
        }


async def test_a_service_that_speaks_http2_without_tls(place: Shop, binary: str, tmp_path: Path) -> None:
    """As gRPC servers do: the upstream is another Caddy, which says what it was spoken to in."""
    port = free_port()
    home = tmp_path / "upstream"
    home.mkdir()
    answer = {"handler": "static_response", "body": "{http.request.proto}"}
    routes = [{"handle": [answer]}]
    server = {"listen": [f"127.0.0.1:{port}"], "routes": routes, "protocols": ["h1", "h2", "h2c"]}
    grpc = CaddyProcess(binary, home, replace(place.settings, caddy_admin=home / "admin.sock"))
    await grpc.start({"apps": {"http": {"servers": {"grpc": {**server, "automatic_https": {"disable": True}}}}}})
    try:
        await place.apply(container(port=port, wire=Wire.H2C))
        assert await place.visit(HOST, "/", "--http2") == (200, "HTTP/2.0")
        await place.apply(container(port=port))
        assert await place.visit(HOST, "/", "--http2") == (200, "HTTP/1.1")
    finally:
        grpc.stop()


async def test_a_request_under_way_is_finished_over_changes(place: Shop) -> None:
    arrived, release = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        if request.path == "/slow":
            arrived.set()
            await release.wait()
        return web.Response(text="done")

    async with upstream(slow) as port, upstream("theirs") as other, asyncio.TaskGroup() as tasks:
        made = await place.apply(container(port=port))
        assert await place.status() == 200
        request = tasks.create_task(place.visit(HOST, "/slow"))
        await arrived.wait()
        for number in range(4):
            more = [container(f"n{number}", port=other, project=f"p{number}", service="n")]
            made = await place.apply(container(port=port), *more, before=made)
        await place.apply(before=made)
        release.set()
        assert await request == (200, "done"), "not even when its own host went"
