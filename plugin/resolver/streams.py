"""The resolver over TCP: who may connect, question after question, and how it ends.

Connections are taken from the kernel here and not by asyncio's server, which makes a task of each before anybody can say
that it is one too many. What is one too many costs two system calls. A connection counts until nothing is left of it: who
does not read what it asked for keeps no socket and no buffer beyond its share.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Hashable
from typing import Protocol

import structlog

from plugin.accepting import accept
from plugin.resolver.limits import Limit, Pace, Shares
from plugin.resolver.wire import Verdict

STREAMS, STREAMS_EACH, STREAMS_TOGETHER = 512, 16, 64
"""TCP connections at a time: of all, of one asker, and of those of an environment once half of all are taken."""

IDLE = 10.0
"""Seconds a TCP connection may be silent (RFC 7766 §6.2.3), and somebody may take to read an answer."""

OPENED = 8
"""What a connection costs its asker, as much as an answer that is made."""


class Answers(Protocol):
    """What is said to a question."""

    def group(self, client: str) -> Hashable:
        """Whom an asker shares with."""

    def answer(self, query: bytes, client: str, *, stream: bool = False) -> bytes | Verdict:
        """Our own answer, or what else to do."""

    async def forward(self, query: bytes, client: str, *, stream: bool = False) -> bytes | None:
        """The answer of somebody else."""


class Streams:
    """Serves listening sockets; each connection is a task of the group given."""

    def __init__(self, answers: Answers, pace: Pace | Shares) -> None:
        self.limit = Limit(STREAMS, STREAMS_EACH, STREAMS_TOGETHER)
        self._answers, self._pace = answers, pace
        self._log = structlog.get_logger("resolver")

    def listen(self, listener: socket.socket, tasks: asyncio.TaskGroup) -> Callable[[], None]:
        """Take connections of a socket that is bound; returns how to stop that."""

        def meet(connection: socket.socket, client: str) -> bool:
            group = self._answers.group(client)
            if not self.limit.free(client, group):
                return False
            self._pace.spend(client, OPENED)
            held = contextlib.ExitStack()
            held.callback(connection.close)
            held.enter_context(self.limit.one(client, group))
            # Not within the task: one that is cancelled before its first step has no end of its own.
            tasks.create_task(self._serve(connection, client), name="stream").add_done_callback(_ends(held))
            return True

        return accept(listener, meet, log="resolver")

    async def _serve(self, connection: socket.socket, client: str) -> None:
        connection.setblocking(False)
        try:
            reader, writer = await asyncio.open_connection(sock=connection)
        except OSError:
            return
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._converse(reader, writer, client, tasks)
            writer.transport.set_write_buffer_limits(0)
            async with asyncio.timeout(IDLE):
                await writer.drain()  # until the kernel has all of it
        except* (OSError, TimeoutError):
            pass  # who has gone away, or does not read what it asked for
        except* Exception:
            self._log.exception("a connection failed", client=client)
        finally:
            if writer.transport.get_write_buffer_size():
                writer.transport.abort()  # closing it would wait until somebody reads that
            else:
                writer.close()

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: str, tasks: asyncio.TaskGroup
    ) -> None:
        """Answer question after question; one that is forwarded does not hold up the next (RFC 7766 §6.2.1.1)."""

        async def forward(query: bytes) -> None:
            answer = await self._answers.forward(query, client, stream=True)
            if answer is not None:
                writer.write(len(answer).to_bytes(2, "big") + answer)

        while True:
            # A connection has had its price already: so has the next one of who opens one after the other.
            await asyncio.sleep(self._pace.wait(client))
            try:
                async with asyncio.timeout(IDLE):
                    query = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            except (TimeoutError, asyncio.IncompleteReadError):
                return
            answer = self._answers.answer(query, client, stream=True)
            if answer is Verdict.FORWARD:
                tasks.create_task(forward(query), name="forwarded question")
            elif isinstance(answer, bytes):
                writer.write(len(answer).to_bytes(2, "big") + answer)
            else:
                return
            async with asyncio.timeout(IDLE):
                await writer.drain()


def _ends(held: contextlib.ExitStack) -> Callable[[asyncio.Task[None]], None]:
    return lambda _: held.close()
