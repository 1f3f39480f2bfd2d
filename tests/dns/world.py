"""A resolver that serves, servers behind it that do as they are told, and clients with addresses of their own.

All of 127.0.0.0/8 is loopback: each client and each server has an address of its own there, without root.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from plugin.resolver.forwarder import Forwarder
from plugin.resolver.server import Resolver
from plugin.resolver.zone import Environment, Replica, View
from tests import freeport

BOUND = 60.0
"""Seconds after which something that should happen is taken for failed."""

RESOLVER, SHOP, BLOG, CLOSED, STRANGER = "127.53.0.53", "127.53.1.1", "127.53.2.1", "127.53.3.1", "127.53.9.1"
UPSTREAMS = ("127.53.0.1", "127.53.0.2", "127.53.0.3")
MANY = 300
DNSMASQ = shutil.which("dnsmasq", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or "dnsmasq"


def free_port(*addresses: str) -> int:
    """A port that is free on all of ``addresses`` for UDP and TCP now."""
    while True:
        port = freeport.free_port()
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for address in addresses:
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                    family = socket.AF_INET6 if ":" in address else socket.AF_INET
                    stack.enter_context(socket.socket(family, kind)).bind((address, port))
            return port


def needs_ipv6() -> None:
    """Skip the test where loopback has no IPv6."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"no IPv6 on loopback: {error}")


def replica(container: str, *addresses: str, ports: tuple[tuple[int, str], ...] = ()) -> Replica:
    """A container with addresses."""
    return Replica(container, tuple(map(ipaddress.ip_address, addresses)), ports)


def view(web: str = "10.1.0.2") -> View:
    """Three environments, each with one client."""
    db = replica("db-1", web, "fd00::2", ports=((5432, "tcp"),))
    many = tuple(replica(f"many-{n}", f"10.1.{1 + n // 250}.{n % 250}") for n in range(MANY))
    shop = Environment("shop-production", {"web": (db,), "many": many}, reverse={db.addresses[0]: "db-1"})
    blog = Environment("blog-production", {"web": (replica("blog-1", "10.2.0.2"),), "cms": (replica("x", "10.2.0.3"),)})
    closed = Environment("closed-production", {"web": (replica("closed-1", "10.3.0.2"),)}, internal=True)
    environments = {there.name: there for there in (shop, blog, closed)}
    clients = {SHOP: shop, BLOG: blog, CLOSED: closed}
    return View({address: (there.name,) for address, there in clients.items()}, environments)


@dataclass
class World:
    """The resolver and its port, which is its upstreams' port too."""

    port: int
    resolver: Resolver
    forwarder: Forwarder
    upstreams: list[str] = field(default_factory=list)

    async def dig(self, *words: str, source: str = SHOP, server: str = RESOLVER) -> str:
        """What ``dig`` prints."""
        command = ["dig", f"@{server}", "-p", str(self.port), "-b", source, "+tries=1", "+timeout=10", *words]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env={**os.environ, "HOME": "/"}
        )
        out, _ = await process.communicate()
        return out.decode()

    async def short(self, *words: str, source: str = SHOP, server: str = RESOLVER) -> list[str]:
        """The answers alone, sorted."""
        return sorted((await self.dig("+short", *words, source=source, server=server)).split())

    async def ask(self, name: str, kind: str = "A", source: str = SHOP) -> dns.message.Message:
        """One question by UDP, and its answer; other answers to the same address are an error."""
        query = dns.message.make_query(name, kind)
        async with datagrams(source, (RESOLVER, self.port)) as client:
            client.transport.sendto(query.to_wire())
            response = dns.message.from_wire(await client.receive())
        assert query.is_response(response)
        return response


@contextlib.asynccontextmanager
async def serving(addresses: Sequence[str] = (RESOLVER,)) -> AsyncIterator[World]:
    """A resolver that serves :func:`view` to its clients; it has no upstreams yet."""
    port = free_port(*addresses, *UPSTREAMS)
    upstreams: list[str] = []
    forwarder = Forwarder(lambda: upstreams, port)
    resolver = Resolver(addresses, forwarder, port)
    resolver.update(view())
    async with running(resolver):
        yield World(port, resolver, forwarder, upstreams)


