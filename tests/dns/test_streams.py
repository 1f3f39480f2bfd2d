"""Names of containers over TCP: many questions, few connections, and those who do not read."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import resource
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import dns.message
import pytest

from plugin import accepting
from plugin.resolver import streams
from plugin.resolver.limits import Pace
from plugin.resolver.server import PACE
from plugin.resolver.streams import STREAMS_EACH
from tests.dns.world import BLOG, BOUND, MANY, RESOLVER, SHOP, World, serving, silent, upstream


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with serving() as made:
        yield made


async def _connect(world: World, source: str = SHOP) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(RESOLVER, world.port, local_addr=(source, 0))


def _framed(*names: str) -> bytes:
    wires = [dns.message.make_query(name, "A", id=number).to_wire() for number, name in enumerate(names)]
    return b"".join(struct.pack("!H", len(wire)) + wire for wire in wires)


async def _read(reader: asyncio.StreamReader) -> dns.message.Message:
    async with asyncio.timeout(BOUND):
        return dns.message.from_wire(await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")))


async def test_many_questions_in_one_stream(world: World) -> None:
    async with upstream(world, silent):
        reader, writer = await _connect(world)
        writer.write(_framed("slow.example.org", *["web"] * 50))
        # The first one waits for a server that says nothing; the others do not wait for it.
        numbers = [(await _read(reader)).id for _ in range(50)]
        assert numbers == list(range(1, 51))
        last = await _read(reader)
        assert (last.id, last.rcode().name) == (0, "SERVFAIL")
        writer.close()


async def test_a_stream_byte_by_byte_and_closed_early(world: World) -> None:
    reader, writer = await _connect(world)
    for byte in _framed("web"):
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    writer.write_eof()
    assert (await _read(reader)).answer
    assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("junk", [b"\0\0", b"\0\5hello", b"GET / HTTP/1.1\r\n\r\n" * 2000], ids=["0", "5", "http"])
async def test_a_stream_of_junk_is_closed(world: World, junk: bytes) -> None:
    reader, writer = await _connect(world)
    with contextlib.suppress(ConnectionError):
        writer.write(junk)
        writer.write_eof()
        async with asyncio.timeout(BOUND):
            await reader.read()
    writer.close()
    assert await world.short("+tcp", "web") == ["10.1.0.2"]


async def test_nobody_takes_all_streams(world: World) -> None:
    held = [await _connect(world) for _ in range(STREAMS_EACH)]
    for _, writer in held:
        writer.write(_framed("web"))
    for reader, _ in held:
        await _read(reader)
    with contextlib.suppress(ConnectionError):
        reader, writer = await _connect(world)
        async with asyncio.timeout(BOUND):
            assert await reader.read() == b""
        writer.close()
    assert await world.short("+tcp", "web", source=BLOG) == ["10.2.0.2"]
    for _, writer in held:
        writer.close()


async def test_streams_end_with_the_resolver() -> None:
    async with serving() as world:
        reader, writer = await _connect(world)
        writer.write(_framed("web"))
        await _read(reader)
    async with asyncio.timeout(BOUND):
        assert await reader.read() == b""
    writer.close()


def _caller(world: World, receives: int = 0) -> socket.socket:
    """A connection without anything of asyncio's; it takes in no more than about ``receives`` bytes unread."""
    made = socket.socket()
    if receives:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
    made.bind((SHOP, 0))
    made.setblocking(False)
    made.connect_ex((RESOLVER, world.port))
    return made


async def _until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND):
        while not what():  # noqa: ASYNC110 - what is asked has no event
            await asyncio.sleep(0.02)


def _open_here(world: World) -> int:
    """How many connections the resolver has open: sockets of this process with its address, but for the listener."""
    address = "{:08X}:{:04X}".format(*struct.unpack("<I", socket.inet_aton(RESOLVER)), world.port)
    with open("/proc/self/net/tcp") as table:
        lines = [line.split() for line in table]
    inodes = {f"socket:[{line[9]}]" for line in lines if line[1] == address and line[3] != "0A"}
    held = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            held.add(os.readlink(f"/proc/self/fd/{number}"))
    return len(inodes & held)


