"""`python -m tests.bench.resolver`: the resolver beside dnsmasq, on loopback.

Both are asked in turn by the same client, in several rounds; a table of medians (least to greatest) is printed. What a
change of the cluster's records costs is measured in this process. No root needed; dnsmasq is.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import multiprocessing
import random
import select
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import dns.message

from plugin.resolver import table
from plugin.resolver.forwarder import Forwarder
from plugin.resolver.server import Resolver
from plugin.resolver.table import Own
from plugin.resolver.wire import Answerer
from plugin.resolver.zone import View
from plugin.store.mesh import View as ClusterView
from stackpad import records
from tests.bench.measure import Series
from tests.dns.world import DNSMASQ, free_port

OURS, THEIRS, BEHIND = "127.54.0.1", "127.54.0.2", "127.54.0.3"
ASKERS = tuple(f"127.54.1.{n}" for n in range(1, 5))
WINDOW = 8
NAMES, ENVIRONMENTS, NODES = 10_000, 100, 5
ME = "node-0"


def cluster() -> ClusterView:
    """Ten thousand containers in a hundred environments on five nodes."""
    first = int(ipaddress.ip_address("10.192.0.0"))
    endpoints = {
        f"e{n}": records.Endpoint(
            owner=f"node-{n // ENVIRONMENTS % NODES}",
            id=f"e{n}",
            network="n",
            environment=f"project-{n % ENVIRONMENTS}",
            names=(f"c{n}", f"service-{n // 300}"),
            addresses=(str(ipaddress.ip_address(first + n)), f"fd00::{n:x}"),
            ports=("5432/tcp",),
            container=f"c{n}",
        )
        for n in range(NAMES)
    }
    return ClusterView(endpoints=endpoints, alive=frozenset(f"node-{n}" for n in range(NODES)))


def own() -> list[Own]:
    """A container of every environment, and of the first one the askers."""
    there = [Own(f"o{n}", f"project-{n}", (f"10.255.0.{n}",), False) for n in range(ENVIRONMENTS)]
    return there + [Own("asker", "project-0", (address,), False) for address in ASKERS]


def view() -> View:
    """The names of all of them."""
    return table.view(cluster(), ME, own())


def names_of(view: View) -> list[str]:
    """The names the askers may ask for that have one address, and so one answer."""
    return [name for name, replicas in view.environments["project-0"].names.items() if len(replicas) == 1]


def serve(port: int) -> None:
    """Our resolver, until killed."""
    resolver = Resolver([OURS], Forwarder(lambda: [BEHIND], port), port)
    resolver.update(view())
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(resolver.run())


@contextlib.contextmanager
def dnsmasq(address: str, port: int, directory: Path, *options: str) -> Iterator[None]:
    """A dnsmasq that knows what ``options`` say."""
    words = ["--conf-file=/dev/null", "--keep-in-foreground", "--no-resolv", "--bind-interfaces", "--pid-file="]
    words += ["--user=", f"--listen-address={address}", f"--port={port}", "--dns-forward-max=1000"]
    with (directory / f"log-{address}").open("wb") as log:
        process = subprocess.Popen([DNSMASQ, *words, *options], stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def ready(server: str, port: int) -> None:
    """Wait until it answers."""
    query = dns.message.make_query("nobody.invalid", "A").to_wire()
    for _ in range(200):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker, contextlib.suppress(OSError):
            asker.settimeout(0.1)
            asker.connect((server, port))
            asker.send(query)
            asker.recv(4096)
            return
        time.sleep(0.05)
    raise RuntimeError(f"{server} port {port} does not answer")


def load(server: str, port: int, queries: Sequence[bytes], seconds: float) -> float:
    """Answers a second to a window of questions from each of the askers."""
    askers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in ASKERS]
    poll = select.epoll()
    by_number = {}
    turn, answers = 0, 0
    for asker, address in zip(askers, ASKERS, strict=True):
        asker.setblocking(False)
        asker.bind((address, 0))
        asker.connect((server, port))
        by_number[asker.fileno()] = asker
        poll.register(asker, select.EPOLLIN)
        for _ in range(WINDOW):
            asker.send(queries[turn % len(queries)])
            turn += 1
    began = time.perf_counter()
    while (now := time.perf_counter()) - began < seconds:
        ready_now = poll.poll(1.0)
        if not ready_now:
            raise RuntimeError(f"{server} stopped answering")
        for number, _ in ready_now:
            asker = by_number[number]
            with contextlib.suppress(BlockingIOError):
                while True:
                    asker.recv(4096)
                    answers += 1
                    asker.send(queries[turn % len(queries)])
                    turn += 1
    for asker in askers:
        asker.close()
    poll.close()
    return answers / (now - began)


def latency(server: str, port: int, queries: Sequence[bytes], count: int) -> float:
    """Median microseconds from question to answer, one at a time."""
    times = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(5)
        asker.bind((ASKERS[0], 0))
        asker.connect((server, port))
        for number in range(count):
            began = time.perf_counter()
            asker.send(queries[number % len(queries)])
            asker.recv(4096)
            times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2] * 1e6


def questions(names: Sequence[str]) -> list[bytes]:
    """As a C library asks: EDNS, a fresh identifier."""
    return [dns.message.make_query(name, "A", use_edns=0, payload=1232).to_wire() for name in names]


def serving(rounds: int, seconds: float) -> Iterator[tuple[str, str, str]]:
    """Rows: what, ours, dnsmasq's."""
    known, port = view(), free_port(OURS, THEIRS, BEHIND)
    own_names = names_of(known)
    outside = [f"www{n}.example.org" for n in range(200)]
    own_records = [
        f"--host-record={name},{known.environments['project-0'].names[name][0].addresses[0]}" for name in own_names
    ]
    ours = multiprocessing.get_context("spawn").Process(target=serve, args=(port,))
    with tempfile.TemporaryDirectory() as text, contextlib.ExitStack() as stack:
        directory = Path(text)
        stack.enter_context(dnsmasq(BEHIND, port, directory, "--no-hosts", "--address=/example.org/192.0.2.1"))
        options = ["--no-hosts", "--cache-size=0", f"--server={BEHIND}#{port}", *own_records]
        stack.enter_context(dnsmasq(THEIRS, port, directory, *options))
        ours.start()
        stack.callback(ours.join)
        stack.callback(ours.terminate)
        for server in (OURS, THEIRS, BEHIND):
            ready(server, port)
        for what, asked in (("its own names", own_names), ("names passed on", outside)):
            queries = questions(asked)
            rates: dict[str, list[float]] = {OURS: [], THEIRS: []}
            times: dict[str, list[float]] = {OURS: [], THEIRS: [], BEHIND: []}
            for _ in range(rounds):
                for server, found in rates.items():
                    found.append(load(server, port, queries, seconds))
                for server, found in times.items():
                    found.append(latency(server, port, queries, 1000))
            yield f"{what}, answers a second", str(Series(tuple(rates[OURS]))), str(Series(tuple(rates[THEIRS])))
            yield f"{what}, µs", str(Series(tuple(times[OURS]))), str(Series(tuple(times[THEIRS])))
            if asked is outside:
                direct = Series(tuple(times[BEHIND])).median
                added = [f"{Series(tuple(times[server])).median - direct:.0f}" for server in (OURS, THEIRS)]
                yield f"{what}, added to {direct:.0f} µs, µs", added[0], added[1]
        fresh = [f"{name}.project-0" for name in own_names]
        yield "first answer to a question, µs", str(_first(known, questions(fresh))), ""


