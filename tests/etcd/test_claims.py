"""Blocks and ranges of one node, with a real store, a real disk, and everything asked for at once."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import cast

import msgspec
import pytest

from plugin import steady
from plugin.cluster import claims
from plugin.cluster.claims import Claims
from plugin.cluster.cluster import Cluster
from plugin.docker import protocol
from plugin.docker.driver import NetworkDriver
from plugin.docker.ipam import Ipam
from plugin.docker.ports import PortReservations
from plugin.kernel.node import Route
from plugin.kernel.writer import Kernel
from plugin.model import IPNet, Network, Subnet, ip_network
from plugin.ranges import blocks
from plugin.settings import Settings
from plugin.state import State
from plugin.steady import Moments
from plugin.store.loop import StoreLoop
from plugin.store.membership import Membership, Memory
from stackpad import jsontext, records
from stackpad.engine import Engine
from stackpad.errors import Conflict, Unavailable
from stackpad.etcd import Etcd, Put
from tests import samples
from tests.clock import HOUR, Clock
from tests.etcd.server import BOUND, running
from tests.samples import network, network_id
from tests.served import Recorder

ME = "n1"
CLUSTER = records.Cluster(
    owner="n0", id="c", range4="10.192.0.0/16", range6="fd00::/48", block_prefix=25, network_prefix=26
)
FIRST = records.Range(owner=ME, net="10.192.0.0/25", block=True)
MINE = Membership(
    node=ME,
    name="worker",
    cluster=CLUSTER,
    secret="AAAA",  # noqa: S106 - of a test
    mesh4="127.0.0.1",
    mesh6="fd00::1",
    ranges=(FIRST,),
)


class _Alone(Cluster):
    """A cluster's node whose other routes are none: only the kernel is not asked."""

    async def other_routes(self) -> list[IPNet]:
        return []


class Node:
    """A node in a cluster with its claims, and a client of its store for what others do there."""

    def __init__(self, cluster: Cluster, claims: Claims, state: State, directory: Path, etcd: Etcd) -> None:
        self.cluster, self.claims, self.state, self.directory, self.etcd = cluster, claims, state, directory, etcd
        self.heard = asyncio.Event()

    async def stored(self) -> dict[str, records.Range]:
        """The ranges as the store has them, by net."""
        found = records.readable((kv.value for kv in (await self.etcd.list(records.RANGES)).items), records.Range)
        return {record.net: record for record in found}

    async def put(self, record: records.Record, key: str) -> None:
        """Write as another node would, and wait until this one has seen it."""
        await self.etcd.commit([], [Put(key, records.encode(record))])
        async with asyncio.timeout(BOUND):
            while self.cluster.stored(key) != records.encode(record):
                await self.heard.wait()
                self.heard.clear()

    def publish_ranges(self) -> None:
        """Have the store told of this node's ranges, as where there are an engine and a kernel to ask for the rest."""
        store = self.cluster.store
        assert store is not None
        store._own = lambda: {records.range_key(one.net): one for one in self.cluster.member_of().ranges}

    def remembered(self) -> set[str]:
        """What is on the disk."""
        there = Memory(self.directory).load()
        assert there is not None
        assert there == self.cluster.membership
        return {record.net for record in there.ranges}


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    lib = tmp_path / "lib"
    (lib / "stackpad").mkdir(parents=True)
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(running(tmp_path / "one"))
        etcd = await stack.enter_async_context(Etcd([server.url]))
        settings = Settings(
            host_lib=lib,
            range4=IPv4Network(CLUSTER.range4),
            block_prefix=25,
            store=(server.url, "https://172.30.9.9:2379"),
            dns=("172.30.53.53",),
        )
        state = await stack.enter_async_context(State(settings.state_file))
        Memory(settings.state_file.parent).save(MINE)
        engine = await stack.enter_async_context(Engine(f"unix://{tmp_path}/nobody"))

        async def no_tunnel() -> None:
            raise AssertionError("nobody needs one here")

        cluster = _Alone(settings, state, cast(Kernel, None), Recorder(state), engine, no_tunnel)  # type: ignore[arg-type]
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        own = await stack.enter_async_context(Etcd([server.url]))
        made = Node(cluster, Claims(cluster, settings), state, settings.state_file.parent, etcd)
        made.claims.listed = lambda: ()
        store = StoreLoop(own, cluster._memory, cluster._seen, ME, lambda: None, lambda _: made.heard.set())
        cluster._services.store = store
        following = tasks.create_task(store.run())
        await store.connected.wait()
        yield made
        following.cancel()


