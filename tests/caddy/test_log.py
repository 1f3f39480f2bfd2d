"""Lines of the access log say whose visit it was, in real Caddies."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingress.caddy.accesslog import DEFAULT, SERVER, SINK
from ingress.caddy.adapter import Caddy
from stackpad.routeoptions import RouteOptions
from tests.caddy.workshop import HOST, Shop, container, eventually, shop, upstream

HASH = "$2b$04$ekq4YyCSNQvhXlC66UeCD.m0v2NoNXC9WfG8gkjskhpiw7rfIt4EO"
"""Of the word "secret"; see tests/caddy/test_options.py."""


@pytest.fixture
async def logged(binary: str, tmp_path: Path) -> AsyncIterator[Shop]:
    async with shop(binary, tmp_path, access_log=str(tmp_path / "access.log")) as made:
        yield made


def lines(place: Shop) -> list[dict[str, Any]]:
    file = Path(place.settings.access_log)
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


async def line(place: Shop, number: int) -> dict[str, Any]:
    """The last of so many lines."""

    async def there() -> bool:
        return len(lines(place)) >= number

    await eventually(there, f"{number} lines in the log")
    assert len(lines(place)) == number
    return lines(place)[-1]


def whose(place: Shop, entry: dict[str, Any]) -> str:
    """Owner and service, as each Caddy says it."""
    if place.adapter.lacks:
        assert "stackpad_org" not in entry
        return str(entry["user_id"])
    return "/".join(str(entry[f"stackpad_{name}"]) for name in ("org", "project", "environment", "service"))


async def test_every_kind_of_route(logged: Shop) -> None:
    async with upstream() as port:
        await logged.apply(
            container(port=port),
            container("api", port=port, service="api", path="/api"),
            container("st", port=port, project="blog", environment="staging", service="{http.request.header.X}\n/x"),
            container("wide", port=port, project="wide", domains=("*.wide.example",)),
            container("shut", port=port, project="shut", options=RouteOptions(maintenance=True)),
            container("dead", port=1, project="dead"),
        )
        asked = (
            (HOST, "/", 200, "acme/shop/production/web"),
            (HOST, "/api/x", 200, "acme/shop/production/api"),
            ("blog-staging.acme.stackpad.test", "/", 200, "acme/blog/staging/_http.request.header.X___x"),
            ("a.wide.example", "/", 200, "acme/wide/production/web"),
            ("shut.acme.stackpad.test", "/", 503, "acme/shut/production/web"),
            ("dead.acme.stackpad.test", "/", 502, "acme/dead/production/web"),
        )
        for number, (host, path, status, owner) in enumerate(asked, start=1):
            assert await logged.status(host, path, "-H", "X: forged/by/a/visitor") == status
            entry = await line(logged, number)
            assert (entry["request"]["host"].partition(":")[0], entry["status"]) == (host, status)
            assert whose(logged, entry) == owner
        await logged.visit(HOST, "/", "-H", "Host: unknown.example")
        assert whose(logged, await line(logged, len(asked) + 1)).strip("/") == "", "nobody's"


async def test_a_user_is_told_and_old_caddies_have_room_for_nothing_else(logged: Shop) -> None:
    async with upstream() as port:
        await logged.apply(container(port=port, options=RouteOptions(auth=(("bob", HASH),))))
        assert await logged.status(HOST, "/", "-u", "bob:secret", "-H", "Cookie: a=crumbs") == 200
        entry = await line(logged, 1)
        assert entry["user_id"] == "bob"
        if not logged.adapter.lacks:
            assert whose(logged, entry) == "acme/shop/production/web"
        assert not any(word in json.dumps(entry) for word in ("crumbs", "Ym9iOnNlY3JldA", "secret"))


async def test_nothing_of_it_without_the_setting_and_nothing_is_left(logged: Shop) -> None:
    logged.caddy.stop()
    await logged.caddy.start({"logging": {}})
    made = await logged.apply(container(port=8001))
    for name in (SERVER, SINK, DEFAULT):
        assert await logged.caddy.ask("GET", f"/id/{name}")
    assert await logged.adapter.in_step()
    other = str(logged.caddy.home / "other.log")
    await Caddy(replace(logged.settings, access_log=other)).apply(made)
    assert (await logged.caddy.ask("GET", f"/id/{SINK}"))["writer"] == {"output": "file", "filename": other}
    plain = Caddy(replace(logged.settings, access_log=""))
    assert not await plain.in_step()
    await plain.apply(made)
    assert await plain.in_step()
    config = json.dumps(await logged.caddy.ask("GET", "/config/"))
    for word in (SERVER, SINK, DEFAULT, "sp_who", "log_append", "access.log", "other.log"):
        assert word not in config


async def test_a_log_of_the_operators_stays_as_it_is(logged: Shop) -> None:
    file = logged.caddy.home / "own.log"
    logged.caddy.stop()
    server = {"listen": [f":{logged.settings.https_port}"], "logs": {"default_logger_name": "own"}, "routes": []}
    ports = {"http_port": logged.settings.http_port, "https_port": logged.settings.https_port}
    sink = {"writer": {"output": "file", "filename": str(file)}, "include": ["http.log.access.own"]}
    await logged.caddy.start({"apps": {"http": {**ports, "servers": {"site": server}}}})
    await logged.caddy.ask("PUT", "/config/logging/logs/own", sink)
    async with upstream() as port:
        await logged.apply(container(port=port))
        assert await logged.caddy.ask("GET", "/config/apps/http/servers/site/logs") == server["logs"]
        assert await logged.status() == 200

        async def told() -> bool:
            return file.exists() and bool(file.read_text())

        await eventually(told, "the operator's log")
        assert whose(logged, json.loads(file.read_text().splitlines()[-1])) == "acme/shop/production/web"
        assert not lines(logged)


async def test_a_place_caddy_cannot_write_to_stops_no_visit(binary: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with shop(binary, tmp_path, access_log=str(tmp_path / "file" / "access.log")) as place, upstream() as port:
        await place.apply(container(port=port))
        assert await place.status() == 200
        assert await place.adapter.in_step()
