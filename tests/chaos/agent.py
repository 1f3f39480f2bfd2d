"""Traffic that never ends, and its losses as lines of JSON; runs inside containers, on the standard library alone.

``agent.py PLAN DIRECTORY``, PLAN being a JSON document: ``{"serve": true, "streams": [{"name": …, "kind": …}]}``. Each
stream appends to ``DIRECTORY/NAME.jsonl`` four times a second, when it has something to say:

    {"from": first answer, "to": last one, "ok": answers, "gaps": [[from, to], …], "lost": [sent, …], "why": {…}}

Times are of the monotonic clock, which containers share with their machine. A gap is a time without any answer, between
two of them, of at least ``GAP`` seconds. What is lost stands at the time when it was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import socket
import ssl
import struct
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

GAP = 0.2
"""Seconds from which on a silence is noted; below, it is the machine's own noise."""

BEAT = 0.25
PATIENCE = {"ping": 4.0, "http": 4.0, "sql": 4.0, "dns": 4.0, "bulk": 8.0}
"""Seconds after which what has no answer is lost. TCP sends again meanwhile: a short cut is a gap there, not a loss."""

PACE = {"ping": 0.01, "http": 0.05, "sql": 0.1, "dns": 0.1, "bulk": 0.02}
"""Seconds from one packet, request or block to the next."""

CONNECT = 1.0
"""Seconds for a connection to be made, so that a recovery is seen soon."""

ASKING = itertools.cycle(range(20_000, 60_000))
"""Ports that questions for names come from."""

BLOCK = 32 * 1024
SINK = 9000
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Record:
    """What one stream has seen."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("a", buffering=1)
        self._first = self._last = 0.0
        self._ok = 0
        self._clear()

    def ok(self) -> None:
        """An answer has come."""
        now = time.monotonic()
        if self._last and now - self._last >= GAP:
            self._gaps.append((self._last, now))
        self._last = now
        self._first = self._first or now
        self._ok += 1

    def lost(self, sent: float, why: str) -> None:
        """What was sent then has no answer, or the wrong one."""
        self._lost.append(round(sent, 3))
        self._why[why] += 1

    async def beat(self) -> None:
        """Write what there is, for ever."""
        while True:
            await asyncio.sleep(BEAT)
            if self._ok or self._lost:
                to = self._last if self._ok else 0.0
                said = {"from": self._first, "to": to, "ok": self._ok, "gaps": self._gaps, "lost": self._lost}
                self._file.write(json.dumps({**said, "why": self._why}) + "\n")
                self._clear()

    def _clear(self) -> None:
        self._first, self._ok = 0.0, 0
        self._gaps: list[tuple[float, float]] = []
        self._lost: list[float] = []
        self._why: Counter[str] = Counter()


async def ping(record: Record, address: str, **_: object) -> None:
    """An echo request every 10 ms, whatever has become of the others."""
    wire = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    wire.setblocking(False)
    own = random.randrange(1, 0xFFFF)  # noqa: S311 - tells streams apart
    waiting: dict[int, float] = {}

    def heard() -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                packet = wire.recv(2048)[20:]
                kind, _, _, who, number = struct.unpack_from(">BBHHH", packet)
                if kind == 0 and who == own and waiting.pop(number, None) is not None:
                    record.ok()

    asyncio.get_running_loop().add_reader(wire, heard)
    number, due = 0, time.monotonic()
    while True:
        number = (number + 1) & 0xFFFF
        head = struct.pack(">BBHHH", 8, 0, 0, own, number)
        total = sum(struct.unpack(">4H", head))
        checked = (total & 0xFFFF) + (total >> 16) ^ 0xFFFF
        now = time.monotonic()
        try:
            wire.sendto(struct.pack(">BBHHH", 8, 0, checked & 0xFFFF, own, number), (address, 0))
            waiting[number] = now
        except OSError as error:
            record.lost(now, _word(error))
        while waiting and now - next(iter(waiting.values())) > PATIENCE["ping"]:
            first = next(iter(waiting))
            record.lost(waiting.pop(first), "no answer")
        due = max(due + PACE["ping"], now - 0.1)
        await asyncio.sleep(max(0.0, due - time.monotonic()))


async def http(record: Record, address: str, port: int, host: str = "x", ca: str = "", **_: object) -> None:
    """Requests one after another in one connection for as long as it lasts; over TLS where there is a ``ca``.

    Over TLS it behaves as a browser: a connection that a proxy ends between two requests is no loss, and the page is
    asked for once more in a new one (RFC 9112, 9.3.1).
    """

    async def dial() -> Streams:
        context = ssl.create_default_context(cafile=ca) if ca else None
        return await asyncio.open_connection(address, port, ssl=context, server_hostname=host if ca else None)

    async def ask(streams: Streams) -> str:
        streams[1].write(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        head = await streams[0].readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").lower().split("\r\n")
        length = next((int(line.partition(":")[2]) for line in lines if line.startswith("content-length:")), 0)
        await streams[0].readexactly(length)
        status = lines[0].split()[1]
        return "" if status == "200" else status

    await _session(record, "http", dial, ask, again=bool(ca))


async def sql(record: Record, address: str, **_: object) -> None:
    """A session of PostgreSQL's: one query after another, in its own protocol, each with a number that must come back."""
    count = 0

    async def until_ready(reader: asyncio.StreamReader) -> bytes:
        heard = b""
        while True:
            kind, length = struct.unpack(">cI", await reader.readexactly(5))
            body = await reader.readexactly(length - 4)
            if kind == b"E":
                raise ConnectionError(body.replace(b"\0", b" ").decode(errors="replace")[:60])
            if kind == b"D":
                heard += body
            if kind == b"Z":
                return heard

    async def dial() -> Streams:
        streams = await asyncio.open_connection(address, 5432)
        body = struct.pack(">I", 196608) + b"user\0postgres\0database\0postgres\0\0"
        streams[1].write(struct.pack(">I", 4 + len(body)) + body)
        await until_ready(streams[0])
        return streams

    async def ask(streams: Streams) -> str:
        nonlocal count
        count += 1
        body = f"SELECT {count}".encode() + b"\0"
        streams[1].write(b"Q" + struct.pack(">I", 4 + len(body)) + body)
        return "" if (await until_ready(streams[0])).endswith(str(count).encode()) else "wrong answer"

    await _session(record, "sql", dial, ask)


