"""A node with its plugin's reconciler and its Caddy, in a namespace; containers on it, and visitors.

Containers are namespaces with a server each, as the driver wires them; the engine's part is played by the tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aiohttp import web

from ingress.routes import State, Table, WebContainer
from ingress.upstreams.switch import Switch
from plugin.admin.upstreams import UpstreamAdmin
from plugin.docker.protocol import EndpointRef
from tests.caddy import workshop
from tests.caddy.workshop import HOST, Shop, eventually, shop
from tests.kernel.workbench import Node, node
from tests.load import Load
from tests.netns import Namespace
from tests.samples import endpoint_id, network_id

PORT = 8080

SERVER = """
import asyncio, hashlib, sys
from aiohttp import web
async def take(request):
    size, sha = 0, hashlib.sha256()
    async for chunk in request.content.iter_any():
        size += len(chunk)
        sha.update(chunk)
    return web.Response(text=f"{size} {sha.hexdigest()}")
async def events(request):
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    for number in range(1000):
        await answer.write(f"data: {number}\\n\\n".encode())
        await asyncio.sleep(0.1)
    return answer
async def hello(request):
    await request.read()
    return web.Response(text=sys.argv[1])
async def slow(request):
    await asyncio.sleep(float(request.query.get("seconds", 3)))
    return web.Response(text=sys.argv[1])
async def echo(request):
    there = web.WebSocketResponse()
    await there.prepare(request)
    async for message in there:
        await there.send_str(f"{sys.argv[1]} {message.data}")
    return there
application = web.Application(client_max_size=2**30)
application.add_routes([web.route("*", "/", hello), web.get("/page", hello), web.get("/slow", slow), web.get("/ws", echo),
                        web.post("/upload", take), web.get("/events", events)])
web.run_app(application, port=8080, print=None, access_log=None, shutdown_timeout=10)
"""
"""Ends as a good server does: what is under way is finished after SIGTERM, and nothing new is taken."""


@dataclass
class Container:
    """One version of a service, at a host number of network 1."""

    host: int
    process: subprocess.Popen[bytes]
    web: WebContainer


@dataclass
class World:
    """A node, its plugin, its Caddy, and what the ingress makes of the containers that are there."""

    node: Node
    shop: Shop
    switch: Switch
    containers: dict[int, Container] = field(default_factory=dict)
    down: dict[int, WebContainer] = field(default_factory=dict)
    table: Table = field(default_factory=Table)
    shown: Table = field(default_factory=Table)
    writes: int = 0
    neighbours: int = 0

    async def start(self, host: int, *, project: str = "shop", service: str = "web") -> Container:
        """A container that listens; nobody is sent there before :meth:`follow`."""
        namespace: Namespace = await self.node.container(host, 1)
        process = namespace.call(lambda: subprocess.Popen([sys.executable, "-c", SERVER, f"c{host}"]))
        made = workshop.container(f"{service}-{host}", port=PORT, project=project, service=service)
        made = replace(made, address=f"10.192.1.{host}", endpoint=endpoint_id(host), since=float(host))
        self.containers[host] = Container(host, process, made)
        await eventually(lambda: _accepts(f"10.192.1.{host}"), f"container {host} to listen")
        return self.containers[host]

    async def follow(self) -> None:
        """What the ingress does after each event: the kernel first, then Caddy."""
        containers = [container.web for container in self.containers.values()] + list(self.down.values())
        self.table = workshop.table(*containers, before=self.table)
        carried = {one.upstream: one.endpoint for one in containers}
        shown, _ = await self.switch.place(self.table, carried)
        self.shop.known |= {host.host for host in shown.hosts}
        if shown.hosts != self.shown.hosts:
            self.writes += (await self.shop.adapter.apply(shown)).writes
            self.switch.applied(shown)
        self.shown = shown

    async def stop(self, host: int, *, unheard: bool = False) -> None:
        """As ``docker stop`` does: a signal, of which the ingress hears, and when the server has ended, the container."""
        leaving = self.containers[host]
        if unheard:
            leaving.process.terminate()
            await asyncio.to_thread(leaving.process.wait, 20)
        self.containers.pop(host)
        self.down[host] = replace(leaving.web, state=State.DOWN)
        leaving.process.terminate()
        await self.follow()
        await asyncio.to_thread(leaving.process.wait, 20)
        ref = EndpointRef(network_id=network_id(1), endpoint_id=endpoint_id(host))
        await self.node.driver.leave(ref)
        await self.node.driver.delete_endpoint(ref)

    async def keep_name(self) -> None:
        """The host stays in the table while nobody of it is there, as for a container that is made anew."""
        ghost = workshop.container("ghost", port=PORT)
        self.down[0] = replace(ghost, state=State.DOWN)
        await self.follow()

    def forget(self, host: int) -> None:
        """The stopped container is removed."""
        del self.down[host]

    async def neighbour(self) -> None:
        """Somebody else's change, which Caddy is told of."""
        self.neighbours += 1
        made = workshop.container(f"n{self.neighbours}", port=PORT, project=f"n{self.neighbours}", service="n")
        self.down[-self.neighbours] = replace(made, state=State.DOWN)
        before = self.writes
        await self.follow()
        assert self.writes > before
        self.writes = before


@contextlib.asynccontextmanager
async def made(binary: str, tmp_path: Path, **changes: Any) -> AsyncIterator[World]:
    """One in the namespace that the test is in; ``changes`` are settings of the ingress."""
    sockets = tmp_path / "net.sock"
    async with node(tmp_path) as bench, _plugin(bench, sockets):
        await bench.network(1)
        (tmp_path / "caddy").mkdir()
        changes = {"net_socket": sockets, "state_dir": tmp_path / "state", **changes}
        async with shop(binary, tmp_path / "caddy", **changes) as there:
            there_is = World(bench, there, Switch(there.settings))
            try:
                yield there_is
            finally:
                for container in there_is.containers.values():
                    container.process.kill()
                    container.process.wait()


@contextlib.asynccontextmanager
async def _plugin(made: Node, socket: Path) -> AsyncIterator[None]:
    application = web.Application()
    UpstreamAdmin(made.state, made.reconciler).add_to(application)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.UnixSite(runner, socket).start()
        yield
    finally:
        await runner.cleanup()


async def _accepts(address: str) -> bool:
    try:
        _, writer = await asyncio.open_connection(address, PORT)
    except OSError:
        return False
    writer.close()
    return True


def visitors(world: World, *methods: str) -> Load:
    """Those who ask for the host's page."""
    return Load(f"https://{HOST}:{world.shop.settings.https_port}/", methods=methods or ("GET",))
