"""Ports published at an address of the node's that nobody outside may reach, asked for by a neighbour on the link.

The redirection comes before routing, so no check of the kernel's own sees the address that was asked for.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import AsyncIterator, Sequence
from functools import partial

import msgspec
import pytest

from plugin.admin.upstreams import UpstreamAdmin
from plugin.docker import protocol
from plugin.kernel.dataplane import FILTER, Element
from plugin.naming import RESOLVER, RESOLVER6
from stackpad.upstreams import UPSTREAM4, UPSTREAM6
from tests import samples
from tests.kernel.frames import Bench, Wire, arrives, dropped, ether, packet, packet6
from tests.kernel.test_attacks import link
from tests.netns import Namespace, eventually, ip

NODE, NEIGHBOUR, NODE6, NEIGHBOUR6 = "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"
MESH, MESH6 = "10.192.0.1", "fd00:53::1"
PORT, INSIDE = 8081, 2000
UDP = 17


@pytest.fixture(params=["wire", "bridge"])
async def neighbour(bench: Bench, request: pytest.FixtureRequest) -> AsyncIterator[Namespace]:
    """Somebody on a link of the node's; or in a container of a network of Docker's, which is a bridge."""
    made = Namespace()
    ip("link", "add", "eth9", "type", "veth", "peer", "name", "eth0", "netns", made.path)
    own = "eth9"
    if request.param == "bridge":
        own = "docker9"
        ip("link", "add", own, "address", "02:42:00:00:00:01", "type", "bridge")
        ip("link", "set", own, "up")
        ip("link", "set", "eth9", "master", own)
    ip("link", "set", "eth9", "up")
    for address in (f"{NODE}/24", f"{NODE6}/64"):
        ip("addr", "add", address, "dev", own, *(["nodad"] if ":" in address else []))
    for address in (f"{NEIGHBOUR}/24", f"{NEIGHBOUR6}/64"):
        made.run("ip", "addr", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
    made.run("ip", "link", "set", "eth0", "up")
    yield made
    made.close()


@contextlib.asynccontextmanager
async def published(bench: Bench, *addresses: str) -> AsyncIterator[None]:
    """A's port, at each of these addresses of the node."""
    body = samples.publish(2, *[samples.binding(INSIDE, PORT, address=address, proto=UDP) for address in addresses])
    driver = bench[0].driver
    await driver.program_external_connectivity(msgspec.convert(body, protocol.ProgramExternalConnectivity))
    try:
        yield
    finally:
        await driver.revoke_external_connectivity(msgspec.convert(samples.reference(2), protocol.EndpointRef))


def question(neighbour: Namespace, target: str, word: bytes) -> bytes:
    """A datagram to the published port in a frame for the node, whatever the address."""
    own = "docker9" if "docker9" in ip("-br", "link", "show") else "eth9"
    ends = (link(own), link("eth0", neighbour))
    if ":" not in target:
        return ether(*ends, 0x0800, packet(NEIGHBOUR, target, word, (1000, PORT)))
    udp = struct.pack(">HHHH", 1000, PORT, 8 + len(word), 0) + word
    return ether(*ends, 0x86DD, packet6(NEIGHBOUR6, target, UDP, udp))


async def arrivals(container: Wire, neighbour: Namespace, closed: Sequence[str], open_: str) -> set[str]:
    """What the container got of the neighbour's questions to each address, of which the last one must be open to him."""
    wire = Wire(neighbour)
    wire.send(*[question(neighbour, address, f"<evil{number}>".encode()) for number, address in enumerate(closed)])
    wire.send(question(neighbour, open_, b"<genuine>"))
    came = await arrives(container, "genuine")
    wire.close()
    return came


async def test_what_is_published_for_the_node_alone_is_closed_to_its_neighbours(
    bench: Bench, neighbour: Namespace
) -> None:
    alone = ("127.0.0.1", "127.8.9.10")
    async with published(bench, *alone, NODE):
        assert await arrivals(bench[1], neighbour, alone, NODE) == {"genuine"}
        assert dropped("the node's loopback is not on the wire") == len(alone)


async def test_what_is_published_in_the_tunnel_is_closed_to_its_neighbours(bench: Bench, neighbour: Namespace) -> None:
    await in_a_mesh(bench)
    for closed, open_ in ((MESH, NODE), (MESH6, NODE6)):
        async with published(bench, closed, open_):
            assert await arrivals(bench[1], neighbour, [closed], open_) == {"genuine"}
    assert dropped("the mesh is in the tunnel only") == 2


async def test_what_is_published_everywhere_is_not_open_at_addresses_of_the_node_alone(
    bench: Bench, neighbour: Namespace
) -> None:
    await in_a_mesh(bench)
    every4, every6 = ("127.0.0.1", *UPSTREAM4, RESOLVER, MESH), ("::1", *UPSTREAM6, RESOLVER6, MESH6)
    async with published(bench, ""):
        assert await arrivals(bench[1], neighbour, every4, NODE) == {"genuine"}
        assert await arrivals(bench[1], neighbour, every6, NODE6) == {"genuine"}


async def in_a_mesh(bench: Bench) -> None:
    """Have all such addresses on the node, and the rules know of those in the tunnel."""
    mesh = {Element(FILTER, "mesh_self4", MESH), Element(FILTER, "mesh_self6", MESH6)}
    await bench[0].reconciler.admit("mesh", frozenset(mesh))
    await UpstreamAdmin(bench[0].state, bench[0].reconciler).replace(b'{"20001": []}')
    for address in (RESOLVER, MESH):
        ip("addr", "replace", f"{address}/32", "dev", "lo")
    for address in (RESOLVER6, MESH6):
        ip("-6", "addr", "replace", f"{address}/128", "dev", "lo", "nodad")
    for address in (*UPSTREAM6, RESOLVER6, MESH6):
        await eventually(partial(ip, "-6", "route", "show", "table", "local", address), f"the route to {address}")
