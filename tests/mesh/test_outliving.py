"""What is lost between nodes while the plugin is away: whole plugins, in a cluster, with containers under traffic.

With the kernel's WireGuard nothing; with ``wireguard-go`` nothing as long as process 1 of the plugin's namespace lives,
which forks a plugin that is killed anew. It ends with that process, so that all is lost until the next one has started;
that it comes back by itself is what is asked of it. Within a node nothing is lost either way.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGSTOP, SIGTERM

import pytest

from plugin.wireguard.backend import kernel_has_wireguard
from plugin.wireguard.model import STALE
from tests.clock import HOUR
from tests.mesh.conftest import IMPLEMENTATIONS
from tests.mesh.hosts import Host, Pings, hosts
from tests.netns import eventually
from tests.testbed.shell import say

OLD, NEW = "1.0.0", "99.0.0"
RENEWED = 140.0
"""Seconds after which who has begun a session that is in use has begun another one (``REKEY_AFTER_TIME``, and some)."""
SETTLED = 20.0
"""Seconds for what comes when a session has ended."""


@dataclass
class Cluster:
    """Three nodes, the first of which has the store; pings between their containers in a ring, and within two of them."""

    nodes: list[Host]
    across: list[Pings]
    within: list[Pings]
    implementation: str

    async def judge(self, what: str, *, outlived: bool = False, may: int = 0) -> None:
        """Fail if more was lost since the last time than may be; waits until there are answers again.

        ``outlived`` says that the tunnel has, whatever it is made of; of each stream so many ``may`` be lost.
        """
        before = sum(pings.judged for pings in self.across)
        lost = [len(await pings.lost()) for pings in self.across]
        sent = sum(pings.judged for pings in self.across) - before
        say(f"{self.implementation}: {what}: lost between nodes {lost} of {sent}")
        for pings in self.within:
            assert not await pings.lost(), f"within a node: {what}"
        if outlived or self.implementation == "kernel":
            assert max(lost) <= may, f"between nodes: {what}"

    async def well(self, number: int, version: str) -> None:
        """Wait until each node reaches the store, and sees that this one is alive with this version."""
        for node in self.nodes:
            await node.connected()
            await node.sees(number, version)


@pytest.fixture(params=IMPLEMENTATIONS)
async def cluster(request: pytest.FixtureRequest, netns: None, tmp_path: Path) -> AsyncIterator[Cluster]:
    """With containers of one environment on each of the nodes."""
    implementation = str(request.param)
    if implementation == "kernel" and not await asyncio.to_thread(kernel_has_wireguard):
        pytest.skip("this kernel has no WireGuard; tests/guest runs these tests in one that has")
    if implementation != "kernel" and os.environ.get("STACKPAD_GUEST"):
        pytest.skip("in the guest only the kernel's own is of interest")
    needed = ["etcd", "nft", "nsenter", "unshare", "ping", *([] if implementation == "kernel" else [implementation])]
    if missing := [name for name in needed if shutil.which(name) is None]:
        pytest.skip(f"missing: {', '.join(missing)}")
    async with AsyncExitStack() as stack:
        nodes = await stack.enter_async_context(hosts(3, implementation, tmp_path))
        first, *others = nodes
        await asyncio.gather(*(node.start(OLD) for node in nodes))
        await first.admin("node/init", {"name": "n1"})
        await first.connected()
        for node in others:
            token = (await first.admin("node/token", {}))["token"]
            said = await node.admin("node/join", {"token": token, "name": node.name})
            assert said.get("done"), said
            await node.connected()
        one, two, three, beside_one, beside_two = [await node.container() for node in (*nodes, *nodes[:2])]
        # A hundred a second between the nodes; within them fewer, for an emulated machine is slow.
        pairs = [(one, two, 100), (two, three, 100), (three, one, 100), (beside_one, one, 10), (beside_two, two, 10)]
        pings = [Pings(who, whom.address, tmp_path / f"pings{at}", often) for at, (who, whom, often) in enumerate(pairs)]
        for ping in pings:
            stack.callback(ping.process.wait)
            stack.callback(ping.process.kill)
        # The first of them come before the other node knows of the network.
        await asyncio.gather(*(ping.begun() for ping in pings))
        yield Cluster(nodes, pings[:3], pings[3:], implementation)
        for node in nodes:
            print(f"the log of {node.name}:\n{node.words()}")


def worker(node: Host) -> tuple[int, list[int]]:
    """The plugin's own process on a node, and those of its tunnel; raises :class:`ValueError` while there is none."""
    assert node.plugin is not None
    (first,) = children(node.plugin.pid)
    there = {pid: _read(Path(f"/proc/{pid}/cmdline")) for pid in children(first)}
    (own,) = (pid for pid, words in there.items() if b"\0plugin\0" in words)
    beside = {*there, *children(own)} - {own}
    return own, [pid for pid in beside if b"wireguard-go" in _read(Path(f"/proc/{pid}/cmdline"))]


