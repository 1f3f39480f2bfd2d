"""A cluster over time: what tests do to its nodes, and how they look at it."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.workbench import Workbench, eventually, everything
from tests.testbed import network
from tests.testbed.shell import Failed
from tests.testbed.testbed import Testbed

ENVIRONMENT = "shop-production"


class Life:
    """The nodes, and what the tests here do to them."""

    def __init__(self, bed: Testbed) -> None:
        self.bed = bed
        self.bench = {number: Workbench(bed, number) for number in range(1, len(bed.nodes) + 1)}

    def pair(self) -> tuple[str, str]:
        """A server on the first and one on the second node, in one environment; returns their addresses."""
        for number in (1, 2):
            self.bench[number].network(ENVIRONMENT)
        found = self.bench[1].serve("one", ENVIRONMENT), self.bench[2].serve("two", ENVIRONMENT)
        eventually(lambda: self.finds(1, "one", "two"), "the name of the other")
        return found

    def finds(self, number: int, who: str, name: str) -> bool:
        """Whether a container resolves a name."""
        return self.bench[number].node.inside(who, "getent", "hosts", name)[0] == 0

    def meet(self, number: int, who: str, address: str) -> bool:
        """Whether a container gets every kind of answer from an address."""
        return self.bench[number].reaches(who, *everything(address))

    @contextlib.contextmanager
    def pinging(self, number: int, who: str, address: str) -> Iterator[list[int]]:
        """A container pings twenty times a second; at the end the list has how many were sent, and how many answered.

        The last one, if it is under way as ping is told to end, is not counted: its answer is not waited for.
        """
        counts: list[int] = []
        stop = f"ping -i 0.05 {address} & while [ ! -e /stop ]; do sleep 0.1; done; sleep 1; kill -INT $!; wait $!"
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(self.bench[number].node.inside, who, "sh", "-c", stop, timeout=400)
            try:
                yield counts
            finally:
                self.bench[number].docker("exec", who, "touch", "/stop")
            said = running.result()[1]
            found = re.search(r"(\d+) packets transmitted, (\d+) received", said)
            assert found is not None, said
            sent, received = map(int, found.groups())
            counts += [sent if f"icmp_seq={sent} " in said else sent - 1, received]

    def join(self, number: int, token: str, *options: str) -> tuple[int, str]:
        """What joining ends with, and what it says."""
        done = self.bench[number].node.stackpad("node", "join", token, "--yes", *options, check=False, configures=True)
        return done.returncode, done.stderr

    def token(self, *options: str) -> str:
        """A token of the first node."""
        return self.bench[1].node.stackpad("node", "token", *options).stdout.strip()

    def nodes(self) -> dict[str, str]:
        """Nodes by name, and whether they are alive, as the first one sees it."""
        done = self.bench[1].node.stackpad("node", "ls", "--json", check=False)
        return {row["name"]: "alive" if row["alive"] else "gone" for row in json.loads(done.stdout)["nodes"]}

    def connected(self, number: int) -> bool:
        """Whether a node reaches the store."""
        said = self.bench[number].node.stackpad("status", "--json", check=False).stdout
        return bool(said) and bool(json.loads(said)["cluster"].get("store", {}).get("connected"))

    def all_connected(self, seconds: float = 150) -> None:
        """Wait until every node reaches the store; fails with what each says of it."""
        try:
            eventually(lambda: all(map(self.connected, self.bench)), "the nodes to reach the store", seconds)
        except Failed as error:
            said = (bench.node.stackpad("status", "--json", check=False).stdout for bench in self.bench.values())
            raise Failed("\n".join((str(error), *said))) from error

    def name(self, number: int) -> str:
        """A node's name in the cluster."""
        return f"{self.bed.plan.name}-n{number}"

    def public_keys(self) -> dict[int, str]:
        """The public keys by node, as the first one sees them."""
        done = self.bench[1].node.stackpad("node", "ls", "--json", check=False)
        names = {self.name(number): number for number in self.bench}
        return {names[row["name"]]: row["public_key"] for row in json.loads(done.stdout)["nodes"]}

    def blocks(self) -> dict[str, list[str]]:
        """The blocks by node, as the first one sees them."""
        done = self.bench[1].node.stackpad("node", "ls", "--json", check=False)
        return {row["name"]: row["blocks"] for row in json.loads(done.stdout)["nodes"]}

    def pids(self, number: int, word: str) -> list[int]:
        """The processes of a node that have ``word`` in their command line."""
        found = []
        for pid in network.inhabitants(self.bed.nodes[number - 1].spec.netns):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if word.encode() in command[:3] or command[0].endswith(word.encode()):
                found.append(pid)
        return found


@pytest.fixture
def life(fleet: Testbed) -> Iterator[Life]:
    """The three nodes, in touch with their store; cleared after each test."""
    made = Life(fleet)
    made.all_connected()
    yield made
    for bench in made.bench.values():
        bench.clear()
