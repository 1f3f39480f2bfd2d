"""Many at once: containers that start, stop, connect and disconnect on three nodes, in many environments, under faults.

Meanwhile nobody may own what another owns: each reading of the store is one revision, so what it has is what there
was at one moment. Afterwards kernel, state, store and Docker must agree on every node, and nothing may be left once
all is removed.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import ip_network
from itertools import combinations
from typing import Any

from tests.chaos.fault import FAULTS, Fault, Place
from tests.e2e.workbench import Workbench
from tests.testbed import images
from tests.testbed.shell import Failed, run, say
from tests.testbed.testbed import Testbed

PREFIX = "crowd"
ADDRESSES_REST = 30.0
"""Seconds in which kernel, state, store and Docker come to agree after the last call."""

DISTURBING = (
    "plugin-killed", "plugin-ended", "plugin-stopped", "tunnel-killed", "tunnel-down", "store-killed", "store-stopped",
    "engine-stopped", "bridge-table-deleted", "iptables-flushed", "deaf", "mute",
)  # fmt: skip
"""Faults that leave Docker's own commands what they are: slower, or refused with a reason."""

LONGEST = 8.0
"""Seconds that a fault lasts at most in a crowd, and about as long there is none."""


@dataclass(slots=True)
class Crowd:
    """A crowd on a testbed; ``seed`` repeats its choices, though not their order in time."""

    bed: Testbed
    seed: str
    environments: int = 20
    workers: int = 6
    """At each node."""

    most: int = 12
    """Containers of each worker."""

    bench: dict[int, Workbench] = field(init=False)
    faults: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seen: int = 0
    """How often the store was read."""

    slowest: float = 0.0
    """Seconds of the slowest of Docker's commands; it includes the start of a container."""

    _over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.bench = {number: Workbench(self.bed, number) for number in range(1, len(self.bed.nodes) + 1)}

    def run(self, seconds: float) -> None:
        """Have the crowd at work for so long, and look at it; what is wrong is in ``wrong`` afterwards."""
        benches = list(self.bench.values())
        try:
            for bench in benches:
                for each in range(self.environments):
                    bench.network(f"{PREFIX}-{each}", "--ipam-driver", "stackpad")
            with ThreadPoolExecutor(self.workers * len(benches) + 2) as pool:
                jobs = [
                    pool.submit(self._look),
                    pool.submit(self._disturb),
                    *(
                        pool.submit(self._work, bench, f"{number}-{each}")
                        for number, bench in self.bench.items()
                        for each in range(self.workers)
                    ),
                ]
                self._over.wait(seconds)
                self._over.set()
                for job in jobs:
                    job.result()
            for bench in benches:
                bench.wait_plugin()
            self._agree(benches)
        finally:
            self._over.set()
            with ThreadPoolExecutor(len(benches)) as pool:
                list(pool.map(Workbench.clear, benches))

    def _work(self, bench: Workbench, worker: str) -> None:
        """One after another, whatever comes to its mind."""
        chance = random.Random(f"{self.seed} {worker}")  # noqa: S311 - repeatable, not secret
        mine: list[str] = []
        number = 0
        while not self._over.is_set():
            network, other = (f"{PREFIX}-{chance.randrange(self.environments)}" for _ in range(2))
            what = chance.choice(["run", "run", "rm", "restart", "connect", "disconnect", "kill"])
            name = chance.choice(mine) if mine else ""
            if what == "run" and len(mine) < self.most:
                number += 1
                name = f"c{worker}-{number}"
                mine.append(name)
                words = ["run", "--detach", "--name", name, "--network", network, "--stop-timeout", "1"]
                self._do(bench, what, *words, images.TEST, "sleep", "infinity")
            elif not name or what == "run":
                continue
            elif what == "rm":
                mine.remove(name)
                self._do(bench, what, "rm", "--force", name)
            elif what == "restart":
                self._do(bench, what, "restart", "--time", "0", name)
            elif what == "kill":
                self._do(bench, what, "kill", name)
            else:
                self._do(bench, what, "network", what, other, name)

    def _disturb(self) -> None:
        """One fault after another, each at a node of those it is for, with as long a rest after it."""
        chance = random.Random(f"{self.seed} faults")  # noqa: S311 - repeatable, not secret
        while not self._over.wait(chance.uniform(1, LONGEST)):
            fault = FAULTS[chance.choice(DISTURBING)]
            number = chance.choice(fault.roles)
            try:
                self._inject(fault, Place(self, number))
                self.faults[fault.title] += 1
            except (Failed, OSError, LookupError, StopIteration, subprocess.SubprocessError) as error:
                say(f"{fault.name} on n{number}: not injected as meant: {error}")

    def _inject(self, fault: Fault, place: Place) -> None:
        with fault.inject(place):
            self._over.wait(LONGEST if fault.hold is None else min(fault.hold, LONGEST))

    def _do(self, bench: Workbench, what: str, *words: str) -> None:
        began = time.monotonic()
        done = bench.try_docker(*words, timeout=180)
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.calls[what] += 1
        if done.returncode:
            # What Docker itself refuses: a container that is there already, is not, or does not run.
            said = re.sub(r"[0-9a-f]{12,}|c\d-\d+-\d+|crowd-\d+", "…", done.stderr.strip().splitlines()[-1])
            self.refused[f"{what}: {said}"] += 1

    def _look(self) -> None:
        while not self._over.is_set():
            records = self._store()
            if records is not None:
                self.seen += 1
                self.wrong += [each for each in twice_owned(records) if each not in self.wrong]
            time.sleep(0.3)

    def _store(self) -> dict[str, dict[str, Any]] | None:
        """All records at one revision; None while the store does not answer."""
        store = f"unix://{self.bed.nodes[0].root}/run/stackpad/etcd/client:0"
        words = ["--endpoints", store, "--command-timeout=5s", "get", "--prefix", "/stackpad/1/"]
        try:
            lines = run("etcdctl", *words).stdout.splitlines()
        except Failed:
            return None
        pairs = zip(lines[::2], lines[1::2], strict=True)
        return {key.removeprefix("/stackpad/1/"): json.loads(value) for key, value in pairs}

    def _agree(self, benches: list[Workbench]) -> None:
        """Wait until everybody says the same; who does not in time is wrong."""
        until = time.monotonic() + ADDRESSES_REST
        while True:
            records = self._store() or {}
            found = [each for bench in benches for each in disagreements(bench, records)]
            if not found or time.monotonic() > until:
                break
            time.sleep(1)
        self.wrong += found
        say(f"{self.calls.total()} calls, {self.seen} readings of the store, slowest {self.slowest:.1f} s")


