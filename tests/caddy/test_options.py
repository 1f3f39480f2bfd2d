"""What a service asks of the proxy by label, as visitors meet it: from the label's text to Caddy's answer.

``alone`` in a name means that a neighbour on the same Caddy is asked, too, and notices nothing.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from ingress.caddy import replies
from ingress.routes import State, WebContainer
from stackpad import routeoptions
from tests.caddy.test_coexistence import OWN, operators, restart
from tests.caddy.workshop import HOST, Shop, browser, container, free_port, upstream, url

HASH = "$2b$04$ekq4YyCSNQvhXlC66UeCD.m0v2NoNXC9WfG8gkjskhpiw7rfIt4EO"
HASH_10 = "$2y$10$SoJTa4Lz0GwpSqELQ5eloehpopfXMweXDoHarvkSsTGGEeuWBW2Zy"
"""Both of the password ``secret``."""

NEIGHBOUR = "calm.acme.stackpad.test"


def asking(name: str = "web-1", *, port: int, labels: dict[str, str], **asks: Any) -> WebContainer:
    """A web container with these labels (without their prefix)."""
    given = {f"stackpad.{label}": text for label, text in labels.items()}
    path = labels.get("path", "")
    return container(name, port=port, path=path, options=routeoptions.read(given), **asks)


async def tell(request: web.Request) -> web.Response:
    """What arrives at the service, as JSON, with headers of its own."""
    told = {"path": request.raw_path, "length": len(await request.read()), "headers": dict(request.headers)}
    return web.json_response(told, headers={"X-Frame-Options": "ALLOW", "X-Own": "service", "Server": "service"})


def field(answer: str, name: str) -> list[str]:
    """All values of a header in what curl has with ``headers=True``."""
    head = answer.replace("\r\n", "\n").partition("\n\n")[0]
    return [line.partition(":")[2].strip() for line in head.split("\n") if line.lower().startswith(f"{name.lower()}:")]


# --- Wildcards


async def test_a_wildcard_has_the_names_one_label_below_and_no_other(place: Shop) -> None:
    async with upstream("wild") as port, upstream("exact") as other:
        await place.apply(
            container(port=port, domains=("*.shop.example",)),
            container("b", port=other, project="b", service="b", domains=("own.other.example", "*.other.example")),
        )
        assert await place.visit("a.shop.example") == (200, "wild")
        assert await place.visit("xn--bcher-kva.shop.example") == (200, "wild")
        for host in ("shop.example", "a.b.shop.example", "a.shop.example.evil.test", "ashop.example"):
            assert await place.status(host) == 0, host
        for host in ("shop.example", "a.b.shop.example", "*.shop.example", ".shop.example", "a.$1.example"):
            status, page = await place.visit("a.shop.example", "/", "--header", f"Host: {host}")
            assert (status, "Nothing here" in page) == (404, True), host
        assert await place.visit("own.other.example") == (200, "exact")
        assert await place.visit(HOST) == (200, "wild")


async def test_a_name_of_its_own_comes_before_a_wildcard(place: Shop) -> None:
    async with upstream("wild") as port, upstream("exact") as other, upstream("two") as second:
        both = (
            container(port=port, domains=("*.shop.example",)),
            container("b", port=other, service="b", project="b", domains=("b.shop.example",)),
        )
        first = await place.apply(both[1])
        made = await place.apply(*both, before=first)
        assert await place.visit("b.shop.example") == (200, "exact")
        assert await place.visit("a.shop.example") == (200, "wild")
        # Also where each of them has more than a line.
        wild = container("web-2", port=second, domains=("*.shop.example",))
        made = await place.apply(*both, wild, before=made)
        assert await place.visit("b.shop.example") == (200, "exact")
        assert {(await place.visit("a.shop.example"))[1] for _ in range(6)} == {"wild", "two"}
        replica = container("b-2", port=second, service="b", project="b", domains=("b.shop.example",))
        await place.apply(both[0], both[1], replica, before=made)
        assert {(await place.visit("b.shop.example"))[1] for _ in range(6)} == {"exact", "two"}
        assert await place.visit("a.shop.example") == (200, "wild")


async def test_below_a_wildcard_everything_is_as_elsewhere(place: Shop) -> None:
    async with upstream("web") as port, upstream(tell) as api:
        domains = ("*.shop.example",)
        web_, api_ = (
            container(port=port, domains=domains),
            asking("api", port=api, labels={"path": "/api", "strip": "true"}, service="api", domains=domains),
        )
        made = await place.apply(web_, api_)
        assert await place.visit("a.shop.example", "/x") == (200, "web")
        assert json.loads((await place.visit("a.shop.example", "/api/x"))[1])["path"] == "/x"
        made = await place.apply(container(port=port, state=State.DOWN, domains=domains), before=made)
        assert await place.status("a.shop.example") == 503
        closed = asking(port=port, labels={"maintenance": "true"}, domains=domains)
        await place.apply(closed, before=made)
        assert "Down for maintenance" in (await place.visit("a.shop.example"))[1]


async def test_an_operators_site_below_a_tenants_wildcard_stays_the_operators(place: Shop) -> None:
    """Without a policy of its own it would come under the wildcard's: another authority, and we asked for permission."""
    base = operators(place)
    base["apps"]["tls"] = {"automation": {"policies": [{"issuers": [{"module": "internal"}]}]}}
    await restart(place, base)
    async with upstream("tenant") as port:
        await place.apply(container(port=port, domains=("*.example.test", "*.free.test")))
        assert await place.visit(OWN) == (200, "the operator's own")
        assert await place.visit("a.free.test") == (200, "tenant")
        assert place.questions == ["a.free.test"]


