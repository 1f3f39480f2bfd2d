"""The steps of a join that do not need a tunnel: what is looked at before the other node knows of us, and the end."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from plugin.joining import joiner, tokens
from plugin.joining.joiner import Joiner
from plugin.model import IPNet, ip_network
from stackpad.errors import Conflict, InvalidRequest, Unavailable
from tests.unit.plugin.joining.test_tokens import ANSWER, TOKEN

GOOD = msgspec.structs.replace(
    TOKEN,
    expires=time.time() + 3600,
    # Nobody is at either: the tunnel is not there, and its ports are closed.
    gateway_address="127.0.0.9",
    endpoints=("192.0.2.1:51820", "[2001:db8::1]:51820", "192.0.2.2:51820"),
    ranges=("10.192.0.0/10", "fd00::/48"),
)
REQUEST = tokens.JoinRequest(token="0a1b2c3d", digest="", name="worker", public_key="", time=0.0)  # noqa: S106


class Here:
    """This node: its routes, and where its tunnel was pointed at."""

    def __init__(self, *routes: str, slow: bool = False) -> None:
        self.routes, self.slow = [ip_network(text) for text in routes], slow
        self.opened: list[str] = []
        self.said: list[str] = []

    async def join(self, token: tokens.Token, limit: float = 0.9) -> None:
        joiner = Joiner(self._open, lambda _: 0.0, self._routes, limit)
        await joiner.join(token, REQUEST, self.said.append)

    async def _open(self, _: tokens.Token, endpoint: str) -> None:
        self.opened.append(endpoint)
        if self.slow:
            await asyncio.Event().wait()

    async def _routes(self) -> list[IPNet]:
        return self.routes


@pytest.mark.parametrize("route", ["10.200.0.0/16", "fd00::/64"])
async def test_a_route_in_the_way_is_told_before_the_other_node_hears_of_us(route: str) -> None:
    here = Here(route)
    with pytest.raises(Conflict, match=f"route for {route}"):
        await here.join(GOOD)
    assert (here.opened, here.said) == ([], [])


async def test_each_address_has_its_turn_and_begins_anew() -> None:
    here = Here("10.0.0.0/8")
    with pytest.raises(Unavailable, match=r"no handshake with 192\.0\.2\.1:51820.*192\.0\.2\.2:51820 .*not made by it"):
        await here.join(GOOD)
    first, *others = GOOD.endpoints
    assert here.opened[:5] == [first, "", others[0], "", others[1]]


async def test_a_step_that_hangs_ends_with_the_join() -> None:
    with pytest.raises(Unavailable, match=r"not in within 0\.1 s: setting the tunnel to 192\.0\.2\.1:51820 up took too"):
        await Here(slow=True).join(GOOD, 0.1)


async def test_a_token_without_an_address_cannot_be_used() -> None:
    with pytest.raises(InvalidRequest, match="set ENDPOINT"):
        await Here().join(msgspec.structs.replace(GOOD, endpoints=()))


async def test_an_answer_whose_store_is_nowhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of it is read at each start."""

    async def answer(_: web.Request) -> web.Response:
        told = msgspec.structs.replace(ANSWER, store=("http://10.192.0.1:2379", "http://[x"))
        return web.Response(body=msgspec.json.encode(told))

    application = web.Application()
    application.router.add_post("/join", answer)
    async with TestServer(application, host="127.0.0.9") as server:
        monkeypatch.setattr(joiner, "JOIN_PORT", server.port)
        with pytest.raises(
            InvalidRequest, match=r"127\.0\.0\.9 says where .* store 'http://\[x' is not an endpoint; write"
        ):
            await Here().join(GOOD, 30.0)
