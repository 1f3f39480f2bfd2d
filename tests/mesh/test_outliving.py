"""What is lost between nodes while the plugin is away: whole plugins, in a cluster, with containers under traffic.

With the kernel's WireGuard nothing. ``wireguard-go`` is the plugin's child and ends with it, so that all is lost until
the next one has started; that it comes back by itself is what is asked of it. Within a node nothing is lost either way.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest

from plugin.wireguard.backend import kernel_has_wireguard
from tests.mesh.conftest import IMPLEMENTATIONS
from tests.mesh.hosts import Host, Pings, hosts
from tests.testbed.shell import say

OLD, NEW = "1.0.0", "99.0.0"


@dataclass
class Cluster:
    """Two nodes, the first of which has the store; pings between their containers both ways, and within each."""

    nodes: list[Host]
    across: list[Pings]
    within: list[Pings]
    implementation: str

    async def judge(self, what: str) -> None:
        """Fail if more was lost since the last time than may be; waits until there are answers again."""
        lost = [len(await pings.lost()) for pings in self.across]
        say(f"{self.implementation}: {what}: lost between nodes {lost}")
        for pings in self.within:
            assert not await pings.lost(), f"within a node: {what}"
        if self.implementation == "kernel":
            assert lost == [0, 0], f"between nodes: {what}"

    async def well(self, number: int, version: str) -> None:
        """Wait until each node reaches the store, and sees that this one is alive with this version."""
        for node in self.nodes:
            await node.connected()
            await node.sees(number, version)


@pytest.fixture(params=IMPLEMENTATIONS)
async def cluster(request: pytest.FixtureRequest, netns: None, tmp_path: Path) -> AsyncIterator[Cluster]:
    """With two containers of one environment on each of the nodes."""
    implementation = str(request.param)
    if implementation == "kernel" and not await asyncio.to_thread(kernel_has_wireguard):
        pytest.skip("this kernel has no WireGuard; tests/guest runs these tests in one that has")
    if implementation != "kernel" and os.environ.get("STACKPAD_GUEST"):
        pytest.skip("in the guest only the kernel's own is of interest")
    needed = ["etcd", "nft", "nsenter", "unshare", "ping", *([] if implementation == "kernel" else [implementation])]
    if missing := [name for name in needed if shutil.which(name) is None]:
        pytest.skip(f"missing: {', '.join(missing)}")
    async with AsyncExitStack() as stack:
        first, second = nodes = await stack.enter_async_context(hosts(2, implementation, tmp_path))
        await asyncio.gather(*(node.start(OLD) for node in nodes))
        await first.admin("node/init", {"name": "n1"})
        await first.connected()
        token = (await first.admin("node/token", {}))["token"]
        said = await second.admin("node/join", {"token": token, "name": "n2"})
        assert said.get("done"), said
        await second.connected()
        one, beside_one, two, beside_two = [await node.container() for node in nodes for _ in range(2)]
        # A hundred a second between the nodes; within them fewer, for an emulated machine is slow.
        pairs = [(one, two, 100), (two, one, 100), (beside_one, one, 10), (beside_two, two, 10)]
        pings = [Pings(who, whom.address, tmp_path / f"pings{at}", often) for at, (who, whom, often) in enumerate(pairs)]
        for ping in pings:
            stack.callback(ping.process.wait)
            stack.callback(ping.process.kill)
        # The first of them come before the other node knows of the network.
        await asyncio.gather(*(ping.begun() for ping in pings))
        yield Cluster(nodes, pings[:2], pings[2:], implementation)
        for node in nodes:
            print(f"the log of {node.name}:\n{node.words()}")


@pytest.mark.timeout(1400)
async def test_a_tunnel_while_its_plugin_is_away(cluster: Cluster) -> None:
    first, second = cluster.nodes
    await cluster.judge("nothing happens")
    await second.end(SIGKILL)
    await second.start(OLD)
    await cluster.well(2, OLD)
    await cluster.judge("the plugin of n2 is killed, and started")
    # Longer than the lease: the other node takes it for gone.
    await second.end(SIGTERM)
    await first.sees(2, OLD, alive=False)
    await second.start(NEW)
    await cluster.well(2, NEW)
    await second.sees(1, OLD)
    await cluster.judge("n2 is upgraded, and without its plugin for longer than the lease")
    await first.end(SIGKILL)
    await first.start(NEW)
    await cluster.well(1, NEW)
    await cluster.judge("n1, which has the store, is killed, and started as the new version")
    for node in cluster.nodes:
        await node.end(SIGTERM)
    for node in cluster.nodes:
        await node.start(OLD)
    for node in cluster.nodes:
        await cluster.well(node.number, OLD)
    await cluster.judge("both are stopped, and go back to the version before")
