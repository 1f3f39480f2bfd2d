"""Redeploys behind a number: a real Caddy, a real kernel and the plugin's own reconciler; visitors notice nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from ingress.routes import State
from stackpad.routeoptions import RouteOptions
from tests.caddy.test_options import HASH
from tests.caddy.workshop import HOST, eventually
from tests.caddy.world import World, made, visitors
from tests.load import browser
from tests.netns import netns as netns
from tests.samples import endpoint_id


@pytest.fixture
async def world(netns: None, binary: str, tmp_path: Path) -> AsyncIterator[World]:
    """A node with a Caddy that is told numbers."""
    async with made(binary, tmp_path) as there:
        yield there


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
            assert await socket.receive_str(timeout=60) == f"c10 {number}"
            await world.start(21 + number, project="other")
            await world.follow()
            await world.stop(20 + number)
            world.forget(20 + number)
        await socket.send_str("last")
        assert await socket.receive_str(timeout=60) == "c10 last"
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


async def test_a_replica_that_asks_for_a_password_is_never_met_without(world: World) -> None:
    """Neither beside one that asks for none, nor at a host of its own, nor when it takes over."""
    await world.start(10)
    second = await world.start(11)
    options = RouteOptions(auth=(("bob", HASH),))
    second.web = replace(second.web, request=replace(second.web.request, domains=("preview.example",), options=options))
    await world.follow()
    assert {await world.shop.visit(HOST) for _ in range(10)} == {(200, "c10")}
    assert await world.shop.status("preview.example") == 401
    let_in = {await world.shop.visit("preview.example", "/", "--user", "bob:secret") for _ in range(10)}
    assert let_in == {(200, "c11")}
    load = visitors(world)
    async with load.going_on():
        await load.some_more(20)
        await world.stop(10)
        await load.some_more(20)
    assert (200, "c11") not in load.seen, load.seen
    assert await world.shop.status() == 401


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
