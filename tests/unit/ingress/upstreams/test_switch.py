"""What the plugin is told over a real socket, and what is done without it; the plugin here is a script."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from ingress.routes import Table
from ingress.settings import Settings
from ingress.upstreams import stable
from ingress.upstreams.netsocket import NetSocket
from ingress.upstreams.switch import Switch
from stackpad.errors import NotFound, Unavailable
from stackpad.listening import Place
from tests.unit.ingress.test_routes import container, made

CARRIED = {"10.0.0.2:80": "e2" * 20, "10.0.0.3:80": ""}
ONE = made(container("a"))
BOTH = made(container("a"), container("b", address="10.0.0.3"))
NUMBER, ADDRESSES = ("169.254.53.{sp_turn}:20000",), ("10.0.0.2:80",)


class Plugin:
    """Has a table, and keeps what it was told word for word."""

    def __init__(self) -> None:
        self.table: dict[str, list[str]] = {}
        self.said: list[tuple[str, object]] = []
        self.status = 200

    async def answer(self, request: web.Request) -> web.Response:
        if self.status != 200:
            return web.json_response({"error": "no"}, status=self.status)
        body = json.loads(await request.read() or b"null")
        self.said.append((request.method, body))
        if request.method == "PUT":
            self.table = dict(body)
        for number, leads in (body or {}).items() if request.method == "PATCH" else ():
            self.table.pop(number, None)
            if leads is not None:
                self.table[number] = leads
        return web.json_response(self.table if request.method == "GET" else {"numbers": len(self.table)})

    @contextlib.asynccontextmanager
    async def at(self, socket: Path) -> AsyncIterator[None]:
        application = web.Application()
        application.router.add_route("*", "/upstreams", self.answer)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        try:
            await web.UnixSite(runner, socket).start()
            yield
        finally:
            await runner.cleanup()
            socket.unlink(missing_ok=True)  # noqa: ASYNC240 - one look at a directory in memory


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings("stackpad.test", state_dir=tmp_path / "state", net_socket=tmp_path / "net.sock")


async def dials(switch: Switch, table: Table) -> tuple[str, ...]:
    """What Caddy is told of the one route there is, when nothing of it waits any more."""
    while True:
        told, again = await switch.place(table, CARRIED)
        if again is None or again > 0.5:
            return told.hosts[0].paths[0].upstreams
        await asyncio.sleep(again)


async def test_only_what_changes_is_said(settings: Settings) -> None:
    plugin, socket = Plugin(), NetSocket(settings.plugin)
    async with plugin.at(settings.net_socket):
        await socket.have({20000: ("a",), 20001: ()})
        await socket.have({20000: ("a",), 20001: ()})
        await socket.have({20000: ("b",), 20002: ()})
        assert plugin.said == [
            ("PUT", {"20000": ["a"], "20001": []}),
            ("PATCH", {"20000": ["b"], "20002": [], "20001": None}),
        ]
        assert await socket.numbers() == {20000, 20002}


async def test_a_plugin_that_has_its_admin_socket_only_is_told_there(settings: Settings, tmp_path: Path) -> None:
    older, plugin = tmp_path / "older.sock", Plugin()
    socket = NetSocket(Place(settings.net_socket, older))
    assert not socket.exists
    async with plugin.at(older):
        assert socket.exists
        await socket.have({20000: ("a",)})
    later = Plugin()
    async with plugin.at(older), later.at(settings.net_socket):
        await socket.have({20000: ("b",)})
    assert (plugin.table, later.said) == ({"20000": ["a"]}, [("PATCH", {"20000": ["b"]})])


async def test_the_whole_where_the_plugin_has_something_else(settings: Settings) -> None:
    plugin, socket = Plugin(), NetSocket(settings.plugin)
    async with plugin.at(settings.net_socket):
        await socket.have({20000: ("a",)})
        plugin.table["30000"] = ["of somebody else's"]
        await socket.have({20000: ("b",)})
        assert plugin.table == {"20000": ["b"]}
        plugin.status = 503
        with pytest.raises(Unavailable, match="503"):
            await socket.have({20000: ("c",)})
        plugin.status = 200
        await socket.have({20000: ("c",)})
        assert plugin.said[-1] == ("PUT", {"20000": ["c"]})


@pytest.mark.parametrize("status", [404, 405])
async def test_an_old_plugin_is_one_that_is_not_there(settings: Settings, status: int) -> None:
    plugin, socket = Plugin(), NetSocket(settings.plugin)
    with pytest.raises(NotFound, match="there is no plugin"):
        await socket.have({})
    plugin.status = status
    async with plugin.at(settings.net_socket):
        with pytest.raises(NotFound, match="older than this ingress"):
            await socket.have({})


async def test_the_kernel_first_then_a_number_that_stays(settings: Settings) -> None:
    plugin, switch = Plugin(), Switch(settings)
    async with plugin.at(settings.net_socket):
        assert await dials(switch, ONE) == NUMBER
        assert plugin.table == {"20000": [f"10.0.0.2:80@{'e2' * 20}"]}
        assert await dials(switch, BOTH) == NUMBER
        assert plugin.table == {"20000": [f"10.0.0.2:80@{'e2' * 20}", "10.0.0.3:80"]}
        assert (switch.number(BOTH.hosts[0], BOTH.hosts[0].paths[0]), switch.count) == (20000, 1)
        again = Switch(settings)
        assert await dials(again, ONE) == NUMBER, "also after a restart"


async def test_a_number_is_given_up_only_when_caddy_has_it_no_more(settings: Settings) -> None:
    plugin, switch = Plugin(), Switch(settings)
    other = made(container("c", project="blog", address="10.0.0.3"))
    async with plugin.at(settings.net_socket):
        told, _ = await switch.place(ONE, CARRIED)
        switch.applied(told)
        told, _ = await switch.place(other, CARRIED)
        assert plugin.table == {"20000": [], "20001": ["10.0.0.3:80"]}
        switch.applied(told)
        await switch.place(other, CARRIED)
        assert plugin.table == {"20001": ["10.0.0.3:80"]}


async def test_numbers_somebody_may_still_be_sent_to_are_given_to_nobody(settings: Settings) -> None:
    """The file is lost, and Caddy still has what an ingress before this one told it."""
    plugin, switch = Plugin(), Switch(settings)
    plugin.table = {"20000": ["10.9.9.9:80"], "20001": []}
    async with plugin.at(settings.net_socket):
        told, _ = await switch.place(ONE, CARRIED)
        assert told.hosts[0].paths[0].upstreams == ("169.254.53.{sp_turn}:20002",)
        assert plugin.table == {"20000": [], "20001": [], "20002": [f"10.0.0.2:80@{'e2' * 20}"]}
        switch.applied(told)
        await switch.place(ONE, CARRIED)
        assert plugin.table.keys() == {"20002"}


async def test_without_a_plugin_there_are_addresses_and_it_is_said_once(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    switch = Switch(settings)
    for _ in range(3):
        assert await dials(switch, ONE) == ADDRESSES
        switch._look_at = 0.0
    said = capsys.readouterr().out
    assert said.count("Caddy is told the containers' addresses") == 1
    assert "there is no plugin at" in said
    plugin = Plugin()
    async with plugin.at(settings.net_socket):
        assert await dials(switch, ONE) == NUMBER
    assert "Caddy is told numbers" in capsys.readouterr().out


async def test_a_plugin_that_is_silent_for_a_moment_changes_nothing_in_caddy(settings: Settings) -> None:
    plugin, switch = Plugin(), Switch(settings)
    async with plugin.at(settings.net_socket):
        assert await dials(switch, ONE) == NUMBER
        plugin.status = 503
        told, again = await switch.place(BOTH, CARRIED)
        assert told.hosts[0].paths[0].upstreams == NUMBER
        assert again == pytest.approx(0.5)
        switch._silent_since = -1e9
        told, _ = await switch.place(BOTH, CARRIED)
        assert told.hosts[0].paths[0].upstreams == ("10.0.0.2:80", "10.0.0.3:80")
        assert switch.count == 0
        plugin.status, switch._look_at = 200, 0.0
        assert await dials(switch, BOTH) == NUMBER


async def test_as_the_operator_wishes(settings: Settings) -> None:
    plugin, switch = Plugin(), Switch(replace(settings, upstreams="direct"))
    async with plugin.at(settings.net_socket):
        assert await dials(switch, ONE) == ADDRESSES
    assert not plugin.said


async def test_a_full_disk_costs_numbers_and_no_routes(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    settings.state_dir.write_text("in the way")
    plugin, switch = Plugin(), Switch(settings)
    async with plugin.at(settings.net_socket):
        assert await dials(switch, ONE) == ADDRESSES
    assert "new services get no number" in capsys.readouterr().out


def test_a_service_is_known_by_its_owner_its_name_and_its_path() -> None:
    assert list(stable.services(ONE)) == [stable.Service("acme/shop/production", "web", "")]


async def test_on_two_nodes_it_has_two_numbers_and_one_that_stays(settings: Settings) -> None:
    plugin, switch = Plugin(), Switch(settings)
    carried, nodes = dict.fromkeys(CARRIED, ""), {"10.0.0.2:80": "b", "10.0.0.3:80": "c"}
    async with plugin.at(settings.net_socket):
        told, _ = await switch.place(ONE, carried, nodes)
        assert told.hosts[0].paths[0].upstreams == NUMBER
        assert not switch.applied(told)
        told, again = await switch.place(BOTH, carried, nodes)
        assert told.hosts[0].paths[0].upstreams == NUMBER
        assert again == pytest.approx(stable.LOOK, abs=1.0)
        assert plugin.table["20000"] == ["10.0.0.2:80", "10.0.0.3:80"]
        fresh = Switch(settings)
        told, _ = await fresh.place(BOTH, carried, nodes)
        assert told.hosts[0].paths[0].upstreams == (*NUMBER, "169.254.53.{sp_turn}:20001")
        fresh.applied(told)
        await fresh.place(BOTH, carried, nodes)
        assert plugin.table == {"20000": ["10.0.0.2:80"], "20001": ["10.0.0.3:80"]}
        assert fresh.count == 1
        fresh._memory.clear()
        told, _ = await fresh.place(ONE, carried, nodes)
        assert fresh.applied(told), "the kernel is to be told that one of them is over"
        await fresh.place(ONE, carried, nodes)
        assert plugin.table == {"20000": ["10.0.0.2:80"]}