def twice_owned(records: dict[str, dict[str, Any]]) -> list[str]:
    """Addresses that two endpoints have in one moment, and ranges that overlap."""
    found = []
    owners: dict[str, str] = {}
    for key, record in records.items():
        if key.startswith("endpoints/"):
            for address in record["addresses"]:
                if address in owners:
                    found.append(f"{address} is of {owners[address]} and of {key}")
                owners[address] = key
    held = [
        (ip_network(key.removeprefix("ranges/").replace("-", "/")), record["owner"])
        for key, record in records.items()
        if key.startswith("ranges/")
    ]
    found += [
        f"{one} of {first} overlaps {other} of {second}"
        for (one, first), (other, second) in combinations(held, 2)
        if one.version == other.version and one.overlaps(other)
    ]
    return found


def disagreements(bench: Workbench, records: dict[str, dict[str, Any]]) -> list[str]:
    """What Docker, the plugin's state, the kernel and the store say differently of one node's endpoints."""
    node = bench.admin("/cluster")["node"]
    listed = bench.docker("network", "ls", "--quiet", "--filter", "driver=stackpad").split()
    docker = {
        (entry["Name"], end["EndpointID"], end["IPv4Address"].partition("/")[0])
        for entry in json.loads(bench.docker("network", "inspect", *listed))
        for end in entry["Containers"].values()
    }
    state = {
        (row["name"], end["id"], address)
        for row in bench.admin("/networks")
        for end in row["endpoints"]
        for address in end["addresses"]
    }
    stored = {
        (key.rpartition("/")[2], address)
        for key, record in records.items()
        if key.startswith(f"endpoints/{node}/")
        for address in record["addresses"]
    }
    rules = bench.exec("nft", "list", "set", "bridge", "stackpad", "senders4").stdout
    kernel = set(re.findall(r"[0-9a-f:]{17} \. ([0-9.]+)", rules))
    veths = [name for name in bench.links() if name.startswith("spv")]
    said: dict[str, set[Any]] = {
        "the plugin's state and Docker": state ^ docker,
        "the store and Docker": stored ^ {(end, address) for _, end, address in docker},
        "the rules and Docker": kernel ^ {address for _, _, address in docker},
    }
    found = [
        f"{bench.node.name}: {who} differ in {sorted(what)[:3]} of {len(what)}" for who, what in said.items() if what
    ]
    if len(veths) != len(docker):
        found.append(f"{bench.node.name}: {len(veths)} pairs for {len(docker)} endpoints")
    return found