# --- One name for all


async def test_visitors_of_other_names_are_sent_on_to_the_canonical_one(place: Shop) -> None:
    async with upstream("here") as port:
        domains = ("shop.example", "www.shop.example", "*.shop.example")
        await place.apply(asking(port=port, labels={"canonical": "www.shop.example"}, domains=domains))
        assert await place.visit("www.shop.example", "/a") == (200, "here")
        query = "/a//b/%2e%2F?c=d%20e&f={http.request.host}&g={env.HOME}"
        for host in ("shop.example", "other.shop.example", HOST):
            status, answer = await place.visit(host, query, "--globoff", headers=True)
            expected = f"https://www.shop.example:{place.settings.https_port}{query}"
            assert (status, field(answer, "Location")) == (308, [expected])
        for header in ("Host: shop.example", "Host: shop.example:443"):
            _, answer = await place.visit("shop.example", "/a?b", "--header", header, headers=True)
            assert field(answer, "Location") == ["https://www.shop.example/a?b"], "443 needs no mention"
        status, answer = await place.visit("shop.example", "/", "--http1.1", "--data", "x=y", headers=True)
        assert status == 308, "a form is sent again, as a form"


async def test_a_redirect_leads_to_the_canonical_name_whatever_a_visitor_sends(place: Shop) -> None:
    async with upstream("here") as port:
        await place.apply(
            asking(port=port, labels={"canonical": "www.shop.example"}, domains=("shop.example", "www.shop.example"))
        )
        assert await place.status("shop.example") == 308
        for target in ("x:.evil.example/", "*", "//evil.example/", "https://evil.example/a", "/\\evil.example"):
            method = "OPTIONS" if target == "*" else "GET"
            head = await raw(place, "shop.example", f"{method} {target} HTTP/1.1\r\nHost: shop.example\r\n\r\n")
            for location in field(head, "Location"):
                assert location.startswith("https://www.shop.example/"), target


async def test_some_services_of_a_host_redirect_and_others_do_not(place: Shop) -> None:
    async with upstream("web") as port, upstream("api") as api:
        domains = ("shop.example", "www.shop.example")
        await place.apply(
            container("web", port=port, domains=domains),
            asking("api", port=api, labels={"path": "/api", "canonical": HOST}, service="api", domains=domains),
        )
        assert await place.visit("shop.example", "/x") == (200, "web")
        status, answer = await place.visit("shop.example", "/api/x?y", headers=True)
        assert (status, field(answer, "Location")) == (308, [f"https://{HOST}:{place.settings.https_port}/api/x?y"])
        assert await place.visit(HOST, "/api/x") == (200, "api")


async def raw(place: Shop, host: str, request: str) -> str:
    """What is answered to these very bytes."""
    insecure = ssl.create_default_context()
    insecure.check_hostname, insecure.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", place.settings.https_port, ssl=insecure, server_hostname=host
    )
    writer.write(request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1).encode())
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return answer.decode(errors="replace")


