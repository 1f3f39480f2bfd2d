"""The resolver over TCP: who may connect, question after question, and how it ends.

Connections are taken from the kernel here and not by asyncio's server, which makes a task of each before anybody can say
that it is one too many. What is one too many costs two system calls. A connection counts until nothing is left of it: who
does not read what it asked for keeps no socket and no buffer beyond its share.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Callable
from typing import Protocol

import structlog

from plugin.resolver.limits import Limit, Pace
from plugin.resolver.wire import Verdict

STREAMS, STREAMS_EACH = 512, 16
"""TCP connections at a time: of all, and of one asker."""

IDLE = 10.0
"""Seconds a TCP connection may be silent (RFC 7766 §6.2.3), and somebody may take to read an answer."""

OPENED = 8
"""What a connection costs its asker, as much as an answer that is made."""

_AT_ONCE = 64
"""Connections taken before others have a turn."""

_AGAIN = 1.0
"""Seconds until connections are taken again after the system had no room for one."""

_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_RESET = struct.pack("ii", 1, 0)


class Answers(Protocol):
    """What is said to a question."""

    def answer(self, query: bytes, client: str, *, stream: bool = False) -> bytes | Verdict:
        """Our own answer, or what else to do."""

    async def forward(self, query: bytes, client: str, *, stream: bool = False) -> bytes | None:
        """The answer of somebody else."""


class Streams:
    """Serves listening sockets; each connection is a task of the group given."""

    def __init__(self, answers: Answers, pace: Pace) -> None:
        self.limit = Limit(STREAMS, STREAMS_EACH)
        self._answers, self._pace = answers, pace
        self._log = structlog.get_logger("resolver")

    def listen(self, listener: socket.socket, tasks: asyncio.TaskGroup) -> Callable[[], None]:
        """Take connections of a socket that is bound; returns how to stop that."""
        loop, stopped = asyncio.get_running_loop(), False
        listener.listen(socket.SOMAXCONN)

        def resume() -> None:
            if not stopped:
                loop.add_reader(listener, take)

        def take() -> None:
            if not self._take(listener, tasks):
                # The listener would be ready for ever.
                loop.remove_reader(listener)
                loop.call_later(_AGAIN, resume)

        def stop() -> None:
            nonlocal stopped
            stopped = True
            loop.remove_reader(listener)
            listener.close()

        resume()
        return stop

    def _take(self, listener: socket.socket, tasks: asyncio.TaskGroup) -> bool:
        """Take what waits; false if the system has no room."""
        for _ in range(_AT_ONCE):
            try:
                connection, peer = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return True
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    self._log.warning("a connection could not be taken", reason=error.strerror)
                return error.errno not in _NO_ROOM
            client = str(peer[0])
            if not self.limit.free(client):
                # A reset: the kernel is not to remember it any longer either.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                connection.close()
                continue
            self._pace.spend(client, OPENED)
            held = contextlib.ExitStack()
            held.callback(connection.close)
            held.enter_context(self.limit.one(client))
            # Not within the task: one that is cancelled before its first step has no end of its own.
            tasks.create_task(self._serve(connection, client), name="stream").add_done_callback(_ends(held))
        return True

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
