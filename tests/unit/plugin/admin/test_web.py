"""What the ingress says, however much, and what it is shown, as a stream that the plugin can end."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from plugin.admin import web as webadmin
from plugin.admin.web import WebAdmin
from plugin.cluster.cluster import Cluster
from plugin.kernel.reconciler import Reconciler
from plugin.local.webdesk import WebDesk


async def test_a_stop_ends_the_stream_instead_of_waiting_for_it() -> None:
    """Docker kills a plugin whose stop takes long, and its sockets stay behind."""
    cluster = SimpleNamespace(shown={"web/n1/c1": b'{"id":"c1"}'}, membership=None, store=None, shown_changed=None)
    application = web.Application()
    WebAdmin(cast(Cluster, cluster), cast(Reconciler, None)).add_to(application)
    server = TestServer(application)
    async with TestClient(server) as client, client.get("/web") as stream:
        first = json.loads(await stream.content.readline())
        assert first["records"] == {"web/n1/c1": {"id": "c1"}}
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.close())
            # To its end, and not to a break.
            assert await stream.content.read() == b"" or stream.content.at_eof()


async def test_a_node_may_have_thousands_of_web_containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Megabytes: more than an HTTP server takes unasked."""

    async def admit(*_: object) -> None:
        return None

    desk = WebDesk(tmp_path / "web.json")
    cluster = SimpleNamespace(desk=desk, web_elements=frozenset, networks_changed=lambda: None, shown_changed=None)
    application = web.Application()
    WebAdmin(cast(Cluster, cluster), cast(Reconciler, SimpleNamespace(admit=admit))).add_to(application)
    labels = {"stackpad.type": "web", "stackpad.headers": "X: " + "y" * 200}
    shape = {"owner": "", "org": "acme", "network": "shop-production", "state": "down", "name": "web", "labels": labels}
    report = {"control": True, "containers": [{**shape, "id": f"{number:064x}"} for number in range(10_000)]}
    body = json.dumps(report).encode()
    async with TestClient(TestServer(application)) as client:
        async with client.put("/web", data=io.BytesIO(body)) as answer:
            assert answer.status == 200, await answer.text()
        assert desk.report is not None
        assert len(desk.report.containers) == 10_000
        monkeypatch.setattr(webadmin, "LARGEST", 1000)
        async with client.put("/web", data=io.BytesIO(body)) as answer:
            assert (answer.status, "at most 1000 bytes" in await answer.text()) == (400, True)
