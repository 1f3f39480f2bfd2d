"""``python -m tests.bench.thousands``: one real node among 500 that are records only.

A plugin on a real engine has a cluster with a store of its own. Into that store 500 nodes are written, each with a
block, networks and 20 running containers: 10,000 in all, of which 500 are in an environment of the real node's. What the
plugin, its etcd and its WireGuard take is read from ``/proc``.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import ipaddress
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from stackpad import records
from stackpad.cli import client
from stackpad.cli.reports import ClusterReport
from stackpad.errors import Unavailable
from stackpad.etcd import Etcd, Put
from tests.bench.measure import Series
from tests.bench.names import POLL
from tests.e2e.workbench import Workbench
from tests.testbed import images, network, testbed
from tests.testbed.shell import step
from tests.testbed.testbed import Options

NODES, EACH, ENVIRONMENTS = 500, 20, 20
HERE = "project-0"
FIRST = ipaddress.ip_address("10.208.0.0")
BLOCK = 20
"""Prefix length of the simulated nodes' blocks: of /18 there are 256 only."""

LEASE = 60
CHANGES, PAUSE = 200, 0.05
REST = 20.0
_TICK = os.sysconf("SC_CLK_TCK")


def node_id(number: int) -> str:
    """An id like a real one."""
    return f"{number:012x}"


def ends(number: int, name: str) -> records.Endpoint:
    """A running container of a simulated node."""
    address = FIRST + (number << (32 - BLOCK)) + 66 + int(hashlib.sha256(name.encode()).hexdigest()[:2], 16)
    environment = f"project-{number % ENVIRONMENTS}"
    return records.Endpoint(
        owner=node_id(number),
        id=name,
        network=environment,
        environment=environment,
        names=(name, "web"),
        addresses=(str(address),),
        container=name,
    )


def of_node(number: int) -> dict[str, records.Record]:
    """Everything of one simulated node, by key."""
    me, base = node_id(number), FIRST + (number << (32 - BLOCK))
    environment = f"project-{number % ENVIRONMENTS}"
    key = base64.b64encode(hashlib.sha256(me.encode()).digest()).decode()
    found: dict[str, records.Record] = {
        records.key(records.NODES, me): records.Node(
            owner=me, name=f"simulated-{number}", public_keys=(key,), endpoints=("192.0.2.1:51820",), mesh4=str(base + 1)
        ),
        records.range_key(f"{base}/{BLOCK}"): records.Range(owner=me, net=f"{base}/{BLOCK}", block=True),
        records.key(records.NETWORKS, me, environment): records.Network(
            owner=me, id=environment, environment=environment, subnets=(f"{base + 64}/26",)
        ),
    }
    for each in range(EACH):
        there = ends(number, f"c{number}-{each}")
        found[records.key(records.ENDPOINTS, me, there.id)] = there
    return found


class Crowd:
    """The real node, and the store the others are written to."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.socket = bench.node.root / "run/stackpad/net.sock"
        self.store = f"unix://{bench.node.root}/run/stackpad/etcd/client:0"

    async def fill(self) -> None:
        """Write the simulated nodes; they live for as long as a lease lasts that is kept up beside."""
        async with Etcd([self.store], timeout=30) as etcd:
            self.lease = await etcd.grant(LEASE)
            for number in range(1, NODES + 1):
                puts = [Put(key, records.encode(record)) for key, record in of_node(number).items()]
                await etcd.commit((), puts)
                alive = records.Alive(owner=node_id(number))
                await etcd.put(records.key(records.ALIVE, alive.owner), records.encode(alive), self.lease)

    async def keep(self) -> None:
        """Keep them alive until cancelled."""
        async with Etcd([self.store], timeout=30) as etcd:
            while True:
                await etcd.keep_alive(self.lease)
                await asyncio.sleep(LEASE / 6)

    async def change(self, number: int) -> None:
        """Start and end containers of one simulated node, :data:`CHANGES` in all."""
        async with Etcd([self.store], timeout=30) as etcd:
            there = ends(number, "coming-and-going")
            key = records.key(records.ENDPOINTS, there.owner, there.id)
            for turn in range(CHANGES):
                if turn % 2:
                    await etcd.delete(key)
                else:
                    await etcd.put(key, records.encode(there))
                await asyncio.sleep(PAUSE)

    def report(self) -> ClusterReport:
        """What the plugin knows."""
        return client.fetch(client.plugin(self.socket), "/cluster", ClusterReport)

    def whole(self) -> bool:
        """Whether the plugin knows all nodes, and its tunnel has them all as peers."""
        try:
            report = self.report()
        except Unavailable:
            return False
        return sum(node.alive and node.endpoint is not None for node in report.nodes) == NODES

    def processes(self) -> dict[str, int]:
        """The plugin's processes by name."""
        found = {"plugin": self.bench.node.plugin_pid()}
        for pid in network.inhabitants(self.bench.node.spec.netns):
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            if name in {"etcd", "wireguard-go"}:
                found[name] = pid
        return found

    def memory(self) -> dict[str, float]:
        """MB by process."""
        found = {}
        for name, pid in self.processes().items():
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            found[name] = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        return found

    def used(self) -> dict[str, float]:
        """Seconds of a processor by process, since its start."""
        found = {}
        for name, pid in self.processes().items():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found[name] = (int(fields[11]) + int(fields[12])) / _TICK
        return found