# --- Paths


@pytest.mark.parametrize(
    ("asked", "arrives"),
    [
        ("/api", "/"),
        ("/api/", "/"),
        ("/api/x?y=/api/", "/x?y=/api/"),
        ("/api/api/x", "/api/x"),
        ("/api/a%2Fb%20c", "/a%2Fb%20c"),
        ("/API/x", "/x"),
    ],
)
async def test_the_path_is_stripped_and_the_service_told(place: Shop, asked: str, arrives: str) -> None:
    async with upstream(tell) as port, upstream("web") as other:
        labels = {"path": "/api", "strip": "true"}
        await place.apply(container(port=other), asking("api", port=port, labels=labels, service="api"))
        told = json.loads((await place.visit(HOST, asked, "--header", "X-Forwarded-Prefix: /evil"))[1])
        assert (told["path"], told["headers"]["X-Forwarded-Prefix"]) == (arrives, "/api")
        assert await place.visit(HOST, "/apix") == (200, "web")


async def test_a_path_that_only_looks_like_ours_is_not_stripped(place: Shop) -> None:
    async with upstream(tell) as port, upstream(tell) as other:
        labels = {"path": "/api", "strip": "true"}
        await place.apply(container(port=other), asking("api", port=port, labels=labels, service="api"))
        told = json.loads((await place.visit(HOST, "/api/../x", "--path-as-is"))[1])
        assert told["path"] == "/api/../x", "it is the whole host's"
        assert "X-Forwarded-Prefix" not in told["headers"]


# --- Who may come in


async def test_only_users_with_their_password_come_in_and_a_neighbour_is_alone(place: Shop) -> None:
    async with upstream("inside") as port, upstream("calm") as other:
        await place.apply(
            asking(port=port, labels={"auth": f"bob:{HASH}, a.l+x@example.org:{HASH_10}"}),
            container("c", port=other, project="calm", service="c"),
        )
        status, answer = await place.visit(HOST, headers=True)
        assert (status, "Who are you?" in answer) == (401, True)
        assert field(answer, "WWW-Authenticate")[0].startswith("Basic ")
        for right in ("bob:secret", "a.l+x@example.org:secret"):
            assert await place.visit(HOST, "/", "--user", right) == (200, "inside")
        for wrong in ("bob:Secret", "bob:", "bo:secret", "bobb:secret", "al:secret", ":secret", f"bob:{HASH}"):
            status, answer = await place.visit(HOST, "/", "--user", wrong, headers=True)
            assert (status, "Who are you?" in answer, "inside" in answer) == (401, True, False), wrong
            assert field(answer, "WWW-Authenticate")[0].startswith("Basic ")
        for header in ("Bearer x", "Basic", "Basic %%%", "Basic Ym9iOg", "Negotiate Ym9iOnNlY3JldA=="):
            assert await place.status(HOST, "/", "--header", f"Authorization: {header}") == 401, header
        assert await place.status(HOST, "/", "--header", "Authorization: basic Ym9iOnNlY3JldA==") == 200
        assert await place.visit(NEIGHBOUR) == (200, "calm")
        assert await place.visit(HOST, "/", "--user", "bob:secret", "--header", f"Host: {NEIGHBOUR}") == (200, "calm")


async def test_a_hash_that_no_password_fits_closes_its_own_route_only(place: Shop) -> None:
    async with upstream("inside") as port, upstream("calm") as other:
        await place.apply(
            asking(port=port, labels={"auth": f"bob:$2a$04${'.' * 53}"}),
            container("c", port=other, project="calm", service="c"),
        )
        assert await place.status(HOST, "/", "--user", "bob:secret") == 401
        assert await place.visit(NEIGHBOUR) == (200, "calm")


