"""``python -m tests.bench.redeploys``: web services on three real engines: first pages across nodes, and redeploys.

Visitors come in at the first node. The table is filled with hosts of the third, whose part the measurement plays: it says
to that node's plugin what an ingress would, so that the records go their way through the store.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from tests.bench.measure import Bench, Series
from tests.e2e.test_redeploy import SERVER
from tests.e2e.visitor import WEB, routes
from tests.e2e.workbench import Workbench, eventually
from tests.load import Load
from tests.testbed import images, testbed
from tests.testbed.shell import step
from tests.testbed.testbed import Options, Testbed

NETWORK = "bench-production"
HOST = "bench.acme.stackpad.test"
SIZES = (10, 1_000, 10_000)
PATIENCE = 600.0
Row = tuple[str, ...]


class Nodes:
    """The three nodes; ``front`` is where visitors come in."""

    def __init__(self, bed: Testbed) -> None:
        self.bed = bed
        self.front, self.back, self.other = (Bench(Workbench(bed, number)) for number in (1, 2, 3))
        self._made = 0

    def fill(self, hosts: int) -> None:
        """Have so many hosts in the table, all of the third node; nobody is up behind them."""
        containers = [
            {
                "owner": "", "id": f"{number:064x}", "name": f"web-{number}", "network": NETWORK, "org": "acme",
                "labels": {"stackpad.type": "web", "stackpad.port": "80", "stackpad.project": f"full{number}"},
                "state": "down", "address": "", "port": 80, "reason": "it is not running", "since": 1.0,
            }
            for number in range(hosts)
        ]  # fmt: skip
        word = {"control": False, "complete": True, "stale": False, "containers": containers}
        with tempfile.NamedTemporaryFile("w") as file:
            json.dump(word, file)
            file.flush()
            socket = f"{self.other.bench.node.root}/run/stackpad/net.sock"
            ask = ["curl", "--silent", "--fail-with-body", "--max-time", "120", "--unix-socket", socket]
            subprocess.run([*ask, "--upload-file", file.name, "http://plugin/web"], check=True, capture_output=True)
        eventually(lambda: len(self._routes()) == hosts, f"{hosts} hosts in the table", PATIENCE)

    def _routes(self) -> list[dict[str, object]]:
        return routes(self.front.bench) or []

    def first_page(self, there: Bench) -> float:
        """Milliseconds from the start event of a container on a node to its first page at the first node."""
        self._made += 1
        name = f"new{self._made}"
        words = ["create", "--name", name, "--network", NETWORK, *WEB, "--label", f"stackpad.project={name}"]
        serve = ["busybox", "httpd", "-f", "-p", "80", "-h", "/etc"]
        there.bench.docker(*words, images.TEST, *serve)
        with there.started(name) as event:
            there.api.start(name)
            until = time.monotonic() + 60
            while self.front.page(f"{name}.acme.stackpad.test") != 200:
                if time.monotonic() > until:
                    raise RuntimeError(f"{name} is never served")
                time.sleep(0.002)
            answered = time.time()
            eventually(lambda: bool(event), "the start event")
        there.bench.docker("rm", "--force", name)
        time.sleep(3.5)  # it is in the table for three more
        return (answered - event[0]) * 1e3


def pages(nodes: Nodes, rounds: int) -> Iterator[Row]:
    """Rows of first pages, of a container on the node where visitors come in and on another one, in turn."""
    for hosts in SIZES:
        with step(f"{hosts} hosts in the table"):
            nodes.fill(hosts)
        found: dict[str, list[float]] = {"here": [], "there": []}
        for number in range(rounds + 1):
            for kind, bench in (("here", nodes.front), ("there", nodes.back)):
                took = nodes.first_page(bench)
                if number:
                    found[kind].append(took)
        here, there = (Series(tuple(values)) for values in found.values())
        goal = "p50 ≤ 150 ms on any node " + ("met" if max(here.median, there.median) <= 150 else "**missed**")
        what = f"{hosts:,} hosts: start event to first page, ms"
        yield what, f"on its own node {here}, on another one {there}", goal


def redeploys(nodes: Nodes, count: int) -> Row:
    """The row of redeploys under load: the new version beside the old one, which is stopped when the new one is up."""
    bench = nodes.front.bench
    service = ("--label", "com.docker.compose.service=web")

    def up() -> set[str]:
        return {str(c["name"]) for r in routes(bench) or [] for c in r["containers"] if c["state"] == "up"}  # type: ignore[attr-defined]

    def begin(number: int) -> None:
        bench.start(f"web-v{number}", NETWORK, *WEB, *service, command=("python3", "-c", SERVER))
        eventually(lambda: f"web-v{number}" in up(), f"version {number} to be up")

    async def run() -> Load:
        load = Load(f"https://{HOST}/", bench.node.address)
        async with load.going_on():
            for number in range(1, count + 1):
                await asyncio.to_thread(begin, number)
                await load.some_more(20)
                await asyncio.to_thread(bench.docker, "stop", f"web-v{number - 1}")
                await asyncio.to_thread(bench.docker, "rm", f"web-v{number - 1}")
        return load

    begin(0)
    eventually(lambda: nodes.front.page(HOST) == 200, "the first page")
    load = asyncio.run(run())
    lost = len(load.failures) + sum(many for (status, _), many in load.seen.items() if status != 200)
    what = f"requests lost in {count} redeploys under load, of {load.answered}"
    return what, str(lost), "0 " + ("met" if not lost else "**missed**")


def measure(rounds: int = 5, count: int = 100, engine: str = "forky") -> Iterator[Row]:
    """The rows, on a testbed of their own."""
    made = testbed.make("bench-web", 3, engine)
    made.up(Options(images=("test",)))
    try:
        yield from rows(made, rounds, count)
    finally:
        made.down()


def rows(bed: Testbed, rounds: int, count: int) -> Iterator[Row]:
    """The rows, on a testbed that is up."""
    nodes = Nodes(bed)
    for number in (1, 2, 3):
        Workbench(bed, number).network(NETWORK)
    with step("redeploys"):
        yield redeploys(nodes, count)
    nodes.front.bench.docker("rm", "--force", f"web-v{count}")
    bed.agents[1].stop_ingress()
    yield from pages(nodes, rounds)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.redeploys", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--redeploys", type=int, default=100)
    parser.add_argument("--on", metavar="TESTBED", help="a testbed of three nodes that is up")
    chosen = parser.parse_args()
    there = testbed.find(chosen.on or "")
    found = measure(chosen.rounds, chosen.redeploys) if there is None else rows(there, chosen.rounds, chosen.redeploys)
    for row in found:
        print("| " + " | ".join(row) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
