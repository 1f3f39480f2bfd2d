"""Guests of a running plugin: tokens it has given out, and HTTP that comes from their addresses.

A guest is at the other end of the tunnel, with one address. Here it is in the plugin's own namespace and has that address
on a link of its own; the rules let that pass, and what is behind them is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from plugin.joining import tokens
from plugin.store.mesh import JOIN_PORT
from plugin.wireguard.keys import generate, public_key
from tests.fuzz.mutate import mutations
from tests.netns import ip

LINK = "guests"
"""Not the loopback interface, where the plugin takes away what it has not put there."""

HEARD = 1.0
"""Seconds in which something is answered, if it is: half a request is not, and nobody waits longer for that."""

Answer = tuple[int, bytes]
"""Status and body; 0 where the connection ended, or was left, without one."""


@dataclass
class Guest:
    """Who holds a token, and has its address."""

    token: tokens.Token
    key: str

    def request(self, **changes: Any) -> bytes:
        """What a node says that joins."""
        asked = tokens.JoinRequest(
            token=self.token.id,
            digest=self.token.digest,
            name=f"guest-{self.token.id}",
            public_key=self.key,
            time=time.time(),
            endpoints=("192.0.2.9:51820",),
        )
        return msgspec.json.encode(msgspec.structs.replace(asked, **changes))

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the join service."""
        return await asyncio.open_connection(self.token.gateway_address, JOIN_PORT, local_addr=(self.token.address, 0))

    async def say(self, data: bytes, patience: float = HEARD) -> Answer:
        """Send any bytes; what is answered to the first of them within ``patience`` seconds."""
        heard = b""
        with contextlib.suppress(ConnectionError, TimeoutError):
            reader, writer = await self.connect()
            try:
                async with asyncio.timeout(patience):
                    writer.write(data)
                    while chunk := await reader.read(65536):
                        heard += chunk
            finally:
                writer.transport.abort()
        head, _, body = heard.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")
        return (int(head.split()[1]), body) if head.startswith(b"HTTP/1.") else (0, b"")

    async def join(self, **changes: Any) -> Answer:
        """Ask for a place, as a node does."""
        return await self.say(posted(self.request(**changes)), 60.0)


async def invited(admin: aiohttp.ClientSession, count: int) -> list[Guest]:
    """So many guests."""
    ip("link", "add", LINK, "type", "bridge")
    ip("link", "set", LINK, "up")
    found = []
    for _ in range(count):
        async with admin.post("http://plugin/node/token", json={}) as answer:
            token = tokens.read(json.loads(await answer.read())["token"])
        ip("addr", "add", f"{token.address}/32", "dev", LINK)
        found.append(Guest(token, public_key(generate())))
    return found


def posted(body: bytes, *headers: bytes, line: bytes = b"POST /join HTTP/1.1") -> bytes:
    """A request with a body."""
    return b"\r\n".join([line, b"Host: x", b"Content-Length: %d" % len(body), *headers, b"", body])


ODD = (
    b"", b"\r\n" * 100, b"\0" * 1000, b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/0.9\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\n",
    b"GET /join HTTP/1.1\r\nHost: x\r\n\r\n" * 100, b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", b"G" * 100_000,
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
    b"GET http://[::1/ HTTP/1.1\r\nHost: x\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    posted(b"[" * 60_000), posted(b'{"a":' * 12_000), posted(b"\xff\xfe"), posted(b"null"), posted(b" " * 65_537),
    posted(b"x" * 5_000_000), posted(b"{}", b"Content-Encoding: gzip"), posted(b"{}", b"Content-Encoding: br"),
    posted(b"{}", b"Expect: 100-continue"), posted(b"{}", b"Expect: wonders"), posted(b"{}", b"Content-Length: 3"),
    posted(b"{}", b"Upgrade: websocket", b"Connection: upgrade"), posted(b"{}", line=b"POST /join/../join HTTP/1.1"),
    posted(b"{}", line=b"POST //join HTTP/1.1"), posted(b"{}", line=b"POST /%6aoin?%ff HTTP/1.1"),
    posted(b"{}", line=b"BREW /join HTTP/1.1"), posted(b"{}", line=b"POST /\xff HTTP/1.1"),
    b"POST /join HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    b"POST /join HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 100_000,
    b"POST /join HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /join HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n{}",
)  # fmt: skip
"""Requests that are none, too large, or of another trade."""

HALVES = (
    b"", b"POST", b"POST /join HTTP/1.1\r\nHost: x\r\n", b"POST /join HTTP/1.1\r\nContent-Length: 9\r\n\r\n{",
    b"POST /join HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{",
)  # fmt: skip
"""Beginnings of requests that never end."""

WRONG: tuple[dict[str, Any], ...] = (
    {"digest": "00"}, {"token": "another"}, {"name": "first"}, {"name": "\x1b[2J"}, {"public_key": "a2tr"},
    {"public_key": ""}, {"time": 0.0}, {"mtu": -1}, {"mtu": 10**200}, {"ranges": ("::/0",)},
    {"ranges": ("10.192.0.0/10",)},
    {"ranges": ("fd00:3::%x/64",)}, {"ranges": ("10.1.0.0/24",) * 3000}, {"endpoints": ("[fe80::1%lo]:1",)},
    {"ranges": tuple(f"172.{16 + n // 256}.{n % 256}.0/24" for n in range(500))}, {"engine": "\u202e"},
    {"endpoints": ("x",) * 5000}, {"version": "\0"},
)  # fmt: skip
"""What makes a request of a guest one that is refused."""


def requests(guest: Guest, count: int, seed: int) -> Iterator[bytes]:
    """Bytes that could almost be a request of this guest, and many that could be one but for what they say."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated
    known = [posted(guest.request(digest="00")), posted(guest.request(time=0.0), b"Connection: keep-alive"), *ODD[:13]]
    bodies = mutations([guest.request(digest="00"), guest.request(time=0.0)], count, seed)
    for wild in mutations(known, count, seed + 1):
        yield wild if chance.random() < 0.5 else posted(next(bodies))
