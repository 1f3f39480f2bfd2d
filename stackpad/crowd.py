"""A bound on how many connections an aiohttp server has at once; one too many is told so, and closed.

aiohttp has none of its own: whoever can connect could otherwise hold as many files, and as much memory, as he likes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

LINGER = 1.0
"""Seconds that one connection too many has for reading why; it ends sooner when the other side does."""


def bounded(server: web.Server, most: int, what: str, **options: Any) -> Callable[[], asyncio.BaseProtocol]:
    """What makes the protocol of each new connection: ``server``'s, with ``options``, for ``most`` of them at a time.

    Others are answered 503: so many connections to ``what`` are open.
    """
    there = 0

    def left() -> None:
        nonlocal there
        there -= 1

    def connected() -> asyncio.BaseProtocol:
        nonlocal there
        if there >= most:
            return _Full(f"{most} connections to {what} are open already; close some")
        there += 1
        return _Connection(server, left, options)

    return connected


class _Connection(web.RequestHandler):
    """aiohttp's, which says when it is over."""

    __slots__ = ("_over",)

    def __init__(self, server: web.Server, over: Callable[[], None], options: dict[str, Any]) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._over = over

    def connection_lost(self, exc: BaseException | None) -> None:
        """Make room for another."""
        super().connection_lost(exc)
        self._over()


class _Full(asyncio.Protocol):
    """What one connection too many is told."""

    def __init__(self, reason: str) -> None:
        self._body = msgspec.json.encode({"error": reason, "message": reason})

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type; sockets have this one
        length = len(self._body)
        head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
        transport.write(head.encode() + b"Connection: close\r\n\r\n" + self._body)
        # Closed at once, what he has sent meanwhile would take the answer from him.
        transport.write_eof()
        asyncio.get_running_loop().call_later(LINGER, transport.abort)
