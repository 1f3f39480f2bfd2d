"""The resolver's sockets: UDP, and TCP (:mod:`plugin.resolver.streams`), on the link-local address that containers ask.

Answers of our own go out at once. What is forwarded waits in a task, and nobody may have more than a few of those, nor
take more than a share of our time: a container that asks without end starves itself and no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import dns.rcode
import structlog

from plugin.resolver import wire
from plugin.resolver.forwarder import Forwarder
from plugin.resolver.limits import Limit, Pace
from plugin.resolver.streams import Streams
from plugin.resolver.wire import Answerer, Verdict
from plugin.resolver.zone import View
from stackpad.errors import Unavailable

PORT = 53
PENDING, PENDING_EACH = 1024, 64
"""Forwarded questions at a time: of all, and of one asker."""

PACE = 16000
KEPT, MADE, RECORD = 1, 8, 3
"""What one asker may cost in a second, and the cost of an answer that was kept, and of any other: each time about two
fifths of a processor core, 16000 answers or 2000; and of a record that is made for it beyond the first few."""

FEW = 8
"""Records that are included in the cost of an answer."""

_IP_FREEBIND = 15
_SO_RCVBUFFORCE = 33
_BUFFER = 4 << 20


@dataclass(slots=True)
class Counts:
    """What has been done since the start; ``kept`` are those of the answers that had been given before."""

    queries: int = 0
    answered: int = 0
    kept: int = 0
    forwarded: int = 0
    failed: int = 0
    refused: int = 0
    dropped: int = 0


class Resolver:
    """Serves one view after the other on ``addresses``; ``serving`` is set while it does."""

    def __init__(self, addresses: Sequence[str], forwarder: Forwarder, port: int = PORT) -> None:
        self.counts, self.serving = Counts(), asyncio.Event()
        self._addresses, self._forwarder, self._port = addresses, forwarder, port
        self._answerer = Answerer(View())
        self._pending = Limit(PENDING, PENDING_EACH)
        self.pace = Pace(PACE, PACE)
        self.streams = Streams(self, self.pace)
        self._log = structlog.get_logger("resolver")

    def update(self, view: View) -> None:
        """Answer from ``view`` from now on."""
        self._answerer.update(view)

    async def run(self) -> None:
        """Serve until cancelled; raises :class:`Unavailable`, in a group, if an address cannot be listened on."""
        async with contextlib.AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            for address in self._addresses:
                await self._listen(stack, tasks, address)
            self._log.info("resolver", addresses=list(self._addresses))
            self.serving.set()
            stack.callback(self.serving.clear)
            await asyncio.Event().wait()

    async def _listen(self, stack: contextlib.AsyncExitStack, tasks: asyncio.TaskGroup, address: str) -> None:
        loop = asyncio.get_running_loop()
        datagrams, streams = _bound(address, self._port)
        stack.callback(datagrams.close)
        stack.callback(self.streams.listen(streams, tasks))
        transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self, tasks), sock=datagrams)
        stack.callback(transport.close)

    def exhausted(self, client: str) -> bool:
        """Whether ``client`` has used up its share for now."""
        return self.pace.wait(client) > 0

    def answer(self, query: bytes, client: str, *, stream: bool = False) -> bytes | Verdict:
        """Our own answer, or what else to do."""
        counts, before, records = self.counts, self._answerer.hits, self._answerer.records
        counts.queries += 1
        found = self._answerer.answer(query, client, stream=stream)
        kept = self._answerer.hits - before
        # What is passed on costs as much as an answer that is made.
        made = MADE + RECORD * max(0, self._answerer.records - records - FEW)
        self.pace.spend(client, KEPT if kept and isinstance(found, bytes) else made)
        if isinstance(found, bytes):
            counts.answered += 1
            counts.kept += kept
        elif found is Verdict.DROP:
            counts.dropped += 1
        return found

    def admit(self, query: bytes, client: str) -> bytes | None:
        """``None`` if ``client`` may have a question forwarded, else the answer that it has too many of them."""
        if self._pending.free(client):
            return None
        self.counts.refused += 1
        return wire.failure(query, dns.rcode.REFUSED)

    async def forward(self, query: bytes, client: str, *, stream: bool = False) -> bytes | None:
        """The answer of somebody else; SERVFAIL where there is none, REFUSED for who asks too much."""
        with self._pending.one(client) as admitted:
            if not admitted:
                return self.admit(query, client)
            self.counts.forwarded += 1
            try:
                return await self._forwarder.ask(query, stream=stream)
            except Unavailable:
                self.counts.failed += 1
                return wire.failure(query)


class _Datagrams(asyncio.DatagramProtocol):
    """UDP: one question, one answer."""

    def __init__(self, resolver: Resolver, tasks: asyncio.TaskGroup) -> None:
        self._resolver, self._tasks = resolver, tasks
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        # Python 3.11's is one, but does not say so.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        """Answer at once, or see to it in a task."""
        resolver = self._resolver
        if resolver.exhausted(source[0]):
            resolver.counts.dropped += 1
            return
        answer = resolver.answer(data, source[0])
        if isinstance(answer, bytes):
            self._reply(answer, source)
        elif answer is Verdict.FORWARD:
            refused = resolver.admit(data, source[0])
            if refused is not None:
                self._reply(refused, source)
            else:
                self._tasks.create_task(self._forward(data, source), name="forwarded question")

    async def _forward(self, data: bytes, source: tuple[str, int]) -> None:
        answer = await self._resolver.forward(data, source[0])
        if answer is not None:
            self._reply(answer, source)

    def _reply(self, answer: bytes, source: tuple[str, int]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(answer, source)


def _bound(address: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Sockets for datagrams and streams on an address that may not be there yet (ip(7), ``IP_FREEBIND``)."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    datagrams, streams = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_STREAM)
    try:
        # Not for datagrams: a second socket would take them all away from the first, without a word.
        streams.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(PermissionError):
            datagrams.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        for made in (datagrams, streams):
            made.setsockopt(socket.SOL_IP, _IP_FREEBIND, 1)
            made.bind((address, port))
            made.setblocking(False)
    except OSError as error:
        datagrams.close()
        streams.close()
        raise Unavailable(f"the resolver cannot listen on {address} port {port}: {error.strerror}") from error
    return datagrams, streams
