"""``python -m tests.bench.web``: web services behind one Caddy, at ten hosts, a thousand and ten thousand.

The ingress and Caddy are real, in processes of their own on loopback; the engine's answers are synthetic, and so are its
containers: one server answers for all of them. Beside it, in turn, a plain Caddy with a configuration written by hand.
No root needed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from ingress.settings import Settings
from tests.bench.engine import BASE, host
from tests.bench.load import Found, visit
from tests.bench.measure import Series
from tests.bench.site import Site, site
from tests.caddy.workshop import CaddyProcess
from tests.freeport import free_port
from tests.testbed.shell import step

SIZES = (10, 1_000, 10_000)
GOAL = 180.0
"""Milliseconds of a change at ten thousand hosts."""

REST = 2.5
"""Seconds after a change until the next one is written at once again."""

CROWD = 100
Row = tuple[str, ...]


def plain(names: list[str], port: int, upstream: int, visited: str) -> dict[str, Any]:
    """What somebody writes by hand for these sites: a route each, a certificate of Caddy's own authority for one."""
    proxy = {"handler": "reverse_proxy", "upstreams": [{"dial": f"127.0.0.1:{upstream}"}]}
    routes = [{"match": [{"host": [name]}], "handle": [proxy], "terminal": True} for name in names]
    server = {
        "listen": [f":{port}"],
        "routes": routes,
        "automatic_https": {"disable_redirects": True, "disable_certificates": True},
    }
    policy = {"subjects": [visited], "issuers": [{"module": "internal"}]}
    authority = {"certificate_authorities": {"local": {"install_trust": False}}}
    return {
        "apps": {
            "http": {"https_port": port, "servers": {"sites": server}},
            "tls": {"automation": {"policies": [policy]}, "certificates": {"automate": [visited]}},
            "pki": authority,
        }
    }


class Run:
    """The measurements at one size; ``rounds`` of each."""

    def __init__(self, there: Site, hosts: int, rounds: int) -> None:
        self.site, self.hosts, self.rounds = there, hosts, rounds
        self._next = 1_000_000 + hosts

    def _new(self, count: int) -> list[int]:
        """Numbers of hosts that have never been there."""
        self._next += count
        return list(range(self._next - count, self._next))

    async def first_pages(self) -> Series:
        """Milliseconds from start to first page."""
        found = []
        for (number,) in [self._new(1) for _ in range(self.rounds)]:
            await asyncio.sleep(REST)
            found.append(await self.site.first_page(number))
            await self.site.clear([number])
        return Series(tuple(found))

    async def changes(self, count: int) -> tuple[Series, Series, dict[str, float]]:
        """Milliseconds until ``count`` new hosts are served, and of each write to Caddy; processor time by process."""
        took, writes = [], []
        spent = dict.fromkeys(self.site.processes(), 0.0)
        for _ in range(self.rounds):
            await asyncio.sleep(REST)
            resting = await self._spent(REST)
            # The ingress's numbers cost it something: they are asked for before and after what is counted.
            numbers, applied, before = self._new(count), await self.site.applied(), self.site.used()
            took.append(await self.site.change(numbers))
            await asyncio.sleep(REST - min(took[-1] / 1e3, REST - 1))
            used = {name: value - before[name] for name, value in self.site.used().items()}
            for name, value in used.items():
                spent[name] += max(0.0, value - resting[name]) / self.rounds
            seconds, number = (now - then for now, then in zip(await self.site.applied(), applied, strict=True))
            writes.append(seconds / number * 1e3)
            await self.site.clear(numbers)
        return Series(tuple(took)), Series(tuple(writes)), spent

    async def _spent(self, seconds: float) -> dict[str, float]:
        """Milliseconds of a processor that the processes take in some time in which nothing changes."""
        before = self.site.used()
        await asyncio.sleep(seconds)
        return {name: value - before[name] for name, value in self.site.used().items()}


async def costs(there: Site, hosts: int, rounds: int) -> AsyncIterator[Row]:
    """Rows of what a change costs among so many hosts."""
    await there.hold(hosts)
    run, at = Run(there, hosts, rounds), f"{hosts:,} hosts"
    yield f"{at}: container ready, to its first page, ms", str(await run.first_pages()), ""
    took, writes, spent = await run.changes(1)
    large = hosts == SIZES[-1]
    verdict = f"≤ {GOAL:.0f} ms " + ("met" if writes.median <= GOAL else "**missed**") if large else ""
    yield f"{at}: one change, until it is served, ms", str(took), ""
    yield f"{at}: of that, the write to Caddy, ms", str(writes), verdict
    yield f"{at}: one change, processor time, ms", _parts(spent), ""
    took, _, spent = await run.changes(CROWD)
    yield f"{at}: {CROWD} changes at once, until all are served, ms", str(took), ""
    yield f"{at}: {CROWD} changes at once, processor time, ms", _parts(spent), ""
    yield f"{at}: memory, MB", _parts(there.memory()), ""


