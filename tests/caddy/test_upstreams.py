"""Redeploys behind a number: a real Caddy, a real kernel and the plugin's own reconciler; visitors notice nothing.

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

import pytest
from aiohttp import web

from ingress.routes import State, Table, WebContainer
from ingress.switch import Switch
from plugin.protocol import EndpointRef
from plugin.upstreamadmin import UpstreamAdmin
from tests.caddy import workshop
from tests.caddy.workshop import HOST, Shop, eventually, shop
from tests.kernel.workbench import Node, node
from tests.load import Load, browser
from tests.netns import Namespace
from tests.netns import netns as netns
from tests.samples import endpoint_id, network_id

PORT = 8080

SERVER = """
import asyncio, sys
from aiohttp import web
async def hello(request):
    await request.read()
    return web.Response(text=sys.argv[1])
async def slow(request):
    await asyncio.sleep(3)
    return web.Response(text=sys.argv[1])
async def echo(request):
    there = web.WebSocketResponse()
    await there.prepare(request)
    async for message in there:
        await there.send_str(f"{sys.argv[1]} {message.data}")
    return there
application = web.Application()
application.add_routes([web.route("*", "/", hello), web.get("/slow", slow), web.get("/ws", echo)])
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


@pytest.fixture
async def world(netns: None, binary: str, tmp_path: Path) -> AsyncIterator[World]:
    sockets = tmp_path / "net.sock"
    async with node(tmp_path) as made, _plugin(made, sockets):
        await made.network(1)
        (tmp_path / "caddy").mkdir()
        changes = {"net_socket": sockets, "state_dir": tmp_path / "state"}
        async with shop(binary, tmp_path / "caddy", **changes) as there:
            there_is = World(made, there, Switch(there.settings))
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


async def test_twenty_redeploys_under_load(world: World) -> None:
    """The new version beside the old one, then the old one is stopped; meanwhile somebody asks for something slow."""
    await world.start(10)
    await world.follow()
    assert await world.shop.status() == 200
    load, writes = visitors(world), world.writes
    async with load.going_on():
        for host in range(11, 31):
            await world.start(host)
            await world.follow()
            async with asyncio.TaskGroup() as tasks:
                # Every fifth time: a response that is still being waited for when its container is told to stop.
                slow = tasks.create_task(world.shop.visit(HOST, "/slow" if host % 5 == 0 else "/"))
                await load.some_more(20)
                await world.stop(host - 1)
            assert slow.result()[0] == 200
            world.forget(host - 1)
    assert load.all_well(), (load.seen, load.failures)
    assert {body for _, body in load.seen} == {f"c{host}" for host in range(10, 31)}
    assert world.writes == writes, "nothing was written to Caddy"


async def test_replicas_stopped_and_started_in_turn_under_load(world: World) -> None:
    await world.start(10)
    await world.start(11)
    await world.follow()
    assert await world.shop.status() == 200
    load, writes = visitors(world), world.writes
    async with load.going_on():
        for number in range(20):
            await world.stop(10 + number)
            world.forget(10 + number)
            await load.some_more(20)
            await world.start(12 + number)
            await world.follow()
            if number % 5 == 0:
                await world.neighbour()
    assert load.all_well(), (load.seen, load.failures)
    assert world.writes == writes


@pytest.mark.parametrize("unheard", [False, True], ids=["heard", "unheard"])
async def test_the_only_container_is_restarted_and_its_visitors_wait(world: World, unheard: bool) -> None:
    """Also over changes for others: the wait is in the kernel, and no change of Caddy's configuration ends it."""
    await world.start(10)
    await world.follow()
    assert await world.shop.status() == 200
    load, writes = visitors(world), world.writes
    async with load.going_on():
        for host in range(10, 13):
            await world.stop(host, unheard=unheard)
            world.forget(host)
            await world.keep_name()
            await world.neighbour()
            await world.start(host + 1)
            await world.neighbour()
            await world.follow()
            await load.some_more(20)
    assert load.all_well(), (load.seen, load.failures)
    assert world.writes == writes


async def test_killed_with_everything_it_had(world: World) -> None:
    await world.start(10)
    await world.start(11)
    await world.follow()
    assert await world.shop.status() == 200
    load, writes = visitors(world), world.writes
    async with load.going_on():
        for host in (10, 11, 12):
            world.containers[host].process.kill()
            await world.stop(host)
            world.forget(host)
            await world.start(host + 2)
            await world.follow()
    assert load.all_well(), (load.seen, load.failures)
    assert world.writes == writes


