"""Scenarios that other projects learnt to test, replayed on three nodes; docs/testing.md says whose each is."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations

import pytest

from tests.e2e.life import Life
from tests.e2e.workbench import Workbench, eventually, everything
from tests.testbed.plan import INTERNET_NAME
from tests.testbed.shell import run
from tests.testbed.testbed import Testbed

SHOP, STAY = "replay-production", ("--restart", "always")
INTERNET = "198.51.100.1"
NARROW = 1400
BULK = 20 << 20
"""Bytes."""

ASK = """
import socket, sys
kind, what = sys.argv[1:]
try:
    if kind == "name": print(*sorted({found[4][0] for found in socket.getaddrinfo(what, 80, socket.AF_INET)}))
    else: print(socket.gethostbyaddr(what)[0])
except OSError:
    print()
"""

SEND = """
import hashlib, os, socket, sys
data = os.urandom(1 << 20)
digest = hashlib.sha256()
with socket.create_connection((sys.argv[1], 9000), 30) as s:
    for _ in range(int(sys.argv[2]) >> 20):
        s.sendall(data); digest.update(data)
    s.shutdown(socket.SHUT_WR)
    answer = s.makefile().read()
print(digest.hexdigest() == answer)
"""

RECEIVE = """
import hashlib, socket
with socket.create_server(("::", 9000), family=socket.AF_INET6, dualstack_ipv6=True) as listening:
    while True:
        c, _ = listening.accept()
        digest = hashlib.sha256()
        with c:
            while data := c.recv(1 << 16): digest.update(data)
            c.sendall(digest.hexdigest().encode())
"""


class Replay(Life):
    """The three nodes with a server each, and how one container sees the others."""

    def __init__(self, bed: Testbed) -> None:
        super().__init__(bed)
        self.server = {number: f"web{number}" for number in self.bench}
        for number, name in self.server.items():
            self.bench[number].network(SHOP, "--ipv6", "--ipam-driver", "stackpad")
            self.bench[number].serve(name, SHOP, *STAY)

    def ask(self, number: int, who: str, kind: str, what: str) -> set[str]:
        """What a container's C library answers: addresses of a ``name``, or the name of an ``address``."""
        return set(self.bench[number].docker("exec", who, "python3", "-c", ASK, kind, what).split())

    def meet_all(self) -> bool:
        """Whether every server reaches every other one by its name, and the outside."""
        return all(self._reach(*pair) for pair in permutations(self.server, 2)) and all(
            self.bench[number].node.inside(name, "ping", "-c1", "-W2", INTERNET)[0] == 0
            for number, name in self.server.items()
        )

    def _reach(self, here: int, there: int) -> bool:
        found = self.ask(here, self.server[here], "name", self.server[there])
        address = self.bench[there].node.address_of(self.server[there], SHOP)
        return found == {address} and self.bench[here].reaches(self.server[here], *everything(address))


@pytest.fixture(scope="module")
def replay(fleet: Testbed) -> Iterator[Replay]:
    """One scene for all: what a scenario breaks it must see whole again."""
    made = Replay(fleet)
    eventually(made.meet_all, "the nodes to meet", 60)
    yield made
    for bench in made.bench.values():
        bench.clear()


@pytest.mark.replay("S1")
def test_networks_that_come_and_go_leave_the_others_alone(replay: Replay) -> None:
    bench = replay.bench[2]
    for name in ("one-more", "another"):
        bench.network(name)
        bench.docker("network", "connect", name, "web2")
    assert replay.meet_all()
    for name in ("one-more", "another"):
        bench.docker("network", "disconnect", name, "web2")
        bench.docker("network", "rm", name)
    bench.docker("network", "disconnect", SHOP, "web2")
    bench.docker("network", "connect", SHOP, "web2")
    eventually(replay.meet_all, "the nodes to meet again", 30)


@pytest.mark.replay("S16", "S49", "S32")
def test_replicas_under_one_name(replay: Replay) -> None:
    """Two on each of two nodes: who has some gets these, who has none gets all, and none when all have ended."""
    places = {f"r{number}{letter}": number for number in (1, 2) for letter in "ab"}
    for name, number in places.items():
        replay.bench[number].start(name, SHOP, "--network-alias", "worker")

    def each(verb: str) -> None:
        with ThreadPoolExecutor() as pool:
            for done in [pool.submit(replay.bench[number].docker, verb, name) for name, number in places.items()]:
                done.result()

    for _ in range(5):
        addresses = {name: replay.bench[number].node.address_of(name, SHOP) for name, number in places.items()}
        eventually(lambda: replay.ask(3, "web3", "name", "worker") == set(addresses.values()), "all of them", 30)  # noqa: B023
        assert replay.ask(1, "web1", "name", "worker") == {addresses["r1a"], addresses["r1b"]}
        assert replay.ask(3, "web3", "name", "r2b") == {addresses["r2b"]}
        each("kill")
        eventually(lambda: not replay.ask(3, "web3", "name", "worker"), "none of them", 30)
        each("start")
    for name, number in places.items():
        replay.bench[number].docker("rm", "--force", name)