async def test_only_listed_addresses_come_in_whatever_a_visitor_says_of_himself(place: Shop) -> None:
    async with upstream("inside") as port, upstream("calm") as other:
        calm = container("c", port=other, project="calm", service="c")
        first = await place.apply(asking(port=port, labels={"allow": "127.0.0.2 192.0.2.0/24, 2001:db8::/32"}), calm)
        assert await place.visit(HOST, "/", "--interface", "127.0.0.2") == (200, "inside")
        status, page = await place.visit(HOST)
        assert (status, "Not from here" in page) == (403, True)
        for header in ("X-Forwarded-For: 127.0.0.2", "X-Real-IP: 192.0.2.1", "Forwarded: for=192.0.2.1"):
            assert await place.status(HOST, "/", "--header", header) == 403, header
        assert await place.visit(NEIGHBOUR) == (200, "calm")
        made = await place.apply(asking(port=port, labels={"allow": "::1"}), calm, before=first)
        assert await place.status(HOST) == 403
        six = ("--resolve", f"{HOST}:{place.settings.https_port}:[::1]")
        assert await place.visit(HOST, "/", *six) == (200, "inside")
        await place.apply(asking(port=port, labels={"allow": "::ffff:127.0.0.0/104"}), calm, before=made)
        assert await place.status(HOST) == 200


async def test_the_network_comes_before_the_password_and_both_before_the_rest(place: Shop) -> None:
    async with upstream("inside") as port:
        await place.apply(asking(port=port, labels={"allow": "127.0.0.2", "auth": f"bob:{HASH}", "body": "1"}))
        large = ("--http1.1", "--interface", "127.0.0.2", "--data", "xy", "--user")
        assert [await place.status(HOST, "/", *large, f"bob:{word}") for word in ("secret", "wrong")] == [413, 401]
        assert await place.status(HOST, "/", "--user", "bob:secret") == 403
        assert await place.status(HOST, "/", "--interface", "127.0.0.2") == 401
        assert await place.status(HOST, "/", "--interface", "127.0.0.2", "--user", "bob:secret") == 200


# --- What goes out, what comes in


async def test_headers_are_the_labels_word_and_the_neighbour_is_alone(place: Shop) -> None:
    policy = "default-src 'self'; img-src *; report-uri /x?$1&\\\"<%41>"
    labels = {"headers": f"X-Frame-Options: DENY\nContent-Security-Policy: {policy} | server: x"}
    async with upstream(tell) as port:
        await place.apply(
            asking(port=port, labels=labels),
            container("c", port=port, project="calm", service="c"),
            asking("dead", port=free_port(), labels=labels, project="dead"),
        )
        status, answer = await place.visit(HOST, headers=True)
        assert status == 200
        assert field(answer, "X-Frame-Options") == ["DENY"]
        assert field(answer, "X-Own") == ["service"]
        assert field(answer, "Content-Security-Policy") == [policy]
        assert field(answer, "Server") == ["x"]
        _, answer = await place.visit(NEIGHBOUR, headers=True)
        assert (field(answer, "X-Frame-Options"), field(answer, "Content-Security-Policy")) == (["ALLOW"], [])
        status, answer = await place.visit("dead.acme.stackpad.test", headers=True)
        assert (status, field(answer, "X-Frame-Options")) == (502, []), "our pages are ours"


async def test_a_body_that_is_too_large_is_refused_and_its_neighbour_is_alone(place: Shop, tmp_path: Path) -> None:
    limit = 100_000
    for name, size in (("fits", limit), ("large", limit + 1), ("huge", 40 * limit)):
        (tmp_path / name).write_bytes(b"x" * size)
    async with upstream(tell) as one, upstream(tell) as two:
        labels = {"body": "100kB"}
        await place.apply(
            asking("web-1", port=one, labels=labels),
            asking("web-2", port=two, labels=labels),
            container("c", port=one, project="calm", service="c"),
        )
        # Of known length, and of a length that nobody knows before it has come.
        for way in (
            ("--http1.1",),
            ("--http1.1", "--header", "Transfer-Encoding: chunked"),
            ("--http2",),
            ("--http2", "--header", "Content-Length:"),
        ):
            for method in ("POST", "GET"):
                options = (*way, "--request", method, "--data-binary")
                status, answer = await place.visit(HOST, "/", *options, f"@{tmp_path / 'fits'}")
                assert (status, json.loads(answer)["length"]) == (200, limit), options
                for name in ("large", "huge"):
                    assert await place.status(HOST, "/", *options, f"@{tmp_path / name}") == 413, (options, name)
                # Neither replica is held to have failed.
                assert [await place.status() for _ in range(4)] == [200] * 4, options
        # Where more is sent than is read, a visitor may see the status alone.
        assert "Too large" in (await place.visit(HOST, "/", "--http1.1", "--data-binary", f"@{tmp_path / 'large'}"))[1]
        huge = f"@{tmp_path / 'huge'}"
        assert json.loads((await place.visit(NEIGHBOUR, "/", "--data-binary", huge))[1])["length"] == 40 * limit