def _until(condition: object, what: str, limit: float = 120.0) -> float:
    """Seconds until ``condition()`` holds."""
    began = time.monotonic()
    while not condition():  # type: ignore[operator]
        if time.monotonic() - began > limit:
            raise RuntimeError(f"{what}: not within {limit:.0f} s")
        time.sleep(0.05)
    return time.monotonic() - began


def _answers(crowd: Crowd, name: str) -> float:
    """When a container of the real node was first answered a name (Unix time)."""
    words = ["exec", "asker", "python3", "-c", POLL, name, "there", "120"]
    return float(crowd.bench.docker(*words, timeout=150))


async def _cost(crowd: Crowd, number: int, rest: float) -> float:
    """Milliseconds of the plugin's time for one change, what it takes at rest taken off."""
    before, began = crowd.used()["plugin"], time.monotonic()
    await crowd.change(number)
    await asyncio.sleep(1)
    took = crowd.used()["plugin"] - before - rest * (time.monotonic() - began)
    return max(took, 0.0) / CHANGES * 1000


def _parts(values: dict[str, float], digits: int = 0) -> str:
    return ", ".join(f"{name} {value:.{digits}f}" for name, value in values.items())


async def rows(crowd: Crowd) -> list[tuple[str, ...]]:
    """What, what was found, the goal."""
    found: list[tuple[str, ...]] = []
    alone = crowd.memory()
    with step(f"{NODES} nodes"):
        await crowd.fill()
    async with asyncio.TaskGroup() as tasks:
        keeper = tasks.create_task(crowd.keep())
        with step("all of them known"):
            await asyncio.to_thread(_until, crowd.whole, "all nodes to be known")
        with step("at rest"):
            await asyncio.sleep(10)
            before = crowd.used()
            await asyncio.sleep(REST)
            share = {name: (value - before[name]) / REST for name, value in crowd.used().items()}
        least = "met" if share["plugin"] < 0.01 else "**missed**"
        found.append(("memory, alone, MB", _parts(alone), ""))
        found.append((f"memory, {NODES} nodes and {NODES * EACH} containers, MB", _parts(crowd.memory()), ""))
        percent = {name: value * 100 for name, value in share.items()}
        found.append((f"processor at rest, {NODES} nodes, %", _parts(percent, 2), f"plugin < 1 % {least}"))
        with step("cold start"):
            times: dict[str, list[float]] = {"peers": [], "names": []}
            for _ in range(3):
                os.kill(crowd.bench.node.plugin_init(), signal.SIGKILL)
                began, now = time.monotonic(), time.time()
                names = tasks.create_task(asyncio.to_thread(_answers, crowd, f"c{NODES}-{EACH - 1}"))
                await asyncio.to_thread(_until, crowd.whole, "all nodes to be known again")
                times["peers"].append(time.monotonic() - began)
                times["names"].append(await names - now)
                await asyncio.sleep(3)
        for what, name in (("all nodes are peers", "peers"), ("the names are answered", "names")):
            found.append((f"killed, until {what}, s", str(Series(tuple(times[name]))), ""))
        with step("changes"):
            for number, what in ((NODES, "an environment that is here"), (1, "one that is not")):
                cost = [await _cost(crowd, number, share["plugin"]) for _ in range(3)]
                found.append((f"one change of a container elsewhere, of {what}, ms", str(Series(tuple(cost))), ""))
        keeper.cancel()
    return found


def measure() -> Iterator[tuple[str, ...]]:
    """The rows of the table, on a testbed of its own."""
    made = testbed.make("bench-many", 1, "forky")
    made.up(Options(images=("test",), ingress=False))
    try:
        bench = Workbench(made)
        bench.node.stackpad("node", "init", "--yes", "--no-daemon-json")
        bench.network(HERE, "--ipam-driver", "stackpad")
        bench.docker("run", "--detach", "--name", "asker", "--network", HERE, images.TEST, "sleep", "infinity")
        yield from asyncio.run(rows(Crowd(bench)))
    finally:
        made.down()


def main() -> int:
    """Measure; returns the exit status."""
    argparse.ArgumentParser(prog="python -m tests.bench.thousands", description=__doc__).parse_args()
    for row in measure():
        print("| " + " | ".join(row) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