async def _none() -> list[Route]:
    return []


def _claimed(number: int, net: str) -> Network:
    return network(number, subnets=(Subnet(net),))


async def test_twenty_networks_at_once_and_a_block_holds_two(node: Node) -> None:
    ipam = Ipam(node.state, node.cluster._settings, _none, node.claims)
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(ipam.request_pool(protocol.RequestPool())) for _ in range(20)]
    pools = {str(task.result()["Pool"]) for task in asked}
    assert len(pools) == 20
    held = {FIRST.net, *await node.stored()}
    assert held == node.remembered(), "what is claimed is remembered, and the other way round"
    assert len(held) == 11, "one in the first block, beside the node's own part, and two in each other: also the last one"
    for pool in pools:
        assert any(blocks.within(ip_network(pool), ip_network(net)) for net in held)


async def test_who_comes_second_takes_what_the_first_has_claimed(node: Node) -> None:
    seen = node.claims.blocks(4)
    async with asyncio.TaskGroup() as tasks:
        grown = [tasks.create_task(node.claims.grow(4, seen)) for _ in range(20)]
    assert sorted(task.result() for task in grown) == [*[False] * 19, True]
    assert len(await node.stored()) == 1


async def test_claims_and_what_is_given_back_at_once(node: Node) -> None:
    async with asyncio.TaskGroup() as tasks:
        for number in range(10):
            tasks.create_task(node.claims.claim(_claimed(number, f"172.30.{number}.0/24")))
    async with asyncio.TaskGroup() as tasks:
        for number in range(10):
            tasks.create_task(node.claims.release(network_id(number)))
            tasks.create_task(node.claims.claim(_claimed(number + 20, f"172.31.{number}.0/24")))
    assert node.cluster.membership is not None
    held = {record.net for record in node.cluster.membership.ranges if not record.freed}
    assert held == {FIRST.net, *(f"172.31.{number}.0/24" for number in range(10))}
    assert node.remembered() == held | {f"172.30.{number}.0/24" for number in range(10)}


async def test_a_claim_that_cannot_be_remembered_is_not_held(node: Node) -> None:
    (node.directory / "membership.json").unlink()
    (node.directory / "membership.json").mkdir()
    with pytest.raises(Unavailable, match=r"membership\.json cannot be written"):
        await node.claims.grow(4, node.claims.blocks(4))
    assert await node.stored() == {}


NET = "172.30.7.0/24"


def _driver(node: Node) -> NetworkDriver:
    ipam = Ipam(node.state, node.cluster._settings, _none, node.claims)
    return NetworkDriver(node.state, ipam, PortReservations(), Recorder(node.state), _none, node.claims)


def _create(number: int, net: str = NET) -> protocol.CreateNetwork:
    return jsontext.decode(json.dumps(samples.create_network(number, pool=net)).encode(), type=protocol.CreateNetwork)


@contextlib.contextmanager
def _refused(node: Node) -> Iterator[None]:
    """As long as this lasts, ``membership.json`` cannot be written."""
    path = node.directory / "membership.json"
    path.unlink()
    path.mkdir()
    yield
    path.rmdir()