def children(pid: int) -> list[int]:
    """Process ids, of all of a process's threads (proc(5))."""
    return [int(word) for one in Path(f"/proc/{pid}/task").iterdir() for word in _read(one / "children").split()]


def _read(path: Path) -> bytes:
    """What a file of a process or a thread says; nothing if that ends just now."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def tunnels(node: Host) -> list[int]:
    """The processes of a node's tunnel; none while there is no plugin."""
    try:
        return worker(node)[1]
    except (OSError, ValueError):
        return []


async def kill(node: Host) -> None:
    """Kill the plugin's own process, and wait for the next one to serve."""
    before, _ = worker(node)
    os.kill(before, SIGKILL)

    def another() -> bool:
        try:
            return worker(node)[0] != before
        except (OSError, ValueError):
            return False

    await eventually(another, f"another plugin on {node.name}")
    await node.connected()


async def test_a_killed_plugin_leaves_its_tunnel_to_the_next_one(cluster: Cluster) -> None:
    first, second, _ = cluster.nodes
    await cluster.judge("nothing happens", outlived=True)
    for node in (second, first, second):
        tunnel = worker(node)[1]
        await kill(node)
        assert worker(node)[1] == tunnel
        await cluster.judge(f"the plugin's process of {node.name} is killed", outlived=True)


@pytest.mark.parametrize("cluster", ["wireguard-go"], indirect=True)
async def test_a_tunnel_that_hangs_is_not_left_behind(cluster: Cluster) -> None:
    """Its plugin was killed: the next one finds a process that is not its child, and does not answer."""
    node = cluster.nodes[1]
    (tunnel,) = worker(node)[1]
    os.kill(tunnel, SIGSTOP)
    await kill(node)
    await eventually(lambda: tunnels(node) not in ([], [tunnel]), "another tunnel")
    assert not Path(f"/proc/{tunnel}").exists()
    await cluster.well(2, OLD)


@pytest.mark.skipif(not os.environ.get("STACKPAD_LONG"), reason="takes minutes; STACKPAD_LONG=1 has it run")
@pytest.mark.timeout(1400)
async def test_a_tunnel_while_its_plugin_is_away(cluster: Cluster) -> None:
    first, second, third = cluster.nodes
    await cluster.judge("nothing happens")
    await second.end(SIGKILL)
    await second.start(OLD)
    await cluster.well(2, OLD)
    await cluster.judge("the plugin of n2 is killed, and started")
    # Longer than the lease: the other nodes take it for gone.
    await second.end(SIGTERM)
    await first.sees(2, OLD, alive=False)
    await second.start(NEW)
    await cluster.well(2, NEW)
    await second.sees(1, OLD)
    await cluster.judge("n2 is upgraded, and without its plugin for longer than the lease")
    await third.end(SIGTERM)
    await third.start(NEW)
    await cluster.well(3, NEW)
    await cluster.judge("n3 is upgraded, n1 is of the old version yet")
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
    await cluster.judge("all are stopped, and go back to the version before")
    if not os.environ.get("STACKPAD_GUEST"):
        return  # the clock is this machine's
    time.clock_settime(time.CLOCK_REALTIME, time.time() + HOUR)
    await asyncio.sleep(RENEWED)
    await cluster.judge("all clocks are an hour ahead")
    time.clock_settime(time.CLOCK_REALTIME, time.time() - HOUR)
    await asyncio.sleep(STALE + SETTLED)
    for node in cluster.nodes:
        await cluster.well(node.number, OLD)
    # A second's worth: what the one end sends before the other has forgotten the session, in a machine that is slow.
    await cluster.judge("all clocks are set right, and every session from before has ended", may=100)