def _parts(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.0f}" for name, value in values.items())


async def speed(there: Site, home: Path, hosts: int, rounds: int, seconds: float) -> AsyncIterator[Row]:
    """Rows of requests through our Caddy and through plain ones, in turn: one has all the hosts, one but the visited."""
    await there.hold(hosts)
    name = host(hosts // 2)
    sites = {ALL: [host(number) for number in range(hosts)], ONE: [name]}
    ports = {OURS: there.https}
    async with contextlib.AsyncExitStack() as stack:
        for kind, names in sites.items():
            os.makedirs(own := home / kind)
            beside = CaddyProcess(there.caddy.binary, own, Settings(BASE, caddy_admin=own / "admin.sock"))
            stack.callback(beside.stop)
            ports[kind] = free_port()
            await beside.start(plain(names, ports[kind], there.upstream, name))
        for http in (1, 2):
            found: dict[str, list[Found]] = {kind: [] for kind in ports}
            for where in ports.values():
                # Warms up, and has the certificate made, which can take longer than the visitors stay.
                with contextlib.suppress(RuntimeError):
                    await asyncio.to_thread(visit, where, name, seconds, http=http)
            for _ in range(rounds):
                for kind, where in ports.items():
                    found[kind].append(await asyncio.to_thread(visit, where, name, seconds, http=http))
            yield rate_row(f"{hosts:,} hosts, HTTP/{http}", found)


def rate_row(what: str, found: dict[str, list[Found]]) -> Row:
    """One row of all; a ratio is the median of those within each round, since the machine's pace changes."""
    cells = []
    for each in found.values():
        p50, p99 = (Series(tuple(getattr(one, name) for one in each)).median for name in ("p50", "p99"))
        cells += [str(Series(tuple(one.rate for one in each))), f"p50 {p50:.2f}, p99 {p99:.2f}"]
    ratios = {
        kind: Series(tuple(one.rate / other.rate for one, other in zip(found[OURS], found[kind], strict=True))).median
        for kind in (ALL, ONE)
    }
    return what, *cells, *(f"{ratio:.3f}× {'met' if ratio >= RATIO else '**missed**'}" for ratio in ratios.values())


RATIO = 0.97
"""Of a plain Caddy's requests that ours is to answer."""

OURS, ALL, ONE = "ours", "all", "one"
"""The Caddies whose requests are compared."""

HEADS = ("", "found", "goal")
SPEED_HEADS = (
    "requests",
    "ours, a second",
    "ms",
    "all the hosts by hand, a second",
    "ms",
    "one site by hand, a second",
    "ms",
    "ours to all (≥ 0.97×)",
    "ours to one (≥ 0.97×)",
)


async def _measure(sizes: tuple[int, ...], rounds: int, seconds: float, binary: str) -> tuple[list[Row], list[Row]]:
    found: tuple[list[Row], list[Row]] = ([], [])
    with tempfile.TemporaryDirectory() as directory:
        for number, hosts in enumerate(sizes):
            home = Path(directory, str(number))
            os.makedirs(home)
            async with site(home, binary) as there:
                with step(f"{hosts} hosts: changes"):
                    found[0].extend([row async for row in costs(there, hosts, rounds)])
                if hosts != SIZES[1]:
                    with step(f"{hosts} hosts: requests"):
                        found[1].extend([row async for row in speed(there, home, hosts, rounds, seconds)])
    return found


def measure(
    sizes: tuple[int, ...] = SIZES, rounds: int = 5, seconds: float = 3.0, binary: str = "/usr/bin/caddy"
) -> tuple[list[Row], list[Row]]:
    """What changes cost, and how fast visitors are served."""
    return asyncio.run(_measure(sizes, rounds, seconds, binary))


def _lines(rows: list[Row]) -> Iterator[str]:
    return ("| " + " | ".join(row) + " |" for row in rows)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.web", description=__doc__)
    parser.add_argument("--hosts", type=int, nargs="*", default=SIZES, help="how many there are at each size")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--caddy", default="/usr/bin/caddy", help="another Caddy than the distribution's")
    chosen = parser.parse_args()
    for rows in measure(tuple(chosen.hosts), chosen.rounds, binary=chosen.caddy):
        print("\n".join(_lines(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
