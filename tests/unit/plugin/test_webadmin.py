"""What the ingress is shown, as a stream that the plugin can end."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import cast

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from plugin.cluster import Cluster
from plugin.reconciler import Reconciler
from plugin.webadmin import WebAdmin


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
