"""``python -m tests.bench.simulated``: how soon a name is known on all of many nodes, while containers come and go.

The nodes are simulated: each has the plugin's own store client, view, publisher, copy on disk and table of names, and no
kernel and no engine; several share a process. The store is a real etcd, run as the plugin runs it. From the moment a
container is said to have started to the moment its name is in a node's table is measured, for every node that has a
container in the same environment.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import structlog

from plugin.resolver import table
from plugin.resolver.table import Own
from plugin.resolver.zone import View
from plugin.store.loop import StoreLoop
from plugin.store.member import Member
from plugin.store.membership import Memory
from plugin.store.view import StoreView, Touched
from stackpad import records
from stackpad.etcd import Etcd
from tests.bench.measure import percentile
from tests.freeport import free_port

ENVIRONMENTS, EACH = 20, 4
"""How many there are, and how many of them a node has containers in."""

LIFETIME = 5.0
"""Seconds a container runs."""

WARM = 3.0
"""Seconds of churn before anything counts."""

SIZES = {25: 2.0, 100: 0.1}
"""Nodes, and containers that each starts in a second."""

SHARE = 13
"""Nodes in one process."""


_chance = random.SystemRandom()


class Recorder(StoreView):
    """A view that remembers which endpoints have just come."""

    def __init__(self) -> None:
        super().__init__()
        self.fresh: list[str] = []

    def change(self, events: Iterable[tuple[str, bytes | None]]) -> Touched:
        """Take over changed values."""
        events = list(events)
        self.fresh += [key for key, value in events if value is not None and key.startswith(records.ENDPOINTS)]
        return super().change(events)


class SimulatedNode:
    """One node ``of`` many; ``delays`` are in seconds, ``complete`` says that it knows what all of them begin with."""

    def __init__(self, number: int, of: int, etcd: Etcd, directory: Path) -> None:
        self.complete, self._expected = asyncio.Event(), of * (2 + 2 * EACH)
        self.me, self.delays = f"{number:012x}", list[float]()
        self.environments = _chance.sample(range(ENVIRONMENTS), EACH)
        self._number, self._seen, self._count = number, Recorder(), 0
        self._running: dict[str, records.Endpoint] = {}
        self._names: View | None = None
        self._alive: frozenset[str] = frozenset()
        directory.mkdir()
        self.loop = StoreLoop(etcd, Memory(directory), self._seen, self.me, self._own, self._heard)
        for environment in self.environments:
            self._start(environment, time.monotonic())

    def _own(self) -> Mapping[str, records.Record]:
        node = records.Node(owner=self.me, name=f"node-{self._number}", public_keys=(self.me,))
        found: dict[str, records.Record] = {records.key(records.NODES, self.me): node}
        for environment in self.environments:
            name = f"project-{environment}"
            part = records.Network(owner=self.me, id=name, environment=name, subnets=())
            found[records.key(records.NETWORKS, self.me, name)] = part
        return {**found, **self._running}

    def _start(self, environment: int, now: float) -> str:
        self._count += 1
        key = records.key(records.ENDPOINTS, self.me, str(self._count))
        self._running[key] = records.Endpoint(
            owner=self.me,
            id=str(self._count),
            network=f"project-{environment}",
            environment=f"project-{environment}",
            names=(f"c{self._count}", "web"),
            addresses=(f"10.{self._number}.{self._count >> 8 & 255}.{self._count & 255}",),
            container=f"at-{now!r}",
        )
        return key

    def _heard(self, touched: Touched) -> None:
        cluster = self._seen.view()
        changed = touched.environments | table.of_nodes(cluster, cluster.alive ^ self._alive)
        here = [Own(f"o{one}", f"project-{one}", (f"10.255.0.{one}",), False) for one in self.environments]
        self._names, self._alive = table.view(cluster, self.me, here, self._names, changed), cluster.alive
        if len(self._seen.raw) >= self._expected:
            self.complete.set()
        now, fresh, self._seen.fresh = time.monotonic(), self._seen.fresh, []
        for key in fresh:
            there = cluster.endpoints.get(key)
            if there is not None and there.owner != self.me and there.environment in self._names.environments:
                self.delays.append(now - float(there.container.removeprefix("at-")))

    async def churn(self, rate: float, until: float) -> None:
        """Start ``rate`` containers a second, each for a while."""
        ending: list[tuple[float, str]] = []
        while (now := time.monotonic()) < until:
            gone = [key for when, key in ending if when <= now]
            ending = [one for one in ending if one[0] > now]
            for key in gone:
                del self._running[key]
            ending.append((now + LIFETIME, self._start(_chance.choice(self.environments), now)))
            self.loop.touch()
            await asyncio.sleep(_chance.expovariate(rate))


async def work(first: int, count: int, of: int, url: str, rate: float, seconds: float, directory: Path) -> list[float]:
    """Be ``count`` nodes ``of`` all; returns the delays they have seen."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = []
        for number in range(first, first + count):
            etcd = await stack.enter_async_context(Etcd([url]))
            nodes.append(SimulatedNode(number, of, etcd, directory / str(number)))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        running = [tasks.create_task(node.loop.run()) for node in nodes]
        for node in nodes:
            await node.complete.wait()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        async with asyncio.TaskGroup() as churning:
            until = time.monotonic() + WARM + seconds
            for node in nodes:
                churning.create_task(node.churn(rate, until))
            await asyncio.sleep(WARM)
            for node in nodes:
                node.delays.clear()
        await asyncio.sleep(1)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        return [delay for node in nodes for delay in node.delays]


