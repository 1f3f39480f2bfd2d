"""The resolver's view follows this node's containers and the cluster's records."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import cast

import dns.message
import dns.rcode
import pytest

from plugin.cluster.cluster import Cluster
from plugin.cluster.names import Names
from plugin.local.attachments import Attachment
from plugin.model import Endpoint, IPNet, ip_network
from plugin.resolver.forwarder import Forwarder
from plugin.resolver.wire import Verdict
from plugin.state import State
from plugin.store.mesh import View
from stackpad import records
from tests.samples import endpoint, network

ME, OTHER = "node-a", "node-b"


@dataclass
class Attachments:
    by_endpoint: dict[str, Attachment] = field(default_factory=dict)


@dataclass
class Membership:
    node: str = ME


@dataclass
class Known:
    """Of the cluster, what names come from."""

    endpoints: dict[str, records.Endpoint] = field(default_factory=dict)
    alive: set[str] = field(default_factory=lambda: {ME, OTHER})
    membership: Membership | None = field(default_factory=Membership)
    attachments: Attachments = field(default_factory=Attachments)
    unreached: dict[str, frozenset[IPNet]] = field(default_factory=dict)

    @property
    def view(self) -> View:
        return View(endpoints=self.endpoints, alive=frozenset(self.alive))

    def put(self, name: str, environment: str, address: str = "10.200.0.9") -> None:
        self.endpoints[name] = records.Endpoint(
            owner=OTHER, id=name, network="n", environment=environment, names=(name,), addresses=(address,)
        )


@dataclass
class World:
    known: Known
    names: Names
    state: State
    here: Endpoint

    async def finds(self, name: str, client: str = "10.192.1.2") -> bool:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        answer = self.names.resolver.answer(dns.message.make_query(name, "A").to_wire(), client)
        return not isinstance(answer, Verdict) and bool(dns.message.from_wire(answer).answer)


@pytest.fixture
async def world(state: State) -> World:
    known = Known()
    names = Names(cast(Cluster, known), state, Forwarder(list))
    state.endpoints_changed = names.touch
    there = network(1, environment="shop")
    await state.put_network(there)
    return World(known, names, state, endpoint(there))


async def test_a_container_may_ask_as_soon_as_it_is_connected(world: World) -> None:
    world.known.put("db", "shop")
    assert not await world.finds("db")
    await world.state.put_endpoint(replace(world.here, sandbox=""))
    assert not await world.finds("db")
    await world.state.put_endpoint(world.here)
    assert await world.finds("db")
    await world.state.put_endpoint(replace(world.here, left=True))
    assert not await world.finds("db")


async def test_a_container_that_is_gone_is_a_stranger(world: World) -> None:
    world.known.put("db", "shop")
    await world.state.put_endpoint(world.here)
    assert await world.finds("db")
    await world.state.drop_endpoint(world.here.id)
    assert not await world.finds("db")
    await world.state.put_endpoint(world.here)
    assert await world.finds("db")
    await world.state.drop_network(world.here.network_id)
    assert not await world.finds("db")


async def test_a_container_in_two_networks_finds_both(world: World) -> None:
    world.known.put("cms", "blog")
    blog = network(2, environment="blog")
    await world.state.put_network(blog)
    other = endpoint(blog)
    await world.state.put_endpoint(world.here)
    await world.state.put_endpoint(other)
    assert not await world.finds("cms")
    for there in (world.here, other):
        world.known.attachments.by_endpoint[there.id] = Attachment(
            there.id, "one container", "web", there.network_id, ("web",), ()
        )
    world.names.touch()
    assert await world.finds("cms")


async def _asked(world: World, name: str, client: str) -> object:
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return world.names.resolver.answer(dns.message.make_query(name, "A").to_wire(), client)


async def test_nothing_goes_outside_from_an_internal_network_without_a_name(world: World) -> None:
    """Its name comes from the engine, a moment after its first containers or much later."""
    dark, open_ = network(2, environment="", internal=True), network(3, environment="")
    hidden, seen = endpoint(dark), endpoint(open_)
    for there, end in ((dark, hidden), (open_, seen)):
        await world.state.put_network(there)
        await world.state.put_endpoint(end)
    world.known.put("db", "/internal")  # nobody is called that; and nobody is found by it
    world.names.touch(["/internal"])
    for name in ("example.org", "db", "x./internal"):
        answer = await _asked(world, name, str(hidden.addresses[0]))
        assert isinstance(answer, bytes)
        assert dns.message.from_wire(answer).rcode() == dns.rcode.NXDOMAIN
    assert await _asked(world, "example.org", str(seen.addresses[0])) is Verdict.FORWARD
    await world.state.put_network(replace(dark, environment="dark"))
    world.known.put("db", "dark")
    world.names.touch(["dark"])
    assert await world.finds("db", str(hidden.addresses[0]))
    assert await _asked(world, "example.org", str(hidden.addresses[0])) is not Verdict.FORWARD


async def test_nor_does_it_on_a_node_that_is_in_no_cluster(world: World) -> None:
    dark = network(2, environment="dark", internal=True)
    hidden = endpoint(dark)
    await world.state.put_network(dark)
    await world.state.put_endpoint(hidden)
    world.known.membership = None
    world.names.touch()
    answer = await _asked(world, "example.org", str(hidden.addresses[0]))
    assert isinstance(answer, bytes)
    assert dns.message.from_wire(answer).rcode() == dns.rcode.NXDOMAIN
    assert await _asked(world, "example.org", "192.0.2.9") is Verdict.FORWARD


async def test_a_container_in_an_open_network_too_has_an_outside(world: World) -> None:
    dark, open_ = network(2, environment="", internal=True), network(3, environment="")
    ends = endpoint(dark), endpoint(open_)
    for there, end in zip((dark, open_), ends, strict=True):
        await world.state.put_network(there)
        await world.state.put_endpoint(end)
        world.known.attachments.by_endpoint[end.id] = Attachment(end.id, "one container", "web", there.id, ("web",), ())
    world.names.touch()
    assert await _asked(world, "example.org", str(ends[0].addresses[0])) is Verdict.FORWARD


async def test_records_come_change_and_go(world: World) -> None:
    await world.state.put_endpoint(world.here)
    assert not await world.finds("db")
    world.known.put("db", "shop")
    world.names.touch(["shop"])
    assert await world.finds("db")
    world.known.put("cms", "blog")
    world.names.touch(["blog"])
    assert not await world.finds("cms")
    del world.known.endpoints["db"]
    world.names.touch(["shop"])
    assert not await world.finds("db")


async def test_nodes_come_and_go(world: World) -> None:
    await world.state.put_endpoint(world.here)
    world.known.put("db", "shop")
    world.names.touch(["shop"])
    assert await world.finds("db")
    world.known.alive.discard(OTHER)
    world.names.touch()
    assert not await world.finds("db")
    world.known.alive.add(OTHER)
    world.names.touch()
    assert await world.finds("db")


async def test_who_is_not_reached_has_no_name(world: World) -> None:
    """Neither here nor, for it is the environment's, outside; and has it again with the way there."""
    await world.state.put_endpoint(world.here)
    world.known.put("db", "shop")
    assert await world.finds("db")
    world.known.unreached = {OTHER: frozenset({ip_network("10.200.0.0/24")})}
    world.names.touch()
    assert not await world.finds("db")
    query = dns.message.make_query("db", "A").to_wire()
    answer = world.names.resolver.answer(query, "10.192.1.2")
    assert not isinstance(answer, Verdict)
    assert dns.message.from_wire(answer).rcode() == dns.rcode.NXDOMAIN
    world.known.put("cache", "shop", "10.200.1.9")
    world.names.touch(["shop"])
    assert await world.finds("cache"), "what its node has in other ranges is"
    world.known.unreached = {"node-c": frozenset({ip_network("10.200.0.0/24")})}
    world.names.touch()
    assert await world.finds("db"), "the range is refused to another node"


async def test_who_leaves_the_cluster_knows_nothing_of_it(world: World) -> None:
    await world.state.put_endpoint(world.here)
    world.known.put("db", "shop")
    world.names.touch(["shop"])
    assert await world.finds("db")
    world.known.membership = None
    world.known.endpoints.clear()
    world.names.touch()
    assert not await world.finds("db")
    assert await _asked(world, "db", "10.192.1.2") is Verdict.FORWARD, "the engine still sends its questions here"
    world.known.membership = Membership()
    world.known.put("cache", "shop")
    world.names.touch(["shop"])
    assert await world.finds("cache")
    assert not await world.finds("db")
