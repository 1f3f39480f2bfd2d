"""What Caddy is answered, and what people can read."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry, Counter

from ingress.web import admin, asked


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


@pytest.mark.parametrize(("problem", "status"), [(None, 200), ("Caddy is not there", 503)])
async def test_health_routes_and_metrics(problem: str | None, status: int) -> None:
    registry = CollectorRegistry()
    Counter("stackpad_ingress_writes_total", "Writes", registry=registry).inc(3)
    report: dict[str, Any] = {"problem": problem, "routes": [{"host": "shop.example"}]}
    async with TestClient(TestServer(admin(lambda: report, registry))) as client:
        assert await (await client.get("/routes")).json() == report
        health = await client.get("/healthz")
        assert (health.status, problem or "in step") == (status, (await health.text()).strip())
        assert "stackpad_ingress_writes_total 3.0" in await (await client.get("/metrics")).text()
        assert (await client.get("/elsewhere")).status == 404
