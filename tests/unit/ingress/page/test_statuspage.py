"""Who is served the status page, and with which words to the browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from ingress.page import statuspage
from ingress.page.plugindesk import PluginDesk
from ingress.page.statuspage import HEADERS, StatusPage, is_local
from stackpad.listening import Place
from tests.browser import fleet

Client = TestClient[web.Request, web.Application]


def client(tmp_path: Path) -> Client:
    page = StatusPage(lambda: fleet.facts(*fleet.CONTAINERS), PluginDesk(Place(tmp_path / "none")), fleet.BASE)
    return TestClient(TestServer(page.application()))


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True), ("LOCALHOST:8080", True), ("127.0.0.1:8080", True), ("127.8.9.1", True), ("[::1]:80", True),
        ("[::1]", True), ("", True), ("example.org", False), ("127.0.0.1.example.org", False), ("192.0.2.1", False),
        ("[2001:db8::1]:80", False), ("localhost.example.org:80", False), ("[::1", False), ("127.1", False),
    ],
)  # fmt: skip
def test_whose_name_may_be_asked_for(host: str, local: bool) -> None:
    assert is_local(host) is local


@pytest.mark.parametrize("path", ["/", "/events", "/page.css", "/page.js", "/none"])
async def test_other_hosts_names_are_refused_everywhere(tmp_path: Path, path: str) -> None:
    async with client(tmp_path) as visitor:
        answer = await visitor.get(path, headers={"Host": "evil.example:8080"})
        assert answer.status == 421
        assert "acme" not in await answer.text()


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/", 200, "text/html; charset=utf-8"),
        ("/?q=%00%3Cb", 200, "text/html; charset=utf-8"),
        ("/page.css", 200, "text/css; charset=utf-8"),
        ("/page.js", 200, "text/javascript; charset=utf-8"),
        ("/none", 404, "text/plain; charset=utf-8"),
    ],
)
async def test_all_answers_are_guarded(tmp_path: Path, path: str, status: int, kind: str) -> None:
    async with client(tmp_path) as visitor:
        answer = await visitor.get(path)
        assert (answer.status, answer.headers["Content-Type"]) == (status, kind)
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert (await visitor.post(path)).status in {404, 405}, "it only reads"


async def test_viewers_get_every_part_and_only_so_many_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statuspage, "MOST_VIEWERS", 1)
    async with client(tmp_path) as visitor:
        stream = await visitor.get("/events?q=shop")
        assert stream.headers["Content-Type"] == "text/event-stream"
        assert HEADERS.items() <= stream.headers.items()
        found: dict[str, str] = {}
        while len(found) < 6:
            line = await stream.content.readline()
            if line.startswith(b"data: "):
                name, content = json.loads(line.removeprefix(b"data: "))
                found[name] = content
        assert list(found) == ["summary", "attention", "map", "routes", "environments", "nodes"]
        assert "shop.acme.example.org" in found["routes"]
        assert "wiki" not in found["routes"]
        assert (await visitor.get("/events")).status == 503
