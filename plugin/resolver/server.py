"""The resolver's sockets: UDP, and TCP (:mod:`plugin.resolver.streams`), on the link-local address that containers ask.

Answers of our own go out at once. What is forwarded waits in a task, and nobody may have more than a few of those, nor
take more than a share of our time: a container that asks without end starves itself and no other. Neither do those who do
not take what they have asked for: an answer that the kernel cannot deliver yet counts against the socket that all share.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import dns.rcode
import structlog

from plugin.resolver import wire
from plugin.resolver.forwarder import Forwarder
from plugin.resolver.limits import Limit, Pace, Shares
from plugin.resolver.streams import Streams
from plugin.resolver.wire import Answerer, Verdict
from plugin.resolver.zone import View
from stackpad.errors import Unavailable

PORT = 53
PENDING, PENDING_EACH, PENDING_TOGETHER = 1024, 64, 128
"""Forwarded questions at a time: of all, of one asker, and of those of an environment once half of all are under way.

All whom no environment knows count as one: on a bridge of Docker's a container may ask from any number of addresses.
"""

PACE, PACE_TOGETHER = 16000, 20000
KEPT, MADE, RECORD = 1, 8, 3
"""What one asker may cost in a second, and those of an environment together, and the cost of an answer that was kept, and
of any other: 16000 are about two fifths of a processor core, 16000 answers or 2000; and of a record that is made for it
beyond the first few."""

FEW = 8
"""Records that are included in the cost of an answer."""

_IP_FREEBIND = 15
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_BUFFER, _SENT = 4 << 20, 16 << 20
"""Bytes of questions, and of answers that wait in the kernel until it knows where their askers are: of those for an
address that nobody has, as much as :data:`plugin.kernel.dataplane.UNRESOLVED`."""

_STRANGERS = _SENT // 2
"""Bytes of answers that may wait while one goes to an address that is not ours: what waits for those has other limits."""


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
        self._answerer, self._clients = Answerer(View()), View().clients
        self._pending = Limit(PENDING, PENDING_EACH, PENDING_TOGETHER)
        self.pace = Shares(Pace(PACE, PACE), Pace(PACE_TOGETHER, PACE_TOGETHER), self.group)
        self.streams = Streams(self, self.pace)
        self._log = structlog.get_logger("resolver")

    def update(self, view: View) -> None:
        """Answer from ``view`` from now on."""
        self._clients = view.clients
        self._answerer.update(view)

    def group(self, client: str) -> Hashable:
        """Whom ``client`` shares with: its environment, or all whom none knows."""
        return next(iter(self._clients.get(client, ())), None)

    def knows(self, client: str) -> bool:
        """Whether the address ``client`` is a container's of ours."""
        return client in self._clients

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
        transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self, tasks, datagrams), sock=datagrams)
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
        if self._pending.free(client, self.group(client)):
            return None
        self.counts.refused += 1
        return wire.failure(query, dns.rcode.REFUSED)

    async def forward(self, query: bytes, client: str, *, stream: bool = False) -> bytes | None:
        """The answer of somebody else; SERVFAIL where there is none, REFUSED for who asks too much."""
        with self._pending.one(client, self.group(client)) as admitted:
            if not admitted:
                return self.admit(query, client)
            self.counts.forwarded += 1
            try:
                return await self._forwarder.ask(query, stream=stream)
            except Unavailable:
                self.counts.failed += 1
                return wire.failure(query)


class _Datagrams(asyncio.DatagramProtocol):
    """UDP: one question, one answer.

    Answers go past the transport, which would put all in a queue of its own behind one that cannot be sent.
    """

    def __init__(self, resolver: Resolver, tasks: asyncio.TaskGroup, wire: socket.socket) -> None:
        self._resolver, self._tasks, self._wire = resolver, tasks, wire

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
        try:
            if self._resolver.knows(source[0]) or _waiting(self._wire) < _STRANGERS:
                self._wire.sendto(answer, source)
                return
        except OSError:
            pass  # no room, no way there, or closed already: as with any datagram, the asker asks again
        self._resolver.counts.dropped += 1


def _waiting(wire: socket.socket) -> int:
    """Bytes that the kernel has not got rid of yet, as it counts them (udp(7), ``SIOCOUTQ``)."""
    (waiting,) = struct.unpack("i", fcntl.ioctl(wire, termios.TIOCOUTQ, bytes(4)))
    return int(waiting)


def _bound(address: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Sockets for datagrams and streams on an address that may not be there yet (ip(7), ``IP_FREEBIND``)."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.ExitStack() as undo:
        try:
            datagrams = undo.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            streams = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
            # Not for datagrams: a second socket would take them all away from the first, without a word.
            streams.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(PermissionError):
                datagrams.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
                datagrams.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SENT)
            for made in (datagrams, streams):
                made.setsockopt(socket.SOL_IP, _IP_FREEBIND, 1)
                made.bind((address, port))
                made.setblocking(False)
        except OSError as error:
            raise Unavailable(f"the resolver cannot listen on {address} port {port}: {error.strerror}") from error
        undo.pop_all()
    return datagrams, streams
