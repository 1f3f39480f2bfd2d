"""Answers Caddy's questions for services by name, and serves the pages of hosts nobody is up for; on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import cast

from aiohttp import web

from ingress import sites
from ingress.caddy import named, replies
from ingress.caddy.named import Hosts
from ingress.routes import Table
from ingress.settings import Settings
from stackpad.errors import Unavailable


class NameServer:
    """Datagrams and pages on one address and port; both from memory."""

    def __init__(self, settings: Settings) -> None:
        self._host, self._port, self._address = settings.names_host, settings.names_port, settings.names_address
        self._hosts: Hosts | None = None
        self._all: frozenset[str] | None = None

    def learn(self, table: Table) -> None:
        """Answer by ``table`` from now on."""
        if self._address:
            self._hosts, self._all = named.hosts(table), frozenset(host.host for host in table.hosts)

    async def serve(self, stack: contextlib.AsyncExitStack) -> None:
        """Serve until ``stack`` is closed, if anything is found by name; raises :class:`Unavailable` for a taken port."""
        if not self._address:
            return
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._page)
        try:
            await sites.serve(stack, application, host=self._host, port=self._port)
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(
                lambda: _Datagrams(self), local_addr=(self._host, self._port)
            )
        except OSError as error:
            raise Unavailable(f"NAMES_LISTEN={self._address} cannot be listened at: {error.strerror or error}") from error
        stack.callback(transport.close)

    def answer(self, query: bytes) -> bytes | None:
        """The answer to a datagram, if it is to have one."""
        return named.answer(query, self._hosts, self._address, time.time())

    async def _page(self, request: web.Request) -> web.Response:
        status, text = named.page(request.headers.get("Host", "").partition(":")[0], self._all)
        headers = {
            "Cache-Control": "no-store",
            "Server": "stackpad",
            **({"Retry-After": replies.RETRY_AFTER} if status == 503 else {}),
        }
        return web.Response(status=status, text=text, content_type="text/html", headers=headers)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        reply = self._server.answer(data)
        if reply is not None:
            self._transport.sendto(reply, address)
