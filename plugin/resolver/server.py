"""The resolver's sockets: UDP and TCP on the link-local address that containers ask.

Answers of our own go out at once. What is forwarded waits in a task, and nobody may have more than a few of those: a
container that asks without end starves itself and no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import dns.rcode
import structlog

from plugin.resolver import wire
from plugin.resolver.forwarder import Forwarder
from plugin.resolver.wire import Answerer, Verdict
from plugin.resolver.zone import View
from stackpad.errors import Unavailable

PORT = 53
PENDING, PENDING_EACH = 1024, 64
"""Forwarded questions at a time: of all, and of one asker."""

STREAMS, STREAMS_EACH = 256, 16
"""TCP connections at a time, likewise."""

IDLE = 10.0
"""Seconds a TCP connection may be silent (RFC 7766 §6.2.3)."""

_IP_FREEBIND = 15
_BUFFER = 4 << 20


@dataclass(slots=True)
class Counts:
    """What has been done since the start."""

    queries: int = 0
    answered: int = 0
    forwarded: int = 0
    refused: int = 0
    dropped: int = 0


@dataclass(slots=True)
class _Limit:
    """How many of something there are, of all and of each asker."""

    most: int
    most_each: int
    now: Counter[str] = field(default_factory=Counter)
    total: int = 0

    @contextlib.contextmanager
    def one(self, who: str) -> Iterator[bool]:
        """Count one more while the block lasts; false if there are too many."""
        free = self.total < self.most and self.now[who] < self.most_each
        if not free:
            yield False
            return
        self.now[who] += 1
        self.total += 1
        try:
            yield True
        finally:
            self.total -= 1
            self.now[who] -= 1
            if not self.now[who]:
                del self.now[who]


class Resolver:
    """Serves one view after the other on ``addresses``."""

    def __init__(self, addresses: Sequence[str], forwarder: Forwarder, port: int = PORT) -> None:
        self.counts, self.problem = Counts(), ""
        self._addresses, self._forwarder, self._port = addresses, forwarder, port
        self._answerer = Answerer(View())
        self._pending = _Limit(PENDING, PENDING_EACH)
        self._streams = _Limit(STREAMS, STREAMS_EACH)
        self._log = structlog.get_logger("resolver")

    def update(self, view: View) -> None:
        """Answer from ``view`` from now on."""
        self._answerer = Answerer(view)

    async def run(self) -> None:
        """Serve until cancelled; raises :class:`Unavailable` if the addresses cannot be listened on."""
        async with contextlib.AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            for address in self._addresses:
                await self._listen(stack, tasks, address)
            self._log.info("resolver", addresses=list(self._addresses))
            await asyncio.Event().wait()

    async def _listen(self, stack: contextlib.AsyncExitStack, tasks: asyncio.TaskGroup, address: str) -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(self, tasks), sock=_bound(address, self._port, socket.SOCK_DGRAM)
        )
        stack.callback(transport.close)
        server = await asyncio.start_server(self._serve, sock=_bound(address, self._port, socket.SOCK_STREAM))
        stack.callback(server.close)

    def answer(self, query: bytes, client: str, *, stream: bool = False) -> bytes | Verdict:
        """Our own answer, or what else to do."""
        self.counts.queries += 1
        found = self._answerer.answer(query, client, stream=stream)
        if isinstance(found, bytes):
            self.counts.answered += 1
        elif found is Verdict.DROP:
            self.counts.dropped += 1
        return found

    async def forward(self, query: bytes, client: str, *, stream: bool = False) -> bytes | None:
        """The answer of somebody else; SERVFAIL where there is none, REFUSED for who asks too much."""
        with self._pending.one(client) as admitted:
            if not admitted:
                self.counts.refused += 1
                return wire.failure(query, dns.rcode.REFUSED)
            self.counts.forwarded += 1
            try:
                return await self._forwarder.ask(query, stream=stream)
            except Unavailable:
                return wire.failure(query)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        client = str(peer[0]) if peer else ""
        try:
            with self._streams.one(client) as admitted:
                while admitted:
                    async with asyncio.timeout(IDLE):
                        size = int.from_bytes(await reader.readexactly(2), "big")
                        query = await reader.readexactly(size)
                    answer: bytes | Verdict | None = self.answer(query, client, stream=True)
                    if answer is Verdict.FORWARD:
                        answer = await self.forward(query, client, stream=True)
                    if not isinstance(answer, bytes):
                        break
                    writer.write(len(answer).to_bytes(2, "big") + answer)
                    async with asyncio.timeout(IDLE):
                        await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    """UDP: one question, one answer."""

    def __init__(self, resolver: Resolver, tasks: asyncio.TaskGroup) -> None:
        self._resolver, self._tasks = resolver, tasks
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        if isinstance(transport, asyncio.DatagramTransport):
            self._transport = transport

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        """Answer at once, or see to it in a task."""
        answer = self._resolver.answer(data, source[0])
        if isinstance(answer, bytes):
            self._reply(answer, source)
        elif answer is Verdict.FORWARD:
            self._tasks.create_task(self._forward(data, source), name="forwarded question")

    async def _forward(self, data: bytes, source: tuple[str, int]) -> None:
        answer = await self._resolver.forward(data, source[0])
        if answer is not None:
            self._reply(answer, source)

    def _reply(self, answer: bytes, source: tuple[str, int]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(answer, source)


def _bound(address: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """A socket on an address that may not be there yet (ip(7), ``IP_FREEBIND``)."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, kind)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_IP, _IP_FREEBIND, 1)
        if kind == socket.SOCK_DGRAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        made.bind((address, port))
    except OSError as error:
        made.close()
        raise Unavailable(f"the resolver cannot listen on {address} port {port}: {error.strerror}") from error
    made.setblocking(False)
    return made