# --- Replicas


async def test_a_visitor_comes_back_to_the_same_replica(place: Shop) -> None:
    async with upstream("one") as one, upstream("two") as two, upstream("three") as three:
        labels = {"sticky": "true"}
        only = asking("web-1", port=one, labels=labels)
        first = await place.apply(only)
        status, answer = await place.visit(HOST, headers=True)
        (cookie,) = field(answer, "Set-Cookie")
        assert cookie.startswith("__Host-stackpad-")
        assert set(cookie.split("; ")[1:]) == {"Path=/", "Secure", "HttpOnly", "SameSite=None"}
        more = [asking("web-2", port=two, labels=labels), asking("web-3", port=three, labels=labels)]
        made = await place.apply(only, *more, before=first)
        mine = ("--header", f"Cookie: theme=dark; {cookie.partition(';')[0]}")
        for _ in range(6):
            status, answer = await place.visit(HOST, "/", *mine, headers=True)
            assert (status, answer.splitlines()[-1], field(answer, "Set-Cookie")) == (200, "one", [])
        met = {(await place.visit(HOST))[1] for _ in range(40)}
        assert met == {"one", "two", "three"}, "who has no cookie may get any"
        await place.apply(*more, before=made)
        status, answer = await place.visit(HOST, "/", *mine, headers=True)
        assert (status, len(field(answer, "Set-Cookie"))) == (200, 1), "the replica is gone: another one, to stay"


async def test_a_visitor_of_a_replica_that_takes_no_connection_gets_another(place: Shop) -> None:
    async with upstream("one") as one:
        labels = {"sticky": "true"}
        dead = free_port()
        first = await place.apply(asking("web-2", port=dead, labels=labels))
        _, answer = await place.visit(HOST, headers=True)
        assert not field(answer, "Set-Cookie"), "an answer of ours has nobody to come back to"
        await place.apply(
            asking("web-1", port=one, labels=labels), asking("web-2", port=dead, labels=labels), before=first
        )
        visits = [await place.visit(HOST, headers=True) for _ in range(12)]
        assert {(status, answer.splitlines()[-1]) for status, answer in visits} == {(200, "one")}
        for cookie in {cookie for _, answer in visits for cookie in field(answer, "Set-Cookie")}:
            assert "Secure; HttpOnly" in cookie
            assert await place.visit(HOST, "/", "--header", f"Cookie: {cookie.partition(';')[0]}") == (200, "one")
        # An answer is not asked for twice where the replica has had the request.
        assert await place.status(HOST, "/", "--header", "Cookie: __Host-stackpad-x=y") == 200


async def test_an_answer_that_fails_is_not_asked_for_again_and_has_our_page(place: Shop) -> None:
    asked: list[str] = []

    async def breaks(request: web.Request) -> web.Response:
        asked.append(request.path)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with upstream(breaks) as one, upstream(breaks) as two:
        labels = {"sticky": "true"}
        await place.apply(asking("web-1", port=one, labels=labels), asking("web-2", port=two, labels=labels))
        status, page = await place.visit(HOST, "/once", "--data", "x=y")
        assert (status, "No answer" in page, asked) == (502, True, ["/once"])


async def test_two_services_of_a_host_have_a_cookie_each(place: Shop) -> None:
    async with upstream("web") as port, upstream("api") as api:
        await place.apply(
            asking("web", port=port, labels={"sticky": "true"}),
            asking("api", port=api, labels={"sticky": "true", "path": "/api"}, service="api"),
        )
        answers = [(await place.visit(HOST, path, headers=True))[1] for path in ("/", "/api")]
        assert len({field(answer, "Set-Cookie")[0].partition("=")[0] for answer in answers}) == 2


async def test_who_asks_for_something_else_waits_until_the_oldest_is_gone(place: Shop) -> None:
    """A new version that asks for a password is never served without one."""
    async with upstream("old") as old, upstream("new") as new:
        before = container("web-1", port=old)
        after = asking("web-2", port=new, labels={"auth": f"bob:{HASH}"})
        made = await place.apply(before, after)
        assert {await place.visit(HOST) for _ in range(6)} == {(200, "old")}
        (problem,) = made.problems
        assert (problem.name, "stackpad.auth" in problem.text, "web-1" in problem.text) == ("web-2", True, True)
        assert HASH not in problem.text
        await place.apply(after, before=made)
        assert await place.status() == 401
        assert await place.visit(HOST, "/", "--user", "bob:secret") == (200, "new")