async def _orphaned(node: Node) -> NetworkDriver:
    """With a range that was claimed for a network that the disk has forgotten, while it would not give the range back."""
    driver = _driver(node)
    await driver.create_network(_create(1))
    with _refused(node), pytest.raises(Unavailable, match=r"membership\.json cannot be written"):
        await driver.delete_network(protocol.NetworkRef(network_id=network_id(1)))
    assert node.state.networks == {}
    return driver


async def test_a_network_that_the_disk_refuses_gives_its_range_back(node: Node) -> None:
    driver = _driver(node)
    node.publish_ranges()
    node.state._database.connection.execute("PRAGMA query_only = ON")
    with pytest.raises(Unavailable, match=r"net\.db cannot be written"):
        await driver.create_network(_create(1))
    node.state._database.connection.execute("PRAGMA query_only = OFF")
    assert node.cluster.membership is not None
    assert [bool(record.freed) for record in node.cluster.membership.ranges] == [False, True]
    await driver.create_network(_create(2))
    assert (await node.stored())[NET].network == network_id(2)


async def test_a_refusal_is_told_with_its_own_reason_where_the_range_is_refused_as_well(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it is on one disk."""
    driver, claim = _driver(node), node.claims.claim

    with contextlib.ExitStack() as refused:

        async def claimed(network: Network) -> None:
            await claim(network)
            refused.enter_context(_refused(node))

        monkeypatch.setattr(node.claims, "claim", claimed)
        node.state._database.connection.execute("PRAGMA query_only = ON")
        with pytest.raises(Unavailable, match=r"net\.db cannot be written"):
            await driver.create_network(_create(1))
    node.state._database.connection.execute("PRAGMA query_only = OFF")
    monkeypatch.undo()
    assert not (await node.stored())[NET].freed
    await driver.create_network(_create(2, "172.30.7.0/25"))


async def test_a_range_whose_network_has_gone_is_given_back_after_a_while(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _orphaned(node)
    node.publish_ranges()
    await node.claims.collect()
    assert not (await node.stored())[NET].freed
    monkeypatch.setattr(claims, "UNUSED", 0.0)
    await node.claims.collect()
    assert node.cluster.membership is not None
    first, given_back = node.cluster.membership.ranges
    assert (first, given_back.net, bool(given_back.freed)) == (FIRST, NET, True), "a block stays, whoever is in it"
    assert node.remembered() == {FIRST.net, NET}
    async with asyncio.timeout(BOUND):
        while not (await node.stored())[NET].freed:  # noqa: ASYNC110 - another's store has no event
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("listed", [None, {network_id(1)}])
async def test_the_range_of_a_network_that_the_engine_has_is_kept(
    node: Node, monkeypatch: pytest.MonkeyPatch, listed: set[str] | None
) -> None:
    """Its state was lost, and may be put back; or nobody has asked the engine yet."""
    driver = await _orphaned(node)
    node.claims.listed = lambda: listed
    monkeypatch.setattr(claims, "UNUSED", 0.0)
    await node.claims.collect()
    assert not (await node.stored())[NET].freed
    with pytest.raises(Conflict, match="a network of this node"):
        await driver.create_network(_create(2, NET))


@pytest.mark.parametrize("net", [NET, "172.30.7.0/26", "172.30.6.0/23"])
async def test_such_a_range_is_in_the_way_of_no_network_of_this_node(node: Node, net: str) -> None:
    """Who has the network made again does not wait until the range is given back."""
    driver = await _orphaned(node)
    await driver.create_network(_create(2, net))
    assert (await node.stored())[net].network == network_id(2)
    assert node.remembered() == {FIRST.net, NET, net}


async def test_a_range_is_not_given_back_while_a_network_is_in_it(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever network it was claimed for; and not for what was before somebody had it again."""
    driver = await _orphaned(node)
    clock = Clock()
    monkeypatch.setattr(steady, "now", clock.steady)
    await node.claims.collect()
    clock.run(claims.UNUSED - 1)
    await node.state.put_network(_claimed(2, NET))
    await node.claims.collect()
    clock.run(2)
    await driver.delete_network(protocol.NetworkRef(network_id=network_id(2)))
    await node.claims.collect()
    clock.run(claims.UNUSED - 1)
    await node.claims.collect()
    assert node.cluster.membership is not None
    assert not any(record.freed for record in node.cluster.membership.ranges)
    clock.run(1)
    await node.claims.collect()
    assert [bool(record.freed) for record in node.cluster.membership.ranges] == [False, True]


OLD = time.time() - 2 * blocks.COOL_DOWN
GIVEN_BACK = records.Range(owner=ME, net="172.30.0.0/24", network="x", generation=3, freed=OLD)


@pytest.mark.parametrize(
    "since",
    [
        {"owner": "n2", "generation": 4, "freed": 0.0},
        {"owner": "n2", "generation": 4},
        {"generation": 4, "freed": 0.0},
        {"freed": OLD + 1},
    ],
)
async def test_what_was_given_out_again_is_not_deleted(node: Node, since: dict[str, object]) -> None:
    key = records.range_key(GIVEN_BACK.net)
    await node.put(GIVEN_BACK, key)
    now = msgspec.structs.replace(GIVEN_BACK, **since)
    store = node.cluster.connected_store()
    await node.etcd.put(key, records.encode(now))
    await store.ranges.collect([GIVEN_BACK])
    assert (await node.stored())[GIVEN_BACK.net] == now


@pytest.mark.parametrize(
    ("owner", "removed", "freed", "stays"),
    [
        (ME, False, OLD, False),
        ("n2", True, OLD, False),
        ("n2", False, OLD, True),
        ("n2", True, time.time(), True),
        ("n2", True, 0.0, True),
        (ME, False, 0.0, True),
    ],
)
async def test_what_has_cooled_down_and_is_nobodys_is_collected(
    node: Node, owner: str, removed: bool, freed: float, stays: bool
) -> None:
    if removed:
        await node.put(records.Removed(owner=owner, name="gone"), records.key(records.REMOVED, owner))
    left = msgspec.structs.replace(GIVEN_BACK, owner=owner, freed=freed)
    await node.put(left, records.range_key(left.net))
    await node.claims.collect()
    assert (left.net in await node.stored()) is stays


async def test_what_has_cooled_down_is_forgotten_on_the_disk_as_well(node: Node) -> None:
    await node.cluster.keep(msgspec.structs.replace(MINE, ranges=(FIRST, GIVEN_BACK)))
    await node.put(GIVEN_BACK, records.range_key(GIVEN_BACK.net))
    await node.claims.collect()
    assert node.remembered() == {FIRST.net}
    assert await node.stored() == {}


async def test_a_range_that_only_the_store_knows_and_a_network_is_in_is_remembered(node: Node) -> None:
    """As after ``membership.json`` was put back from a copy: given back, another node could have it with all in it."""
    stray = records.Range(owner=ME, net="10.200.0.0/24", block=True)
    await node.state.put_network(_claimed(7, "10.200.0.64/26"))
    await node.put(stray, records.range_key(stray.net))
    await node.claims.collect()
    assert node.cluster.membership is not None
    assert node.cluster.membership.ranges == (FIRST, stray)


async def test_such_a_range_is_given_back_with_the_network_that_is_in_it(node: Node) -> None:
    """Whatever network it was claimed for."""
    stray = records.Range(owner=ME, net="10.200.0.0/24", network=network_id(9), generation=2)
    await node.state.put_network(_claimed(7, stray.net))
    await node.put(stray, records.range_key(stray.net))
    await node.claims.collect()
    assert node.remembered() == {FIRST.net, stray.net}
    await node.claims.release(network_id(7))
    assert node.cluster.membership is not None
    assert [bool(record.freed) for record in node.cluster.membership.ranges] == [False, True]


async def test_a_range_that_only_the_store_knows_is_given_back(node: Node) -> None:
    """As after the store, or this node's disk, was put back from a copy: else nobody could ever have it again."""
    await node.state.put_network(_claimed(7, "10.201.0.0/26"))
    stray = records.Range(owner=ME, net="10.200.0.0/24", network=network_id(7), generation=2)
    node.publish_ranges()
    await node.put(stray, records.range_key(stray.net))
    await node.put(FIRST, records.range_key(FIRST.net))
    await node.claims.collect()
    membership = node.cluster.membership
    assert membership is not None
    assert membership.ranges[0] == FIRST
    (given_back,) = membership.ranges[1:]
    assert given_back.freed
    assert msgspec.structs.replace(given_back, freed=0.0) == stray
    async with asyncio.timeout(BOUND):
        while (await node.stored())[stray.net] != given_back:  # noqa: ASYNC110 - another's store has no event
            await asyncio.sleep(0.05)


async def test_what_was_just_given_back_may_be_had_again_before_it_is_written(node: Node) -> None:
    old = records.Range(owner=ME, net="172.31.6.0/26", network=network_id(9), generation=2, freed=time.time())
    await node.cluster.keep(msgspec.structs.replace(MINE, ranges=(FIRST, old)))
    await node.put(msgspec.structs.replace(old, freed=0.0), records.range_key(old.net))
    await node.claims.claim(_claimed(1, old.net))
    there = (await node.stored())[old.net]
    assert (there.network, there.generation, there.freed) == (network_id(1), 3, 0.0)
    assert node.remembered() == {FIRST.net, old.net}


async def test_what_the_store_has_lost_is_not_free(node: Node) -> None:
    """Its node is just switched off, and has not written it again."""
    other = records.Node(owner="n2", name="away", public_keys=("A" * 43 + "=",), mesh4="172.31.5.1")
    held = records.Range(owner="n2", net="172.31.5.0/24", network="n")
    await node.put(other, records.key(records.NODES, "n2"))
    await node.put(held, records.range_key(held.net))
    await node.etcd.delete_prefix(records.ROOT)
    async with asyncio.timeout(BOUND):
        while node.cluster.stored(records.range_key(held.net)) is not None:
            await node.heard.wait()
            node.heard.clear()
    with pytest.raises(Conflict, match=r"range 172.31.5.0/26 overlaps 172.31.5.0/24, a network of node away"):
        await node.claims.claim(_claimed(1, "172.31.5.0/26"))
    assert await node.stored() == {}


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
@pytest.mark.parametrize("seen", ["as it was given back", "by the next look", "after the jump"])
async def test_what_was_given_back_cools_down_however_the_clock_is_set(node: Node, jump: float, seen: str) -> None:
    """But for what is seen only after a jump ahead: nothing tells that from what was given back an hour ago."""
    clock = Clock(time.time())
    node.claims._moments = Moments(clock.day, clock.steady)
    left = msgspec.structs.replace(GIVEN_BACK, network=network_id(1), freed=0.0)
    await node.cluster.keep(msgspec.structs.replace(MINE, ranges=(FIRST, left)))
    if seen == "as it was given back":
        await node.claims.release(network_id(1))
    else:
        left = msgspec.structs.replace(left, freed=clock.day())
        await node.cluster.keep(msgspec.structs.replace(MINE, ranges=(FIRST, left)))
        if seen == "by the next look":
            await node.claims.collect()
    clock.set(jump)
    await node.claims.collect()
    early = seen == "after the jump" and jump > 0
    assert node.remembered() == ({FIRST.net} if early else {FIRST.net, left.net})
    clock.run(blocks.COOL_DOWN + 1)
    await node.claims.collect()
    assert node.remembered() == {FIRST.net}, "and no hour longer"


async def test_an_older_generation_is_not_written_over_a_newer_one(node: Node) -> None:
    """As while a claim is in the store already and not on the disk yet."""
    newer = msgspec.structs.replace(GIVEN_BACK, generation=4, freed=0.0)
    key = records.range_key(GIVEN_BACK.net)
    await node.put(newer, key)
    store = node.cluster.connected_store()
    await store.ranges.restore({key: records.encode(GIVEN_BACK)})
    assert (await node.stored())[newer.net] == newer


async def test_the_lock_is_a_record_like_all_others(node: Node) -> None:
    await node.etcd.put(records.RANGES_LOCK, b"n7")  # as older nodes write it
    await node.claims.grow(4, node.claims.blocks(4))
    lock = await node.etcd.get(records.RANGES_LOCK)
    assert lock is not None
    assert msgspec.json.decode(lock.value) == {"owner": ME, "schema": records.SCHEMA}


async def test_a_range_that_reaches_another_node_is_not_claimed(node: Node) -> None:
    """Every third node would send WireGuard's own packets for it into the tunnel."""
    first = records.Node(owner="n0", name="first", public_keys=(), endpoints=("172.30.0.7:51820", "[fd99::7]:51820"))
    await node.put(first, records.key(records.NODES, "n0"))
    for net, address in (("172.30.0.0/24", "172.30.0.7"), ("fd99::/64", "fd99::7")):
        with pytest.raises(Conflict, match=f"range {net} has {address} in it, where node first is reached"):
            node.claims.refuse(ip_network(net))
    with pytest.raises(Conflict, match="where the cluster's store is"):
        node.claims.refuse(ip_network("172.30.9.0/24"))
    with pytest.raises(Conflict, match="a name server of this node's"):
        node.claims.refuse(ip_network("172.30.53.0/24"))
    node.claims.refuse(ip_network("172.30.1.0/24"))


async def test_what_another_node_has_taken_of_the_internet_is_not_taken_from_this_one(node: Node) -> None:
    """A member that writes into the store what it likes: nothing of it comes into this node's plan, but for a problem."""
    member = records.Node(owner="n2", name="third", public_keys=(base64.b64encode(bytes(32)).decode(),))
    await node.put(member, records.key(records.NODES, "n2"))
    for net in ("0.0.0.0/2", "172.30.53.0/24", "172.30.1.0/24"):
        await node.put(records.Range(owner="n2", net=net), records.range_key(net))
    wanted = node.cluster._wanted()
    assert wanted is not None
    assert wanted.plan.routes == {ip_network("172.30.1.0/24")}
    public, covering = wanted.refused
    assert public.startswith("a range of node third is not reached from here: 0.0.0.0/2 is no private range")
    assert covering.startswith("a range of node third is not reached from here: 172.30.53.0/24 has 172.30.53.53 in it")


async def test_a_member_takes_no_other_node_out_of_the_mesh_with_its_key(node: Node) -> None:
    """Nor this node's own: by the record that is written last, and not if what it replaces is still there."""
    keys = [base64.b64encode(bytes([number]) * 32).decode() for number in (2, 3)]
    for number, key in zip((2, 3), keys, strict=True):
        made = records.Node(owner=f"n{number}", name=f"worker-{number}", public_keys=(key,))
        await node.put(made, records.key(records.NODES, made.owner))
    assert node.cluster._wanted() is not None
    for stolen in ((keys[0],), (keys[1], keys[0]), node.cluster.keys.public_keys):
        thief = records.Node(owner="n3", name="worker-3", public_keys=stolen)
        await node.put(thief, records.key(records.NODES, "n3"))
        wanted = node.cluster._wanted()
        assert wanted is not None
        there = {keys[0]: "n2", **({keys[1]: "n3"} if keys[1] in stolen else {})}
        assert {key: peer.node for key, peer in wanted.plan.peers.items()} == there
        assert [one for one in node.cluster.problems if one.startswith("node worker-3 says that WireGuard key")]