@contextlib.asynccontextmanager
async def running(resolver: Resolver) -> AsyncIterator[None]:
    """The resolver serves as long as the block lasts."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(resolver.run())
        try:
            await resolver.serving.wait()  # a failure of the task interrupts this
            yield
        finally:
            task.cancel()


class Datagrams(asyncio.DatagramProtocol):
    """What comes in, in order."""

    transport: asyncio.DatagramTransport

    def __init__(self) -> None:
        self.received: asyncio.Queue[bytes] = asyncio.Queue()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, _: object) -> None:
        self.received.put_nowait(data)

    async def receive(self) -> bytes:
        """The next one."""
        async with asyncio.timeout(BOUND):
            return await self.received.get()


@contextlib.asynccontextmanager
async def datagrams(source: str, to: tuple[str, int]) -> AsyncIterator[Datagrams]:
    """A socket from ``source``, connected: it hears ``to`` and nobody else."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(Datagrams, local_addr=(source, 0), remote_addr=to)
    try:
        yield protocol
    finally:
        transport.close()


Behaviour = Callable[[dns.message.Message], Awaitable[Sequence[bytes]]]


class Upstream(asyncio.DatagramProtocol):
    """A server that answers as ``behaviour`` says, over UDP and TCP.

    ``asked`` are the questions it got, ``addresses`` where they came from by UDP.
    """

    def __init__(self, behaviour: Behaviour, tasks: asyncio.TaskGroup) -> None:
        self.behaviour, self.asked = behaviour, list[dns.message.Message]()
        self.addresses: set[tuple[str, int]] = set()
        self._tasks = tasks
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        self.addresses.add(source)
        self._tasks.create_task(self._answer(data, source))

    async def _answer(self, data: bytes, source: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        self.asked.append(query)
        for answer in await self.behaviour(query):
            if self.transport is not None and not self.transport.is_closing():
                self.transport.sendto(answer, source)

    async def stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                size = int.from_bytes(await reader.readexactly(2), "big")
                query = dns.message.from_wire(await reader.readexactly(size))
                self.asked.append(query)
                for answer in await self.behaviour(query):
                    writer.write(len(answer).to_bytes(2, "big") + answer)
        writer.close()


@contextlib.asynccontextmanager
async def upstream(world: World, behaviour: Behaviour, address: str = UPSTREAMS[0]) -> AsyncIterator[Upstream]:
    """A server on ``address``, after those the resolver has already."""
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:
        made = Upstream(behaviour, tasks)
        transport, _ = await loop.create_datagram_endpoint(lambda: made, local_addr=(address, world.port))
        server = await asyncio.start_server(made.stream, address, world.port)
        world.upstreams.append(address)
        try:
            yield made
        finally:
            world.upstreams.remove(address)
            transport.close()
            server.close()


def answer(query: dns.message.Message, address: str = "192.0.2.1", count: int = 1) -> dns.message.Message:
    """An answer to an A question."""
    response = dns.message.make_response(query, recursion_available=True)
    first = ipaddress.ip_address(address)
    texts = [str(first + number) for number in range(count)]
    response.answer.append(dns.rrset.from_text_list(query.question[0].name, 60, "IN", "A", texts))
    return response


def says(address: str = "192.0.2.1") -> Behaviour:
    """A server that knows every name."""

    async def behaviour(query: dns.message.Message) -> Sequence[bytes]:
        return [answer(query, address).to_wire()]

    return behaviour


def fails(rcode: dns.rcode.Rcode) -> Behaviour:
    """A server that fails."""

    async def behaviour(query: dns.message.Message) -> Sequence[bytes]:
        response = dns.message.make_response(query)
        response.set_rcode(rcode)
        return [response.to_wire()]

    return behaviour


async def silent(_: dns.message.Message) -> Sequence[bytes]:
    """A server that hears and says nothing."""
    return []


@contextlib.asynccontextmanager
async def dnsmasq(address: str, port: int, directory: Path, *options: str) -> AsyncIterator[None]:
    """A real server that knows what ``options`` say and nothing else."""
    arguments = ["--conf-file=/dev/null", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--bind-interfaces"]
    arguments += [f"--listen-address={address}", f"--port={port}", "--pid-file=", f"--user={os.environ.get('USER', '')}"]
    with (directory / "dnsmasq.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(DNSMASQ, *arguments, *options, stdout=log, stderr=log)
    try:
        async with asyncio.timeout(BOUND):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection(address, port)
                    writer.close()
                    break
                assert process.returncode is None, (directory / "dnsmasq.log").read_text()
                await asyncio.sleep(0.02)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
