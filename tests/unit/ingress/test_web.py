"""What Caddy is answered, and what people can read."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry, Counter

from ingress.caddy.rehearsal import Plan
from ingress.web import admin, asked
from stackpad.errors import Conflict, NotFound, Unavailable


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("?domain=shop.example", 200),
        ("?domain=SHOP.example.", 200),
        ("?domain=other.example", 404),
        ("?domain=", 404),
        ("", 404),
        ("?domain=%00&domain=shop.example", 404),
        ("?domain=*.example", 404),
    ],
)
async def test_a_certificate_may_be_had_for_hosts_of_ours_only(query: str, status: int) -> None:
    async with TestClient(TestServer(asked({"shop.example"}.__contains__))) as client:
        assert (await client.get(f"/ask{query}")).status == status


@pytest.mark.parametrize(
    ("path", "host", "found"),
    [
        ("/.well-known/stackpad/n1", "Shop.Example.:8080", "n1 shop.example"),
        ("/.well-known/stackpad/n1", "other.example", None),
        ("/.well-known/stackpad/", "shop.example", None),
        ("/.well-known/stackpad/n1/n2", "shop.example", None),
    ],
)
async def test_what_proves_a_domain_is_answered_for_those_of_ours(path: str, host: str, found: str | None) -> None:
    def answer(nonce: str, host: str) -> str | None:
        return f"{nonce} {host}" if host == "shop.example" else None

    async with TestClient(TestServer(asked(lambda _: False, answer))) as client:
        answered = await client.get(path, headers={"Host": host})
        assert answered.status == (404 if found is None else 200)
        if found is not None:
            assert await answered.text() == found
    async with TestClient(TestServer(asked(lambda _: True))) as client:
        assert (await client.get(path, headers={"Host": host})).status == 404


class Commanded:
    """Does as it is told, and says what that was."""

    def domains(self) -> list[dict[str, Any]]:
        return [{"domain": "www.example.org"}]

    def allow(self, domain: str, owner: str | None) -> dict[str, Any]:
        if domain == "taken.example":
            raise Conflict("it is another's")
        return {"did": "allow", "domain": domain, "owner": owner}

    def forbid(self, domain: str) -> dict[str, Any]:
        return {"did": "forbid", "domain": domain}

    def release(self, domain: str) -> dict[str, Any]:
        raise NotFound(f"{domain} is claimed by nobody")

    async def check(self, domain: str) -> dict[str, Any]:
        await asyncio.sleep(0)
        raise Unavailable(f"no disk for {domain}")

    def left(self) -> list[dict[str, Any]]:
        return [{"domain": "old.example"}]

    def forget(self, domain: str) -> dict[str, Any] | None:
        return {"did": "forget"} if domain == "old.example" else None


@pytest.mark.parametrize(
    ("path", "body", "status", "answer"),
    [
        ("allow", b'{"domain":"a.b"}', 200, {"did": "allow", "domain": "a.b", "owner": None}),
        ("allow", b'{"domain":"a.b","owner":"x/y/z"}', 200, {"did": "allow", "domain": "a.b", "owner": "x/y/z"}),
        ("allow", b'{"domain":"taken.example"}', 409, {"error": "it is another's"}),
        ("forbid", b'{"domain":"a.b"}', 200, {"did": "forbid", "domain": "a.b"}),
        ("release", b'{"domain":"a.b"}', 404, {"error": "a.b is claimed by nobody"}),
        ("check", b'{"domain":"a.b"}', 503, {"error": "no disk for a.b"}),
    ],
)
async def test_commands_and_what_they_are_refused_with(path: str, body: bytes, status: int, answer: Any) -> None:
    async with TestClient(TestServer(admin(dict, CollectorRegistry(), Commanded()))) as client:
        given = await client.post(f"/domain/{path}", data=body)
        assert (given.status, await given.json()) == (status, answer)
        assert await (await client.get("/domains")).json() == [{"domain": "www.example.org"}]
        assert (await client.get(f"/domain/{path}")).status == 405, "what only reads changes nothing"


@pytest.mark.parametrize("path", ["allow", "forbid", "release", "check"])
async def test_commands_are_refused_where_no_visitors_come_in(path: str) -> None:
    reason: str | None = "ask on trial"
    commands = admin(dict, CollectorRegistry(), Commanded(), elsewhere=lambda: reason)
    async with TestClient(TestServer(commands)) as client:
        given = await client.post(f"/domain/{path}", data=b'{"domain":"a.b"}')
        assert (given.status, await given.json()) == (409, {"error": "ask on trial"})
        assert await (await client.get("/domains")).json() == [{"domain": "old.example"}]
        given = await client.post(f"/domain/{path}", data=b'{"domain":"old.example"}')
        assert (given.status == 200) is (path == "release"), "what is left here from before"
        reason = None
        given = await client.post(f"/domain/{path}", data=b'{"domain":"a.b"}')
        assert given.status != 409, "it has become a control node"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"{}", b'{"domain":5}', b'{"domain":"a.b","owners":"x"}', b'{"domain":"\xff"}', b" " * 5000],
)
@pytest.mark.parametrize("path", ["allow", "forbid", "release", "check"])
async def test_bodies_are_strict(path: str, body: bytes) -> None:
    async with TestClient(TestServer(admin(dict, CollectorRegistry(), Commanded()))) as client:
        given = await client.post(f"/domain/{path}", data=body)
        assert given.status == 400
        assert f"/domain/{path} " in (await given.json())["error"]


@pytest.mark.parametrize(("problem", "status"), [(None, 200), ("Caddy is not there", 503)])
async def test_health_routes_and_metrics(problem: str | None, status: int) -> None:
    registry = CollectorRegistry()
    Counter("stackpad_ingress_writes_total", "Writes", registry=registry).inc(3)
    report: dict[str, Any] = {"problem": problem, "routes": [{"host": "shop.example"}]}
    async with TestClient(TestServer(admin(lambda: report, registry, Commanded()))) as client:
        assert await (await client.get("/routes")).json() == report
        health = await client.get("/healthz")
        assert (health.status, problem or "in step") == (status, (await health.text()).strip())
        assert "stackpad_ingress_writes_total 3.0" in await (await client.get("/metrics")).text()
        assert (await client.get("/elsewhere")).status == 404


async def test_what_is_planned() -> None:
    async def plan() -> Plan:
        return Plan("+1\n", 2, {"x": "bad"})

    async with TestClient(TestServer(admin(dict, CollectorRegistry(), Commanded(), plan))) as client:
        assert await (await client.get("/plan")).json() == {"diff": "+1\n", "writes": 2, "rejected": {"x": "bad"}}
    async with TestClient(TestServer(admin(dict, CollectorRegistry(), Commanded()))) as client:
        assert (await client.get("/plan")).status == 404