def _first(known: View, queries: Sequence[bytes]) -> Series:
    answerer = Answerer(known)
    return Series(tuple(_timed(lambda query=query: answerer.answer(query, ASKERS[0])) * 1e3 for query in queries))  # type: ignore[misc]


def changes(rounds: int) -> Iterator[tuple[str, str, str]]:
    """Rows: milliseconds of what a change of the records costs."""
    there, here = cluster(), own()
    before = table.view(there, ME, here)
    dead = ClusterView(endpoints=there.endpoints, alive=there.alive - {"node-1"})
    answerer = Answerer(before)

    def timed(action: Callable[[], View]) -> Series:
        return Series(tuple(_timed(lambda: answerer.update(action())) for _ in range(rounds)))

    title = f"{NAMES} containers in {ENVIRONMENTS} environments: "
    one = {f"project-{random.randrange(ENVIRONMENTS)}"}  # noqa: S311
    yield title + "one has changed, ms", str(timed(lambda: table.view(there, ME, here, before, one))), ""
    yield title + "nothing but containers here, ms", str(timed(lambda: table.view(there, ME, here, before, set()))), ""
    gone = timed(lambda: table.view(dead, ME, here, before, table.of_nodes(there, {"node-1"})))
    yield title + "a node is gone, ms", str(gone), ""
    yield title + "all anew, ms", str(timed(lambda: table.view(there, ME, here))), ""


def _timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.resolver", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each load")
    options = parser.parse_args()
    print("| | stackpad | dnsmasq |\n|---|---|---|")
    for row in (*serving(options.rounds, options.seconds), *changes(options.rounds)):
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
