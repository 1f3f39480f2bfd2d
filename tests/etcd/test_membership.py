"""What a node does that is not what its disk or its settings once said: with a real store, and no tunnel."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import msgspec
import pytest

from plugin.cluster.admission import Admission
from plugin.cluster.claims import Claims
from plugin.cluster.cluster import Cluster
from plugin.docker import protocol
from plugin.docker.ipam import Ipam
from plugin.kernel.node import Route
from plugin.kernel.writer import Kernel
from plugin.settings import Settings
from plugin.state import State
from plugin.store.membership import Membership, Memory
from stackpad import records
from stackpad.engine import Engine
from stackpad.errors import Conflict, Unavailable
from tests.etcd.server import BOUND, running
from tests.served import Recorder

CONTROL = Membership(
    node="n0",
    name="control",
    cluster=records.Cluster(
        owner="n0", id="c", range4="10.192.0.0/10", range6="fd00::/48", block_prefix=18, network_prefix=26
    ),
    secret="AAAA",  # noqa: S106 - of a test
    mesh4="127.0.0.77",
    mesh6="fd00::1",
    control=True,
    ranges=(records.Range(owner="n0", net="10.192.0.0/18", block=True),),
)


class Node:
    """A plugin's part of a cluster, made from what is on its disk."""

    def __init__(self, directory: Path, stack: contextlib.AsyncExitStack) -> None:
        self.settings = Settings(host_lib=directory / "lib", host_run=directory / "run")
        self.settings.state_file.parent.mkdir(parents=True)
        self.memory = Memory(self.settings.state_file.parent)
        self._stack = stack

    async def start(self, *store: str) -> tuple[Cluster, Admission, Claims, State]:
        settings = replace(self.settings, store=store)
        state = await self._stack.enter_async_context(State(settings.state_file))
        engine = await self._stack.enter_async_context(Engine(f"unix://{settings.host_run}/nobody"))
        reconciler = Recorder(state)
        cluster = Cluster(settings, state, cast(Kernel, None), reconciler, engine, _no_tunnel)  # type: ignore[arg-type]
        return cluster, Admission(cluster, settings, state, reconciler, engine), Claims(cluster, settings), state

    async def run(self, cluster: Cluster) -> None:
        """Run what belongs to its membership until the store has been asked."""
        tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        running_ = tasks.create_task(cluster._run_membership())
        self._stack.callback(running_.cancel)
        async with asyncio.timeout(BOUND):
            await cluster._services.running.wait()


async def _no_tunnel() -> None:
    raise AssertionError("nobody needs one here")


async def _no_routes() -> list[Route]:
    return []


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with contextlib.AsyncExitStack() as stack:
        yield Node(tmp_path, stack)


async def test_without_its_setting_no_empty_store_takes_the_place_of_the_operators(node: Node, tmp_path: Path) -> None:
    node.memory.save(msgspec.structs.replace(CONTROL, store=("http://127.0.0.1:1",)))
    cluster, *_ = await node.start()
    await node.run(cluster)
    assert cluster.member is None
    assert not node.settings.store_directory.exists()
    assert any("docker plugin set stackpad/net STORE=http://127.0.0.1:1" in problem for problem in cluster.problems)


async def test_where_the_operators_store_answers_all_the_same_there_is_no_problem(node: Node, tmp_path: Path) -> None:
    async with running(tmp_path / "one") as server:
        node.memory.save(msgspec.structs.replace(CONTROL, store=(server.url,)))
        cluster, *_ = await node.start()
        await node.run(cluster)
        assert cluster.store is not None
        async with asyncio.timeout(BOUND):
            await cluster.store.connected.wait()
        assert cluster.problems == []
        await node._stack.aclose()


async def test_an_older_node_learns_where_its_store_is(node: Node, tmp_path: Path) -> None:
    async with running(tmp_path / "one") as server:
        node.memory.save(CONTROL)
        cluster, *_ = await node.start(server.url)
        await node.run(cluster)
        there = node.memory.load()
        assert there is not None
        assert there.store == (server.url,)
        await node._stack.aclose()


async def test_a_store_in_the_settings_is_not_learnt_where_one_of_its_own_has_run(node: Node) -> None:
    node.memory.save(CONTROL)
    node.settings.store_directory.mkdir()
    cluster, *_ = await node.start("http://127.0.0.1:1")
    await node.run(cluster)
    assert node.memory.load() == CONTROL


@pytest.mark.parametrize("damage", [b"", b"{", b'{"node": 1}', b"\xff"])
async def test_a_damaged_membership_stops_the_clusters_part_only(node: Node, damage: bytes) -> None:
    path = node.settings.state_file.parent / "membership.json"
    path.write_bytes(damage)
    cluster, admission, claims, state = await node.start()
    assert cluster._wanted() is None, "no tunnel"
    (problem,) = cluster.problems
    assert "membership.json cannot be read" in problem
    with pytest.raises(Conflict, match=r"membership\.json cannot be read"):
        await admission.init("")
    with pytest.raises(Conflict, match=r"membership\.json cannot be read"):
        await admission.join("stackpad-1-x", "", lambda _: None)
    for asked in (admission.leave(), admission.token(60.0), admission.remove("other")):
        with pytest.raises(Unavailable, match=r"membership\.json cannot be read"):
            await asked
    ipam = Ipam(state, node.settings, _no_routes, claims)
    assert (await ipam.request_pool(protocol.RequestPool(pool="10.192.1.0/26")))["Pool"] == "10.192.1.0/26"
    with pytest.raises(Unavailable, match="name a range with --subnet"):
        await ipam.request_pool(protocol.RequestPool())
    assert path.read_bytes() == damage