# --- Closed on purpose, and the rest


async def test_maintenance_is_a_page_of_its_own_and_ends(place: Shop) -> None:
    async with upstream("open") as port, upstream("calm") as other:
        calm = container("c", port=other, project="calm", service="c")
        closed = {"maintenance": "true"}
        made = await place.apply(asking(port=port, labels=closed), calm)
        for path in ("/", "/x"):
            status, answer = await place.visit(HOST, path, headers=True)
            assert (status, "Down for maintenance" in answer) == (503, True)
            assert field(answer, "Retry-After") == [replies.MAINTENANCE_RETRY_AFTER]
        assert await place.visit(NEIGHBOUR) == (200, "calm")
        api = asking("api", port=port, labels={**closed, "path": "/api"}, service="api")
        made = await place.apply(container(port=port), api, calm, before=made)
        assert await place.visit(HOST) == (200, "open")
        status, page = await place.visit(HOST, "/api/x")
        assert (status, "Down for maintenance" in page) == (503, True)
        await place.apply(container(port=port), calm, before=made)
        assert await place.visit(HOST, "/api/x") == (200, "open")


EVERYTHING = {
    "path": "/app",
    "strip": "true",
    "auth": f"bob:{HASH}",
    "allow": "127.0.0.0/8",
    "headers": "X-Frame-Options: DENY",
    "body": "1MB",
    "sticky": "true",
    "canonical": HOST,
}


async def test_websockets_and_streams_pass_with_all_options_at_once(place: Shop) -> None:
    release = asyncio.Event()

    async def serve(request: web.Request) -> web.StreamResponse:
        if request.path == "/socket":
            there = web.WebSocketResponse()
            await there.prepare(request)
            async for message in there:
                await there.send_str(f"echo {message.data}")
            return there
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: first\n\n")
        await release.wait()
        await response.write(b"data: second\n\n")
        return response

    async with upstream(serve) as one, upstream(serve) as two, browser() as session:
        await place.apply(*(asking(f"web-{n}", port=port, labels=EVERYTHING) for n, port in enumerate((one, two))))
        assert await place.status(HOST, "/app/stream") == 401
        known = {"Authorization": "Basic Ym9iOnNlY3JldA=="}
        async with session.ws_connect(url(place, HOST, "/app/socket"), headers=known) as there:
            await there.send_str("one")
            assert await there.receive_str(timeout=60) == "echo one"
        async with session.get(url(place, HOST, "/app/stream"), headers=known) as response:
            assert response.headers["X-Frame-Options"] == "DENY"
            assert await asyncio.wait_for(response.content.readuntil(b"\n\n"), 60) == b"data: first\n\n"
            release.set()
            assert await asyncio.wait_for(response.content.readuntil(b"\n\n"), 60) == b"data: second\n\n"


async def test_no_error_ends_in_an_empty_success(place: Shop) -> None:
    """Caddy answers 200 with nothing in it where a list of error routes has none that fits."""
    async with upstream("tenant") as port:
        await place.apply(container(port=port))
        assert await place.status() == 200
        owned = await place.caddy.ask("GET", "/id/stackpad")
        statuses = (400, 401, 403, 413, 418, 425, 499, 500, 502, 503, 504)
        broken = [
            {"match": [{"path": [f"/{status}"]}], "handle": [{"handler": "error", "status_code": str(status)}]}
            for status in statuses
        ]
        owned["handle"][-1]["routes"] = broken
        await place.caddy.ask("PATCH", "/id/stackpad", owned)
        for status in statuses:
            answer = await place.visit(HOST, f"/{status}")
            assert answer[0] == status
            assert "<!doctype html>" in answer[1], status
            assert "{" not in answer[1]


async def test_a_visitor_who_sends_nonsense_gets_no_success(place: Shop) -> None:
    async with upstream(tell) as port:
        await place.apply(container(port=port))
        assert await place.status() == 200
        head = await raw(
            place, HOST, f"POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n"
        )
        assert head.split()[1] in {"400", "502"}
