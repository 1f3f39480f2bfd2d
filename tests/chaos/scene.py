"""Where the traffic runs: one environment on three nodes, with askers, servers and databases."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.record import Log, Loss, loss
from tests.e2e.workbench import Workbench, eventually
from tests.testbed import images
from tests.testbed.plan import BASE_DOMAIN
from tests.testbed.testbed import Testbed

ENVIRONMENT = "shop-production"
PUBLISHED = 8088
OUTSIDE = 0
"""The number of who is on no node."""

AGENT = Path(__file__).with_name("agent.py")
COLUMNS = ("ping same", "ping across", "http same", "http across", "http published", "http caddy", "sql same",
           "sql across", "bulk across", "dns same", "dns across")  # fmt: skip
"""Kinds of streams, as a report has them."""

KEPT = ("--restart", "always", "--network", ENVIRONMENT)


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream: from a node to another one, in a way."""

    kind: str
    way: str
    source: int
    target: int

    @property
    def column(self) -> str:
        """The column of a report it belongs to."""
        return f"{self.kind} {self.way}"

    @property
    def name(self) -> str:
        """Its name, and its file's."""
        return f"{self.kind}-{self.way}-{self.source}{self.target}"

    def touches(self, number: int) -> bool:
        """Whether it passes a node; Caddy is on the first one."""
        return number in {self.source, self.target} or (self.way == "caddy" and number == 1)

    def plan(self, bed: Testbed) -> dict[str, Any]:
        """What an agent is told of it."""
        server, database = address(self.target), address(self.target, "db")
        made: dict[str, Any] = {"name": self.name, "kind": self.kind, "address": server}
        if self.kind == "sql":
            made["address"] = database
        if self.kind == "dns":
            made |= {"host": f"srv{self.target}", "expect": server}
        if self.kind == "http":
            made["port"] = 80
        if self.way == "published":
            made |= {"port": PUBLISHED, "address": bed.nodes[self.target - 1].address}
        if self.way == "caddy":
            host = f"web{self.target}.acme.{BASE_DOMAIN}"
            made |= {"port": 443, "address": bed.nodes[0].address, "host": host, "ca": str(bed.proxy.ca)}
        return made


def _all() -> Iterator[Stream]:
    for number in (1, 2, 3):
        yield Stream("ping", "same", number, number)
        yield Stream("http", "same", number, number)
        yield Stream("dns", "same", number, number)
    for pair in ((1, 2), (2, 1), (2, 3), (3, 1)):
        for kind in ("ping", "http", "dns"):
            yield Stream(kind, "across", *pair)
    for pair in ((1, 2), (2, 1)):
        yield Stream("bulk", "across", *pair)
        yield Stream("sql", "across", *pair)
    for number in (1, 2):
        yield Stream("sql", "same", number, number)
        yield Stream("http", "published", OUTSIDE, number)
        yield Stream("http", "caddy", OUTSIDE, number)


STREAMS = tuple(_all())
_LAST = {"srv": 10, "ask": 20, "db": 30}


def address(number: int, what: str = "srv") -> str:
    """A container's address; chosen, so that it is the same after its node was restarted."""
    return f"172.31.{100 + number}.{_LAST[what]}"


