"""A Caddy in memory takes changes as the real one does; what it shows has no secrets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ingress.caddy.adminapi import Rejected
from ingress.caddy.plannedapi import PlannedApi, secretive
from ingress.caddy.rehearsal import difference

TREE: dict[str, Any] = {"apps": {"x": {"list": [{"@id": "one", "n": 1}, {"n": 2}], "deep": {"@id": "two", "list": []}}}}


@pytest.mark.parametrize(
    ("method", "path", "body", "where", "result"),
    [
        ("PUT", "/config/apps/y", {"a": 1}, ("apps", "y"), {"a": 1}),
        ("POST", "/config/apps/x/list", {"n": 3}, ("apps", "x", "list", 2), {"n": 3}),
        ("PUT", "/config/apps/x/list/0", {"n": 0}, ("apps", "x", "list", 0), {"n": 0}),
        ("PUT", "/config/apps/x/list/2", {"n": 9}, ("apps", "x", "list", 2), {"n": 9}),
        ("PATCH", "/config/apps/x/list", [], ("apps", "x", "list"), []),
        ("PATCH", "/id/one", {"@id": "one"}, ("apps", "x", "list", 0), {"@id": "one"}),
        ("POST", "/id/two/list", 5, ("apps", "x", "deep", "list"), [5]),
        ("DELETE", "/id/one", None, ("apps", "x", "list"), [{"n": 2}]),
        ("DELETE", "/id/two", None, ("apps", "x"), {"list": TREE["apps"]["x"]["list"]}),
    ],
)
async def test_changes(method: str, path: str, body: Any, where: tuple[Any, ...], result: Any) -> None:
    api = PlannedApi(TREE)
    before = json.dumps(TREE)
    await api.change(method, path, body)
    found = api.planned
    for step in where:
        found = found[step]
    assert found == result
    assert (api.writes, json.dumps(TREE)) == (1, before), "counted, and nothing of the real one is changed"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "/id/none", {}),
        ("PATCH", "/config/apps/y", {}),
        ("PUT", "/config/apps/x", {}),
        ("DELETE", "/id/none", None),
        ("PATCH", "/config/apps/x", {"new": {"field": 1}}),
    ],
)
async def test_what_the_real_one_would_refuse(method: str, path: str, body: Any) -> None:
    with pytest.raises(Rejected):
        await PlannedApi(TREE, refused=["field"]).change(method, path, body)


async def test_reading() -> None:
    api = PlannedApi(TREE)
    assert await api.get("/id/one/n") == 1
    assert await api.get("/id/none") is None
    assert await api.get("/config/apps/none/none") is None
    assert await api.tree() == TREE
    assert await PlannedApi({}).tree() == {}


def test_secrets_are_told_apart_and_not_told() -> None:
    def tree(password: str, token: str) -> dict[str, Any]:
        provider = {"name": "cloudflare", "api_token": token}
        return {"a": [{"username": "bob", "password": password}], "challenges": {"dns": {"provider": provider}}}

    assert "hash-1" not in json.dumps(secretive(tree("hash-1", "token-1")))
    assert difference(tree("hash-1", "token-1"), tree("hash-1", "token-1")) == ""
    changed = difference(tree("hash-1", "token-1"), tree("hash-2", "token-1"))
    assert changed.count("(secret ") == 2
    assert "bob" in changed
    assert '"name": "cloudflare"' in difference({}, tree("hash-1", "token-1"))