Served = list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    """The resolver's ends of connections; the kernel keeps little of what is written to them."""
    found, opens = Served(), asyncio.open_connection

    async def open_connection(*, sock: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        found.append(await opens(sock=sock))
        return found[-1]

    monkeypatch.setattr(asyncio, "open_connection", open_connection)
    return found


async def test_who_does_not_read_keeps_nothing_open(
    world: World, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "IDLE", 0.3)
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(_caller(world, 4096)) for _ in range(4)]
        await _until(lambda: len(served) == len(callers))
        for caller in callers:
            caller.sendall(_framed(*["many"] * 100))  # answers of 500 kB
        await _until(lambda: all(writer.transport.get_write_buffer_size() for _, writer in served))
        assert _open_here(world) == len(callers)
        await _until(lambda: not world.resolver.streams.limit.total)
        await asyncio.sleep(0)
        assert [writer.transport.get_write_buffer_size() for _, writer in served] == [0] * len(callers)
        assert _open_here(world) == 0


async def test_who_says_nothing_more_is_still_answered(world: World, served: Served) -> None:
    caller, asked = _caller(world, 4096), itertools.count(1)
    await _until(lambda: bool(served))
    (reader, writer) = served[0]
    while not writer.transport.get_write_buffer_size():
        caller.sendall(_framed("many"))
        await _until(functools.partial(_has_answered, world, next(asked)))
    caller.shutdown(socket.SHUT_WR)
    await _until(reader.at_eof)
    for _ in range(20):
        await asyncio.sleep(0)
    received = bytearray()
    async with asyncio.timeout(BOUND):
        while data := await asyncio.get_running_loop().sock_recv(caller, 65536):
            received += data
    caller.close()
    for _ in range(world.resolver.counts.answered):
        size = int.from_bytes(received[:2], "big")
        assert len(dns.message.from_wire(bytes(received[2 : 2 + size])).answer[0]) == MANY
        del received[: 2 + size]
    assert not received


def _has_answered(world: World, many: int) -> bool:
    return world.resolver.counts.answered == many


async def test_a_connection_too_many_costs_no_task(world: World) -> None:
    loop, made = asyncio.get_running_loop(), list[str]()

    def factory(loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> asyncio.Task[Any]:
        made.append(repr(work))
        return asyncio.Task(work, loop=loop, **more)

    with contextlib.ExitStack() as stack:
        for _ in range(STREAMS_EACH):
            stack.enter_context(_caller(world))
        await _until(lambda: world.resolver.streams.limit.total == STREAMS_EACH)
        loop.set_task_factory(factory)
        stack.callback(loop.set_task_factory, None)
        callers = [stack.enter_context(_caller(world)) for _ in range(100)]
        await _until(lambda: all(map(_is_hung_up, callers)))
        assert made == []
    assert await world.short("+tcp", "web", source=BLOG) == ["10.2.0.2"]


def _is_hung_up(caller: socket.socket) -> bool:
    try:
        return caller.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


async def test_who_opens_one_after_the_other_waits(world: World) -> None:
    world.resolver.streams._pace = Pace(PACE, 2.5 * streams.OPENED, lambda: 0.0)
    for _ in range(2):
        reader, writer = await _connect(world)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
    assert world.resolver.streams._pace.wait(SHOP) == 0
    _, writer = await _connect(world)
    await _until(lambda: world.resolver.streams.limit.total == 1)
    assert world.resolver.streams._pace.wait(SHOP) > 0
    writer.close()


@contextlib.contextmanager
def _no_more_files() -> Iterator[None]:
    """This process can open nothing meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_a_connection_waits_where_no_file_is_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = list[bool]()
    takes = accepting._take

    def take(*args: Any) -> bool:
        looked.append(takes(*args))
        return looked[-1]

    monkeypatch.setattr(accepting, "_take", take)
    monkeypatch.setattr(accepting, "AGAIN", 0.5)
    caller = socket.socket()
    caller.bind((SHOP, 0))
    with _no_more_files():
        caller.connect((RESOLVER, world.port))
        await _until(lambda: bool(looked))
        for _ in range(100):
            await asyncio.sleep(0)
        assert looked[0] is False
        assert len(looked) < 10  # it is not looked at again and again
    caller.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=caller)
    writer.write(_framed("web"))
    assert (await _read(reader)).answer
    writer.close()
