"""One environment fills the kernel's table of connections: what others have goes on, and all is well when it is gone.

The table's size is the whole machine's, so this runs in the emulated one only, see ``tests/guest``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from plugin.docker import protocol
from stackpad.cli import examine
from tests.kernel.workbench import node
from tests.netns import PROC, Namespace, eventually, ip, run
from tests.samples import endpoint_id, network_id

pytestmark = [
    pytest.mark.usefixtures("netns"),
    pytest.mark.skipif(
        not os.environ.get("STACKPAD_GUEST"),
        reason="the table's size is the machine's; STACKPAD_LONG=1 has tests/guest run this in one of its own",
    ),
]

BUCKETS = Path("/sys/module/nf_conntrack/parameters/hashsize")
SIZE = PROC / "sys/net/netfilter/nf_conntrack_max"
SERVER = ("198.51.100.1", 8080)
GREEDY = protocol.EndpointRef(network_id=network_id(1), endpoint_id=endpoint_id(2))
MOST = 512
"""Connections there can be; as many buckets, so that the kernel finds what is over, as in tables of real size."""


@pytest.fixture
async def outside(netns: None) -> AsyncIterator[Namespace]:
    """A server on the outside that takes every connection, and answers with what it is told."""
    made = Namespace()
    ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", made.path)
    ip("addr", "add", "198.51.100.2/24", "dev", "eth0")
    ip("link", "set", "eth0", "up")
    ip("route", "add", "default", "via", SERVER[0])
    made.run("ip", "addr", "add", f"{SERVER[0]}/24", "dev", "eth0")
    made.run("ip", "link", "set", "eth0", "up")

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while said := await reader.read(100):
            writer.write(said)
        writer.close()

    listener = made.call(lambda: socket.create_server(SERVER, backlog=2 * MOST))
    server = await asyncio.start_server(echo, sock=listener)
    yield made
    server.close()
    made.close()


def resize(buckets: str, most: str) -> None:
    """Only the machine's first namespace may say how large the table is."""
    for number, size in ((buckets, BUCKETS), (most, SIZE)):
        run("nsenter", "--net=/proc/1/ns/net", "sh", "-c", f"echo {number} > {size}")


@pytest.fixture
def small() -> Iterator[None]:
    """A table that a test can fill."""
    # Both ends of each connection are in this process.
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4 * MOST, files[1]), files[1]))
    buckets, most = (size.read_text().strip() for size in (BUCKETS, SIZE))
    resize(str(MOST), str(MOST))
    yield
    resize(buckets, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, files)


async def connect(container: Namespace, seconds: float) -> socket.socket:
    """A connection from a container to the server; raises :class:`TimeoutError`."""
    opened = container.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    opened.setblocking(False)
    try:
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(opened, SERVER), seconds)
    except TimeoutError:
        opened.close()
        raise
    return opened


async def in_time(container: Namespace) -> socket.socket:
    """A connection as soon as there is room for one; each try is another port, at once."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(TimeoutError):
                return await connect(container, 2.5)


async def answered(connection: socket.socket, word: bytes) -> None:
    """Fail unless the server answers in this connection."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(60):
        await loop.sock_sendall(connection, word)
        assert await loop.sock_recv(connection, 100) == word


def tracked() -> tuple[int, int]:
    """How many are tracked, and can be, as the doctor sees it."""
    found = examine._connections(PROC)
    assert found is not None
    return found


async def filled(container: Namespace) -> list[socket.socket]:
    """Connections of one container, until there is room for none."""
    taken = list[socket.socket]()
    for _ in range(2 * MOST):
        try:
            taken.append(await connect(container, 10.0))
        except TimeoutError:
            return taken
    raise AssertionError(f"there was room for {len(taken)}, and {tracked()} are tracked")


async def test_what_others_have_goes_on_when_one_fills_the_kernels_table(
    outside: Namespace, small: None, tmp_path: Path
) -> None:
    async with node(tmp_path) as made:
        await made.network(1)
        await made.network(2)
        greedy, other = await made.container(2, 1), await made.container(3, 2)
        before = await connect(other, 60.0)
        await answered(before, b"before")
        taken = await filled(greedy)
        count, most = tracked()
        assert (most, count >= 0.9 * most) == (MOST, True)
        await answered(before, b"meanwhile")
        with pytest.raises(TimeoutError):
            await connect(other, 2.5)
        # The plugin's own work needs none of them.
        assert "eth0" in (await made.container(4, 2)).run("ip", "link")
        # Closed connections would stay for two minutes. Those of a container that is gone are forgotten.
        await made.driver.leave(GREEDY)
        await made.driver.delete_endpoint(GREEDY)
        after = await in_time(other)
        await answered(after, b"after")
        await answered(before, b"after")
        await eventually(lambda: not made.reconciler.failures, "nothing is left undone")
        for connection in (before, after, *taken):
            connection.close()
