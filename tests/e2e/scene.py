"""The scene of tests over three nodes: the same environments everywhere, with servers that may forge what they like."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.workbench import BRIEF, Target, Workbench, eventually, everything
from tests.testbed.testbed import Testbed

DUAL = ("--ipv6", "--ipam-driver", "stackpad")
MIGHTY = ("--cap-add", "NET_ADMIN", "--cap-add", "NET_RAW")
INTERNET = "198.51.100.1"
NODES = (1, 2, 3)
PLACES = {
    **{f"a{number}": (number, "shop-production") for number in NODES},
    **{f"b{number}": (number, "shop-staging") for number in NODES},
    "i1": (1, "inner"),
    "i2": (2, "inner"),
    **{f"d{number}": (number, "bridge") for number in NODES},
}
"""Containers by name: their node and their environment; the last ones are on ``docker0``."""

PUBLISHED = 8088
"""Where each node publishes its container of ``shop-staging``."""

RESOLVE = """
import socket, sys
try:
    print(*sorted({found[4][0].removeprefix("::ffff:") for found in socket.getaddrinfo(sys.argv[1], 80)}))
except OSError:
    print()
"""


class Scene:
    """Two environments on all nodes, an internal one on two, each with a server that may forge what it likes."""

    def __init__(self, bed: Testbed) -> None:
        self.bed = bed
        self.bench = {number: Workbench(bed, number) for number in NODES}
        self.address: dict[str, dict[int, str]] = {}
        for number in NODES:
            for environment in ("shop-production", "shop-staging"):
                self.bench[number].network(environment, *DUAL)
        for number in (1, 2):
            self.bench[number].network("inner", *DUAL, "--internal")
        for name, (number, environment) in PLACES.items():
            bench = self.bench[number]
            options = ["--network-alias", "postgres"] if name in {"a2", "b3"} else []
            if environment == "shop-staging":
                options += [word for kind in ("tcp", "udp") for word in ("--publish", f"{PUBLISHED}:80/{kind}")]
            bench.serve(name, environment, *MIGHTY, *options)
            self.address[name] = {
                4: bench.node.address_of(name, environment),
                6: bench.node.address_of(name, environment, 6),
            }

    def at(self, name: str) -> Workbench:
        """The node a container is on."""
        return self.bench[PLACES[name][0]]

    def resolve(self, who: str, name: str) -> set[str]:
        """What a container finds by a name, with its own C library."""
        return set(self.at(who).docker("exec", who, "python3", "-c", RESOLVE, name).split())

    def reaches(self, who: str, whom: str, version: int) -> bool:
        """Whether a container gets an answer from another by TCP, UDP and ICMP."""
        return self.at(who).reaches(who, *everything(self.address[whom][version]))

    def answered(self, who: str, targets: dict[str, list[Target]], patience: float = BRIEF) -> dict[str, int]:
        """How many of the targets with each name a container gets an answer from; it asks for all at once."""
        flat = [(label, target) for label, of_it in targets.items() for target in of_it]
        heard = self.at(who).ask(who, [target for _, target in flat], patience)
        return {
            label: sum(bool(said) for (of, _), said in zip(flat, heard, strict=True) if of == label) for label in targets
        }

    def gets_nothing(self, who: str, address: str, port: int = 80) -> bool:
        """Whether a container gets no answer of any kind."""
        return self.at(who).cut_off(who, *everything(address, port))

    def mesh(self, number: int, version: int = 4) -> str:
        """A node's address in the tunnel."""
        (row,) = [row for row in self.cluster(number)["nodes"] if row["self"]]
        return next(address for address in row["mesh"] if (":" in address) == (version == 6))

    def cluster(self, number: int = 1) -> dict[str, list[dict[str, list[str]]]]:
        """What a node says of the cluster."""
        return dict(json.loads(self.bench[number].node.stackpad("node", "ls", "--json", check=False).stdout))

    def name(self, number: int) -> str:
        """A node's name in the cluster."""
        return f"{self.bed.plan.name}-n{number}"


@pytest.fixture(scope="module")
def three(fleet: Testbed) -> Iterator[Scene]:
    """The scene, once for all questions of a file."""
    made = Scene(fleet)
    others = [(who, whom) for who in ("a1", "a2", "a3") for whom in ("a1", "a2", "a3") if who != whom]
    eventually(lambda: all(made.resolve(*pair) and made.reaches(*pair, 4) for pair in others), "the nodes to meet", 60)
    yield made
    for bench in made.bench.values():
        bench.clear()