async def test_who_is_taken_out_and_lives_on_gets_nothing_new_soon(world: World) -> None:
    """Unhealthy, or slow to end: connections that Caddy has kept to it are left behind too, whatever is sent on them."""
    await world.start(10)
    await world.start(11)
    await world.follow()
    assert await world.shop.status() == 200
    load = visitors(world, "GET", "POST")
    async with load.going_on():
        await load.some_more(100)
        world.containers[10].web = replace(world.containers[10].web, state=State.UNHEALTHY)
        await world.follow()

        async def left() -> bool:
            before = load.seen[200, "c10"]
            await load.some_more(100)
            return load.seen[200, "c10"] == before

        await eventually(left, "the last visitor of the one that was taken out")
        await world.stop(10)
    assert load.all_well(), (load.seen, load.failures)


async def test_nobody_left_is_503_after_a_while_and_one_write(world: World) -> None:
    await world.start(10)
    await world.follow()
    assert await world.shop.status() == 200
    writes = world.writes
    await world.stop(10)
    await world.follow()
    assert world.writes == writes, "not at once"

    async def told() -> bool:
        await world.follow()
        return world.writes > writes

    await eventually(told, "Caddy to be told")
    assert world.writes == writes + 1
    status, page = await world.shop.visit(HOST)
    assert (status, "Not running" in page) == (503, True)
    world.forget(10)
    await world.start(11)
    await world.follow()
    assert world.writes == writes + 2, "and it is told at once that somebody is there again"
    assert await world.shop.visit(HOST) == (200, "c11")


async def test_a_container_that_accepts_nothing_has_our_page(world: World) -> None:
    """It is healthy, as Docker says, and does not listen: it may yet, and then it does not."""
    container = await world.start(10)
    await world.follow()
    container.process.kill()
    container.process.wait()
    status, page = await world.shop.visit(HOST)
    assert (status, "No answer" in page) == (502, True)


async def test_websockets_survive_redeploys_of_others(world: World) -> None:
    await world.start(10)
    await world.start(20, project="other")
    await world.follow()
    assert await world.shop.status() == 200
    writes = world.writes
    url = f"https://{HOST}:{world.shop.settings.https_port}/ws"
    async with browser() as session, session.ws_connect(url) as socket:
        for number in range(5):
            await socket.send_str(f"{number}")
            assert await socket.receive_str(timeout=10) == f"c10 {number}"
            await world.start(21 + number, project="other")
            await world.follow()
            await world.stop(20 + number)
            world.forget(20 + number)
        await socket.send_str("last")
        assert await socket.receive_str(timeout=10) == "c10 last"
    assert world.writes == writes


async def test_paths_of_a_host_have_numbers_too(world: World) -> None:
    await world.start(10)
    api = await world.start(11, service="api")
    api.web = replace(api.web, request=replace(api.web.request, path="/api"))
    await world.follow()
    assert await world.shop.visit(HOST) == (200, "c10")
    assert (await world.shop.visit(HOST, "/api"))[0] == 404, "from the container itself, which has no such page"
    writes = world.writes
    second = await world.start(12, service="api")
    second.web = replace(second.web, request=api.web.request)
    await world.follow()
    await world.stop(11)
    world.forget(11)
    assert (await world.shop.visit(HOST, "/api"))[0] == 404
    assert world.writes == writes


async def test_ipv6_only(world: World) -> None:
    made = await world.start(10)
    made.web = replace(made.web, address=str(world.node.state.endpoints[endpoint_id(10)].ip6))
    await world.follow()
    assert await world.shop.visit(HOST) == (200, "c10")
    assert "[fd9c:5acd:5353::" in str(world.shown)


def upstreams_of(world: World) -> list[str]:
    """What Caddy has been told of the one route there is."""
    return list(world.shown.hosts[0].paths[0].upstreams)


async def test_a_plugin_that_comes_and_goes(world: World) -> None:
    """Without one, Caddy has the addresses; numbers as soon as there is one; and what the kernel has stays without it."""
    await world.start(10)
    socket = world.shop.settings.net_socket
    hidden = socket.rename(socket.with_suffix(".away"))
    await world.follow()
    assert upstreams_of(world) == ["10.192.1.10:8080"]
    assert await world.shop.visit(HOST) == (200, "c10")
    hidden.rename(socket)
    world.switch._look_at = 0.0

    async def numbers() -> bool:
        await world.follow()
        return upstreams_of(world) == ["169.254.53.{sp_turn}:20000"]

    await eventually(numbers, "Caddy to be told numbers")
    assert await world.shop.visit(HOST) == (200, "c10")
    socket.rename(hidden)
    await world.start(11)
    await world.follow()
    assert upstreams_of(world) == ["169.254.53.{sp_turn}:20000"], "it may be back soon"
    assert await world.shop.visit(HOST) == (200, "c10")
    world.switch._silent_since = -1e9

    async def addresses() -> bool:
        await world.follow()
        return upstreams_of(world) == ["10.192.1.10:8080", "10.192.1.11:8080"]

    await eventually(addresses, "Caddy to be told addresses")
    assert await world.shop.status() == 200
