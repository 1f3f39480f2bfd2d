"""Questions about everything else, passed on to the servers the host itself uses.

An answer counts only if it comes from the server asked, with the identifier and the question asked (RFC 5452 §9.1); each
question has a socket of its own, so that its port is not to be guessed. A server that does not answer is asked last for a
while.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from plugin.naming import RESOLVER
from stackpad.errors import Unavailable

EACH = 1.0
IN_ALL = 4.0
"""Seconds for one server, and for all tries together."""

SULK = 10.0
"""Seconds a server that did not answer comes after the others."""

AGAIN = 1.0
"""Seconds between two looks whether the host's servers have changed."""

_PORT = 53
_LARGEST = 65535


def servers_of(text: str) -> list[str]:
    """The addresses of a ``resolv.conf`` (resolv.conf(5)), ours left out: asking ourselves would never end."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver" and words[1] != RESOLVER:
            with contextlib.suppress(ValueError):
                ipaddress.ip_address(words[1].partition("%")[0])
                found.append(words[1])
    return found


class HostServers:
    """The host's servers, read again when their file changes.

    ``files`` in order of preference; Docker mounts the host's ``/etc/resolv.conf`` into a plugin with the host's
    network. ``fixed`` are the operator's own choice instead.
    """

    def __init__(self, files: Sequence[Path], fixed: Sequence[str] = ()) -> None:
        self._files, self._fixed = files, list(fixed)
        self._servers: list[str] = []
        self._stamp: tuple[object, ...] = ()
        self._looked = 0.0

    def __call__(self) -> list[str]:
        """The servers now; none if the host has none."""
        if self._fixed:
            return self._fixed
        now = time.monotonic()
        if now - self._looked >= AGAIN or not self._looked:
            self._looked = now
            stamp = tuple(map(_stamp, self._files))
            if stamp != self._stamp:
                self._stamp = stamp
                self._servers = next(filter(None, map(_read, self._files)), [])
        return self._servers


def _stamp(path: Path) -> object:
    try:
        there = path.stat()
    except OSError:
        return None
    return there.st_ino, there.st_mtime_ns, there.st_size


def _read(path: Path) -> list[str]:
    try:
        return servers_of(path.read_text())
    except (OSError, UnicodeDecodeError):
        return []


class Forwarder:
    """Asks ``servers``, at ``port``."""

    def __init__(self, servers: Callable[[], Sequence[str]], port: int = _PORT) -> None:
        self.failures = 0
        self._servers, self._port = servers, port
        self._sulking: dict[str, float] = {}

    async def ask(self, query: bytes, *, stream: bool = False) -> bytes:
        """The answer to ``query``, with its identifier; raises :class:`Unavailable` if no server has one."""
        ask = self._ask_stream if stream else self._ask_datagram
        servers = self._ordered()
        if not servers:
            raise Unavailable("the host has no name servers; set DNS, or put one into /etc/resolv.conf")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(IN_ALL):
                for server in (*servers, *servers):
                    try:
                        async with asyncio.timeout(EACH):
                            answer = await ask(query, server)
                    except (OSError, TimeoutError, asyncio.IncompleteReadError):
                        self._sulking[server] = time.monotonic() + SULK
                        continue
                    self._sulking.pop(server, None)
                    return query[:2] + answer[2:]
        self.failures += 1
        raise Unavailable(f"none of the name servers {', '.join(servers)} answers")

    def _ordered(self) -> list[str]:
        now = time.monotonic()
        return sorted(self._servers(), key=lambda server: self._sulking.get(server, 0.0) > now)

    async def _ask_datagram(self, query: bytes, server: str) -> bytes:
        loop = asyncio.get_running_loop()
        identifier = secrets.token_bytes(2)
        waiting: asyncio.Future[bytes] = loop.create_future()
        # A connected socket hears nothing from any other address.
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Answer(identifier, _question(query), waiting), remote_addr=(server, self._port)
        )
        try:
            transport.sendto(identifier + query[2:])
            return await waiting
        finally:
            transport.close()

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
        if answer[:2] != identifier or not _fits(answer, _question(query)):
            raise OSError(f"{server} answered something else")
        return answer


class _Answer(asyncio.DatagramProtocol):
    """Waits for the one datagram that fits."""

    def __init__(self, identifier: bytes, question: bytes, waiting: asyncio.Future[bytes]) -> None:
        self._identifier, self._question, self._waiting = identifier, question, waiting

    def datagram_received(self, data: bytes, _: object) -> None:
        """Take it if it fits; others are left aside."""
        if data[:2] == self._identifier and _fits(data, self._question) and not self._waiting.done():
            self._waiting.set_result(data)

    def error_received(self, error: Exception) -> None:
        """Nobody listens there."""
        if not self._waiting.done():
            self._waiting.set_exception(error)


def _question(message: bytes) -> bytes:
    """The first question's bytes, lower-cased: name, type and class (RFC 1035 §4.1.2)."""
    position = 12
    while position < len(message) and message[position]:
        position += 1 + message[position]
    return message[12 : position + 5].lower()


def _fits(answer: bytes, question: bytes) -> bool:
    return 12 < len(answer) <= _LARGEST and bool(answer[2] & 0x80) and _question(answer) == question