async def bulk(record: Record, address: str, **_: object) -> None:
    """Data without end, 1.6 MB a second; after each block comes back how much has come. What is lost is a connection."""

    async def pump(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"\0" * BLOCK)
            await writer.drain()
            await asyncio.sleep(PACE["bulk"])

    async def hear(reader: asyncio.StreamReader) -> None:
        expected = 0
        while True:
            (count,) = struct.unpack(">Q", await asyncio.wait_for(reader.readexactly(8), PATIENCE["bulk"]))
            expected += BLOCK
            if count != expected:
                raise ConnectionError("wrong count")
            record.ok()

    while True:
        began = time.monotonic()
        try:
            streams = await asyncio.wait_for(asyncio.open_connection(address, SINK), CONNECT)
        except (OSError, TimeoutError) as error:
            record.lost(began, _word(error))
            await asyncio.sleep(PACE["dns"])
            continue
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(pump(streams[1]))
                tasks.create_task(hear(streams[0]))
        except* (OSError, TimeoutError, asyncio.IncompleteReadError) as group:
            record.lost(time.monotonic(), _word(group.exceptions[0]))
        streams[1].transport.abort()


async def dns(record: Record, host: str, expect: str, **_: object) -> None:
    """Questions to Docker's resolver for the address of a container; any other answer is none.

    Each from a port of its own. In a container's namespace a flow of connection tracking leads on to the port that the
    engine's resolver had when it began, for 30 s: of those who ask after a restart of the engine, whoever has a port that
    was in use before it is refused, in any network of Docker's.
    """
    labels = b"".join(bytes([len(label)]) + label.encode() for label in host.split("."))
    loop = asyncio.get_running_loop()
    while True:
        began = time.monotonic()
        wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        wire.setblocking(False)
        try:
            wire.bind(("127.0.0.1", next(ASKING)))
            wire.connect(("127.0.0.11", 53))
            number = random.randrange(0xFFFF)  # noqa: S311 - tells answers apart
            wire.send(struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1")
            heard = await asyncio.wait_for(loop.sock_recv(wire, 2048), PATIENCE["dns"])
            if socket.inet_aton(expect) in heard[12:]:
                record.ok()
            else:
                record.lost(began, f"code {heard[3] & 15}")
        except (OSError, TimeoutError) as error:
            record.lost(began, _word(error))
        wire.close()
        await asyncio.sleep(PACE["dns"])


async def serve() -> None:
    """Answer HTTP on port 80, and count what comes to the sink."""

    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = os.uname().nodename.encode()
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        writer.close()

    async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        count = 0
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                await reader.readexactly(BLOCK)
                count += BLOCK
                writer.write(struct.pack(">Q", count))
        writer.close()

    first, second = await asyncio.start_server(page, "0.0.0.0", 80), await asyncio.start_server(sink, "0.0.0.0", SINK)
    async with first, second:
        await asyncio.Event().wait()


KINDS = {"ping": ping, "http": http, "sql": sql, "bulk": bulk, "dns": dns}


async def main(plan: dict[str, Any], directory: Path) -> None:
    """Serve and ask until ended."""
    async with asyncio.TaskGroup() as tasks:
        if plan.get("serve"):
            tasks.create_task(serve())
        for stream in plan.get("streams", []):
            record = Record(directory / f"{stream['name']}.jsonl")
            tasks.create_task(KINDS[stream["kind"]](record, **stream))  # type: ignore[operator]
            tasks.create_task(record.beat())


async def _session(record: Record, kind: str, dial: Any, ask: Any, *, again: bool = False) -> None:
    """Ask in one connection until it breaks, then in the next one; each connection that fails is a request lost.

    ``again`` allows an old connection to end unanswered, if the next one is answered.
    """
    streams: Streams | None = None
    answered = 0
    while True:
        began = time.monotonic()
        try:
            streams = streams or await asyncio.wait_for(dial(), CONNECT)
            wrong = await asyncio.wait_for(ask(streams), PATIENCE[kind])
            if wrong:
                record.lost(began, wrong)
            else:
                record.ok()
            answered += 1
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            ended = isinstance(error, ConnectionResetError | asyncio.IncompleteReadError)
            if not (again and answered and ended):
                record.lost(began, _word(error))
            answered = 0
            if streams is not None:
                streams[1].transport.abort()
            streams = None
        await asyncio.sleep(max(PACE[kind] - (time.monotonic() - began), 0.01))


def _word(error: BaseException) -> str:
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error)[:60] or type(error).__name__


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(json.loads(sys.argv[1]), Path(sys.argv[2])))