@pytest.mark.replay("S19", "S21")
def test_spellings_and_names_of_addresses(replay: Replay) -> None:
    address = replay.bench[2].node.address_of("web2", SHOP)
    assert replay.ask(1, "web1", "name", "WeB2") == {address}
    (name,) = replay.ask(1, "web1", "address", address)
    assert name.split(".")[0].lower() == "web2"
    assert replay.ask(1, "web1", "address", INTERNET) == {INTERNET_NAME}
    dig = ("exec", "web1", "dig", "+noall", "+comments", "+tries=1", "MX")
    ours = replay.bench[1].docker(*dig, "web2")
    assert "status: NOERROR" in ours, "the name is there, and has no such record"
    assert "ANSWER: 0" in ours
    assert "ANSWER: 1" in replay.bench[1].docker(*dig, INTERNET_NAME), "only the outside has it"


@pytest.mark.replay("S14")
def test_an_address_that_moves_is_reached_at_once(replay: Replay) -> None:
    """Another container takes the address over: nobody on the network has to forget the old one first."""
    for number in (1, 2):
        replay.bench[number].network("moving", "--subnet", f"172.31.7{number}.0/24")
        replay.bench[number].start(f"asker{number}", "moving")
    bench, address = replay.bench[2], "172.31.72.9"
    ping = ("ping", "-c1", "-W2", address)
    bench.start("first", "moving", "--ip", address)
    for number in (1, 2):
        eventually(lambda: replay.bench[number].node.inside(f"asker{number}", *ping)[0] == 0, "the first", 30)  # noqa: B023
    bench.docker("rm", "--force", "first")
    bench.start("second", "moving", "--ip", address)
    for number in (2, 1):
        assert replay.bench[number].node.inside(f"asker{number}", *ping)[0] == 0


@pytest.mark.replay("S47")
@pytest.mark.parametrize("version", [4, 6])
def test_a_narrow_link_to_one_node(replay: Replay, version: int) -> None:
    """Set while containers run: large packets and a bulk of data pass both ways, to old and new containers."""
    second = replay.bed.nodes[1]

    def widen(mtu: int) -> None:
        run("ip", "-n", second.spec.netns, "link", "set", "eth0", "mtu", str(mtu))
        run("ip", "-n", replay.bed.plan.switch, "link", "set", second.name, "mtu", str(mtu))

    def shown() -> int:
        rows = replay.bench[1].admin("/cluster")["nodes"]
        return int(next(row["mtu"] for row in rows if row["name"] == replay.name(2)))

    sinks = {}
    for number in (1, 2):
        replay.bench[number].start(f"old{number}", SHOP, command=("python3", "-c", RECEIVE))
    widen(NARROW)
    try:
        eventually(lambda: shown() == NARROW - 80, "the other node to know", 60)
        for number in (1, 2):
            replay.bench[number].start(f"new{number}", SHOP, command=("python3", "-c", RECEIVE))
        for age in ("old", "new"):
            for here, there in ((1, 2), (2, 1)):
                sinks[there] = replay.bench[there].node.address_of(f"{age}{there}", SHOP, version)
                inside = replay.bench[here].node.inside
                done = inside(f"{age}{here}", "ping", "-c", "3", "-i", "0.3", "-s", "10000", sinks[there])
                assert done[0] == 0, (age, here, done[1])
                sent = inside(f"{age}{here}", "python3", "-c", SEND, sinks[there], str(BULK), timeout=120)
                assert sent[1].strip() == "True", (age, here, sent)
    finally:
        widen(1500)
        for number in (1, 2):
            replay.bench[number].docker("rm", "--force", f"old{number}", f"new{number}", check=False)
    eventually(lambda: shown() == 1420, "the way to be wide again", 60)


@pytest.mark.replay("S35")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_store_that_is_restarted(replay: Replay, how: signal.Signals) -> None:
    (etcd,) = replay.pids(1, "etcd")
    os.kill(etcd, how)
    assert replay.meet_all()
    eventually(lambda: all(map(replay.connected, replay.bench)), "the store to answer everybody", 60)
    replay.bench[3].start("late", SHOP)
    eventually(lambda: bool(replay.ask(1, "web1", "name", "late")), "the news", 30)
    replay.bench[3].docker("rm", "--force", "late")


@pytest.mark.replay("S2", "S8", "S24")
def test_each_engine_restarted_in_turn(replay: Replay) -> None:
    """Kindly: what was running comes back, with its address if it has asked for one, and everybody meets."""
    replay.bench[2].network("fixed", "--subnet", "172.31.79.0/24")
    replay.bench[2].start("still", "fixed", "--ip", "172.31.79.9", *STAY)
    for number, bench in replay.bench.items():
        bench.node.restart_engine()
        bench.wait_plugin()
        _up(bench, replay.server[number])
        eventually(replay.meet_all, "the nodes to meet again", 90)
    assert replay.bench[2].node.address_of("still", "fixed") == "172.31.79.9"


@pytest.mark.replay("S34")
def test_each_node_rebooted_in_turn(replay: Replay) -> None:
    for number, bench in replay.bench.items():
        bench.node.reboot()
        bench.wait_plugin()
        _up(bench, replay.server[number])
        bench.serve("fresh", SHOP)
        eventually(replay.meet_all, "the nodes to meet again", 90)
        other = 1 if number != 1 else 2
        address = bench.node.address_of("fresh", SHOP)
        eventually(lambda: replay.ask(other, f"web{other}", "name", "fresh") == {address}, "the new one", 30)  # noqa: B023
        assert replay.bench[other].reaches(f"web{other}", *everything(address))
        bench.docker("rm", "--force", "fresh")


def _up(bench: Workbench, name: str) -> None:
    eventually(lambda: bench.docker("inspect", "-f", "{{.State.Running}}", name).strip() == "true", f"{name} to run", 60)
    bench.wait_listening(name)
