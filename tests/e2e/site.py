"""The three nodes with Caddy and the ingress on the first and the ingress on the others, and a visitor of the first."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.visitor import HOST, NETWORK, Visitor, caddy, forget_domains, report, routes
from tests.e2e.workbench import Target, Workbench, eventually
from tests.testbed.testbed import Testbed


class Site:
    """The nodes as places to work at, and a visitor of the first one."""

    def __init__(self, bed: Testbed) -> None:
        self.bed = bed
        self.bench = {number: Workbench(bed, number) for number in (1, 2, 3)}
        self.visitor = Visitor(self.bench[1])

    def network(self, *options: str, name: str = NETWORK) -> None:
        """The same network on all nodes."""
        for bench in self.bench.values():
            bench.network(name, *options)

    def route(self, host: str = HOST) -> dict[str, object]:
        """What the first node's ingress says of a host; empty if it says nothing, or is just starting."""
        return next((one for one in routes(self.bench[1]) or [] if one["host"] == host), {})

    def node_of(self, host: str = HOST) -> set[str]:
        """The nodes on which there are containers of a host."""
        containers = self.route(host).get("containers", [])
        assert isinstance(containers, list)
        return {one["node"] for one in containers}

    def reaches(self, number: int, address: str, *ports: int) -> bool:
        """Whether a node itself gets an answer from each of a container's ports; a line for each, empty for none."""
        targets = [Target("tcp", address, port) for port in ports]
        return all(self.bench[number].ask_from_node(*targets, patience=3.0))

    def upstreams(self) -> int:
        """How many containers the host's visitors are sent to."""
        there = self.route().get("upstreams", [])
        assert isinstance(there, list)
        return len(there)

    def nodes(self) -> list[dict[str, object]]:
        """What the first node's ingress says of the nodes."""
        return report(self.bench[1])["nodes"]

    def numbers(self) -> int:
        """How many numbers Caddy has been told; none while it has nothing of ours."""
        try:
            told = caddy(self.bench[1], "GET", "/id/stackpad")
        except subprocess.CalledProcessError:
            return 0
        return len(set(re.findall(r'"dial":"169\.254\.53\.\{sp_turn\}:(\d+)"', told)))

    def settle(self) -> None:
        """Have Caddy told a number for each of two nodes at once, as an ingress does that has just started."""
        eventually(lambda: len(self.node_of()) == self.upstreams() == 2, "both to be served")
        self.bed.proxy.stop_ingress()
        self.bed.proxy.start_ingress()
        eventually(lambda: self.numbers() == 2, "Caddy to be told a number for each node", 90)


@pytest.fixture(scope="module")
def served(fleet: Testbed) -> Iterator[Site]:
    """Caddy and the ingress on the first node, the ingress on the others."""
    for proxy in (fleet.proxy, *fleet.agents):
        # A testbed that was up already may have them: a second Caddy would share the port, and answer half of all visits.
        proxy.stop()
    fleet.proxy.start()
    for agent in fleet.agents:
        agent.start_ingress()
    yield Site(fleet)
    for proxy in (fleet.proxy, *fleet.agents):
        proxy.stop()


@pytest.fixture
def site(served: Site) -> Iterator[Site]:
    """The nodes; what a test makes there is removed after it."""
    yield served
    for bench in served.bench.values():
        bench.clear()
    eventually(lambda: routes(served.bench[1]) == [], "an empty table")
    forget_domains(served.bench[1])
