"""Questions about everything else, passed on to the servers the host itself uses.

An answer counts only if it comes from the server asked, with the identifier and the question asked (RFC 5452 §9.1); each
question has a socket of its own, so that its port is not to be guessed. A server that is slow is not given up: the next
is asked as well, and whoever answers first is believed. One that did not answer in time comes last for a while.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Sequence

import dns.rcode

from stackpad.errors import Unavailable

PATIENCE = 1.0
"""Seconds until the next server is asked as well."""

IN_ALL = 3.5
"""Seconds until nothing more is waited for; Docker's resolver waits 4, and asks the next of its servers then."""

SULK = 10.0
"""Seconds a server that did not answer comes after the others."""

_PORT = 53
_HEADER = 12
_LARGEST = 65535
_USELESS = {dns.rcode.SERVFAIL, dns.rcode.NOTIMP, dns.rcode.REFUSED}
"""Answers after which the next server is asked, as resolvers in C libraries and Docker do."""


class Forwarder:
    """Asks ``servers``, at ``port``. ``failures`` counts questions without an answer."""

    def __init__(self, servers: Callable[[], Sequence[str]], port: int = _PORT) -> None:
        self.failures = 0
        self._servers, self._port = servers, port
        self._sulking: dict[str, float] = {}

    async def ask(self, query: bytes, *, stream: bool = False) -> bytes:
        """The answer to ``query``, with its identifier; raises :class:`Unavailable` if no server has one."""
        servers = self._ordered()
        if not servers:
            raise Unavailable("the host has no name servers; set DNS, or put one into /etc/resolv.conf")
        answer = await self._race(query, servers, self._ask_stream if stream else self._ask_datagram)
        if answer is None:
            self.failures += 1
            raise Unavailable(f"none of the name servers {', '.join(servers)} answers")
        question = _question(query)
        # The asker's own spelling, upper and lower case: some compare it to know a forged answer.
        return query[:2] + answer[2:_HEADER] + question + answer[_HEADER + len(question) :]

    async def _race(
        self, query: bytes, servers: Sequence[str], ask: Callable[[bytes, str], Awaitable[bytes]]
    ) -> bytes | None:
        """The first answer of any use, else the first at all; each server is asked again as long as there is time."""
        useless: bytes | None = None
        hopeless: set[str] = set()
        running: dict[asyncio.Task[bytes | None], str] = {}
        end = time.monotonic() + IN_ALL
        async with asyncio.TaskGroup() as tasks:
            turn = 0
            while (left := end - time.monotonic()) > 0:
                hopeful = [server for server in servers if server not in hopeless]
                if hopeful:
                    server = hopeful[turn % len(hopeful)]
                    running[tasks.create_task(self._tried(ask, query, server), name="question")] = server
                    turn += 1
                elif not running:
                    break
                done, _ = await asyncio.wait(running, timeout=min(left, PATIENCE), return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    server, answer = running.pop(task), task.result()
                    if answer is not None and answer[3] & 0xF not in _USELESS:
                        self._sulking.pop(server, None)
                        _cancel(running)
                        return answer
                    useless = useless or answer
                    hopeless.add(server)
                for server in hopeless.union(running.values()):
                    self._sulking[server] = time.monotonic() + SULK
            _cancel(running)
        return useless

    async def _tried(self, ask: Callable[[bytes, str], Awaitable[bytes]], query: bytes, server: str) -> bytes | None:
        try:
            return await ask(query, server)
        except (OSError, asyncio.IncompleteReadError):
            return None

    def _ordered(self) -> list[str]:
        now = time.monotonic()
        return sorted(self._servers(), key=lambda server: self._sulking.get(server, 0.0) > now)

    async def _ask_datagram(self, query: bytes, server: str) -> bytes:
        loop = asyncio.get_running_loop()
        identifier = secrets.token_bytes(2)
        waiting: asyncio.Future[bytes] = loop.create_future()
        family, kind, _, _, address = socket.getaddrinfo(
            server, self._port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
        )[0]
        # No transport: half of the time of a question would go into making one.
        with socket.socket(family, kind) as asker:
            asker.setblocking(False)
            asker.connect(address)  # it hears nothing from any other address then
            asker.send(identifier + query[2:])
            loop.add_reader(asker, _hear, asker, identifier, query, waiting)
            try:
                return await waiting
            finally:
                loop.remove_reader(asker)

    async def _ask_stream(self, query: bytes, server: str) -> bytes:
        reader, writer = await asyncio.open_connection(server, self._port)
        try:
            identifier = secrets.token_bytes(2)
            message = identifier + query[2:]
            writer.write(len(message).to_bytes(2, "big") + message)
            await writer.drain()
            answer = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        finally:
            writer.close()
        if not _fits(answer, identifier, query):
            raise OSError(f"{server} answered something else")
        return answer


def _hear(asker: socket.socket, identifier: bytes, query: bytes, waiting: asyncio.Future[bytes]) -> None:
    """Take what came if it fits; other things are left aside."""
    try:
        data = asker.recv(_LARGEST)
    except BlockingIOError:
        return
    except OSError as error:  # nobody listens there
        if not waiting.done():
            waiting.set_exception(error)
        return
    if _fits(data, identifier, query) and not waiting.done():
        waiting.set_result(data)


def _cancel(running: dict[asyncio.Task[bytes | None], str]) -> None:
    for task in running:
        task.cancel()


def _question(message: bytes) -> bytes:
    """The bytes of a question of ours: name, type and class (RFC 1035 §4.1.2)."""
    position = _HEADER
    while position < len(message) and message[position]:
        position += 1 + message[position]
    return message[_HEADER : position + 5]


def _fits(answer: bytes, identifier: bytes, query: bytes) -> bool:
    """Whether it is an answer to our one question; letters count the same in both cases, numbers do not.

    Of what a server sends nothing is parsed: the question is at the same place, and as long as it was.
    """
    ours = _question(query)
    theirs = answer[_HEADER : _HEADER + len(ours)]
    return (
        answer[:2] == identifier
        and len(answer) > _HEADER
        and bool(answer[2] & 0x80)
        and answer[4:6] == b"\0\1"
        and ours[:-4].lower() == theirs[:-4].lower()
        and ours[-4:] == theirs[-4:]
    )