class Scene:
    """The containers and the agents; a context manager that starts and removes them."""

    def __init__(self, bed: Testbed, *, web: bool = True, databases: bool = True) -> None:
        self.bed = bed
        self.bench = {number: Workbench(bed, number) for number in range(1, len(bed.nodes) + 1)}
        chosen = [each for each in STREAMS if (web or each.way != "caddy") and (databases or each.kind != "sql")]
        self.streams = tuple(chosen)
        self.databases = databases
        self.logs = {each: Log(self._place(each.source) / f"{each.name}.jsonl") for each in chosen}
        self._outside: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Scene:
        """Start all of it and return when all streams have answers."""
        try:
            eventually(self.connected, "the nodes to reach the store", 150)
            with ThreadPoolExecutor(3) as pool:
                list(pool.map(self._people, self.bench))
            self._agent_outside()
            self.wait_well(90)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Remove it."""
        self.end()

    def end(self) -> None:
        """Remove all containers and networks; a node that is not in a state for that is left to the testbed's end."""
        if self._outside is not None:
            self._outside.kill()
            self._outside.wait()
            self._outside = None
        for bench in self.bench.values():
            with contextlib.suppress(Exception):
                bench.clear()

    def connected(self) -> bool:
        """Whether every node reaches the store and sees every node alive."""
        for bench in self.bench.values():
            cluster = dict(bench.admin("/cluster") or {})
            if not cluster.get("store", {}).get("connected") or not all(row["alive"] for row in cluster["nodes"]):
                return False
        return True

    def refresh(self) -> None:
        """Read what the agents have written since."""
        for log in self.logs.values():
            log.refresh()

    def unwell(self, since: float) -> list[str]:
        """Streams that lost something sent after ``since``, or have no answer since."""
        self.refresh()
        return [each.name for each, log in self.logs.items() if not log.well_since(since)]

    def wait_well(self, timeout: float) -> float:
        """Wait until a second passes in which all streams had answers and no losses; returns the seconds waited."""
        began = time.monotonic()
        while True:
            bad = self.unwell(time.monotonic() - 1.0)
            if not bad:
                return time.monotonic() - began
            if time.monotonic() - began > timeout:
                raise TimeoutError(f"after {timeout:.0f} s still not well: {', '.join(bad)}")
            time.sleep(0.25)

    def losses(self, began: float, ended: float, until: float) -> dict[Stream, Loss]:
        """What each stream lost."""
        self.refresh()
        return {each: loss(log.beats, began, ended, until) for each, log in self.logs.items()}

    def _place(self, number: int) -> Path:
        home = self.bed.home if number == OUTSIDE else self.bed.nodes[number - 1].home
        return home / "chaos"

    def _people(self, number: int) -> None:
        """A node's containers; the database needs the example's image, which a testbed of tests has not loaded."""
        bench, place = self.bench[number], self._place(number)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        shutil.copy(AGENT, place)
        subnet = f"172.31.{100 + number}.0/24"
        bench.network(ENVIRONMENT, "--subnet", subnet)
        labels = ("stackpad.type=web", "stackpad.port=80", f"stackpad.project=web{number}")
        web = [word for label in labels if number != 3 for word in ("--label", label)]
        self._run(number, "srv", images.TEST, *web, "--publish", f"{PUBLISHED}:80", plan={"serve": True})
        if self.databases and number != 3:
            self._run(number, "db", images.EXAMPLE, command=("sh", "/app/database.sh"))
        self._run(number, "ask", images.TEST, plan={"streams": self._plans(number)})

    def _run(
        self, number: int, what: str, image: str, *options: str, plan: object = None, command: tuple[str, ...] = ()
    ) -> None:
        place = str(self._place(number))
        name = f"{what}{number}"
        words = ["run", "--detach", "--init", "--name", name, "--hostname", name, "--ip", address(number, what), *KEPT]
        agent = ("python3", f"{place}/agent.py", json.dumps(plan), place)
        self.bench[number].docker(*words, "--volume", f"{place}:{place}", *options, image, *(command or agent))

    def _plans(self, number: int) -> list[dict[str, Any]]:
        return [each.plan(self.bed) for each in self.streams if each.source == number]

    def _agent_outside(self) -> None:
        place = self._place(OUTSIDE)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        words = ["ip", "netns", "exec", self.bed.plan.switch, sys.executable, str(AGENT)]
        plan = json.dumps({"streams": self._plans(OUTSIDE)})
        self._outside = subprocess.Popen([*words, plan, str(place)], stderr=subprocess.DEVNULL)