async def measure(nodes: int, rate: float, seconds: float) -> list[float]:
    """The delays (seconds) in a cluster of ``nodes`` of which each starts ``rate`` containers a second."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as text:
        directory = Path(text)
        url = f"http://127.0.0.1:{free_port()}"
        member = Member(directory / "etcd", directory / "sockets", listen=[url])
        async with asyncio.TaskGroup() as tasks:
            store = tasks.create_task(member.run())
            await member.settled()
            workers = []
            for first in range(1, nodes + 1, SHARE):
                words = [
                    "worker",
                    str(first),
                    str(min(SHARE, nodes + 1 - first)),
                    str(nodes),
                    url,
                    str(rate),
                    str(seconds),
                    text,
                ]
                pipe = asyncio.subprocess.PIPE
                worker = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "tests.bench.simulated", *words, stdin=pipe, stdout=pipe, limit=1 << 26
                )
                workers.append(worker)
            for worker in workers:
                assert worker.stdout is not None
                await worker.stdout.readline()
            said = await asyncio.gather(*(worker.communicate(b"go\n") for worker in workers))
            store.cancel()
        return [delay for out, _ in said for delay in json.loads(out)]


def rows(seconds: float) -> Iterator[tuple[str, ...]]:
    """What, the goal, what was found."""
    for nodes, rate in SIZES.items():
        delays = sorted(asyncio.run(measure(nodes, rate, seconds)))
        half, most = percentile(delays, 0.5), percentile(delays, 0.99)
        what = f"{nodes} simulated nodes, {nodes * rate:.0f} containers started and {nodes * rate:.0f} ended a second"
        goal = f"p99 < 1000 ms {'met' if most < 1 else '**missed**'}" if nodes == 25 else ""
        yield f"{what}: start to name elsewhere, ms", f"p50 {half * 1000:.0f}, p99 {most * 1000:.0f}", goal


def main() -> int:
    """Measure, or be a part of it; returns the exit status."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    if sys.argv[1:2] == ["worker"]:
        first, count, of, url, rate, seconds, directory = sys.argv[2:]
        delays = asyncio.run(work(int(first), int(count), int(of), url, float(rate), float(seconds), Path(directory)))
        print(json.dumps(delays))
        return 0
    parser = argparse.ArgumentParser(prog="python -m tests.bench.simulated", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of churn, for each size")
    for row in rows(parser.parse_args().seconds):
        print("| " + " | ".join(row) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
