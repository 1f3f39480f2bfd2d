"""`make bench`: measures on the oldest and on a current engine, prints a table and writes docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterator

from tests.bench.measure import Bench
from tests.e2e.workbench import Workbench
from tests.testbed import testbed
from tests.testbed.plan import ENGINES
from tests.testbed.shell import ROOT, say, step
from tests.testbed.testbed import Options

Row = tuple[str, str, str, str, str]


def main() -> int:
    """Measure; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--engine", action="append", choices=ENGINES, help="only this one (can be given twice)")
    parser.add_argument("--many", type=int, default=1000, help="how many networks are many")
    options = parser.parse_args()
    parts = []
    for engine in options.engine or ENGINES:
        made = testbed.make(f"bench-{engine}", 1, engine)
        made.up(Options(images=("test",)))
        try:
            bench = Bench(Workbench(made))
            rows = list(_rows(bench, options.many))
            parts.append(f"## Docker {made.nodes[0].engine_version()}\n\n{_table(rows)}")
        finally:
            made.down()
    text = _HEAD.format(kernel=platform.release(), cores=os.cpu_count()) + "\n\n".join(parts) + "\n" + _FOOT
    print(text)
    (ROOT / "docs" / "benchmarks.md").write_text(text)
    return 0


def _rows(bench: Bench, many: int) -> Iterator[Row]:
    with step("create and remove"):
        made = bench.create_and_remove()
        both = made["stackpad"]["both"].median / made["bridge"]["both"].median
        for what in ("create", "rm"):
            yield f"network {what}, ms", str(made["bridge"][what]), str(made["stackpad"][what]), "", ""
        yield _judged("network create + rm, ms", made["bridge"]["both"], made["stackpad"]["both"], both, 0.35)
    with step("start of a container"):
        started = bench.start_share()
        none = started["none"].median
        share = (started["stackpad"].median - none) / (started["bridge"].median - none)
        yield (
            f"container start, ms (without network: {none:.0f})",
            str(started["bridge"]),
            str(started["stackpad"]),
            "",
            "",
        )
        shares = [f"{started[driver].median - none:.0f}" for driver in ("bridge", "stackpad")]
        yield "network's share of it, ms", shares[0], shares[1], *_verdict(share, 0.80)
    with step("traffic"):
        traffic = bench.traffic()
        gbit = traffic["stackpad"]["gbit"].median / traffic["bridge"]["gbit"].median
        rtt = traffic["stackpad"]["rtt"].median / traffic["bridge"]["rtt"].median
        first, second = traffic["bridge"]["gbit"], traffic["stackpad"]["gbit"]
        yield "TCP, one stream, Gbit/s", str(first), str(second), *_verdict(gbit, 1.0, least=True)
        yield _judged("TCP round trip, µs", traffic["bridge"]["rtt"], traffic["stackpad"]["rtt"], rtt, 1.0)
    with step("first page"):
        page = bench.first_page()
        yield "start event to first HTTPS 200, 10 hosts, ms", "", str(page), *_absolute(page.median, 150, "ms")
    with step("many networks"):
        found = bench.many_networks(many)
        few, crowd = found["few"], found["many"]
        ratio = crowd.median / few.median  # type: ignore[attr-defined]
        goal = f"{ratio:.2f}×", "≤ 1.20× " + ("met" if ratio <= 1.2 else "**missed**")
        yield f"create at 10 and at {many} networks, ms", f"{few} at 10", f"{crowd} at {many}", *goal
        memory = float(str(found["memory"]))
        yield f"plugin's memory at {many} networks, MB", "", f"{memory:.0f}", *_absolute(memory, 100, "MB")
        yield f"killed plugin answers again at {many} networks, ms", "", f"{found['answers']:.0f}", "", ""
        yield "and has compared all of the kernel, ms after the kill", "", f"{found['ready']:.0f}", "", ""


def _judged(what: str, bridge: object, stackpad: object, ratio: float, goal: float) -> Row:
    return (what, str(bridge), str(stackpad), *_verdict(ratio, goal))


def _verdict(ratio: float, goal: float, *, least: bool = False) -> tuple[str, str]:
    met = ratio >= goal if least else ratio <= goal
    return f"{ratio:.2f}×", f"{'≥' if least else '≤'} {goal:.2f}× " + ("met" if met else "**missed**")


def _absolute(value: float, goal: float, unit: str) -> tuple[str, str]:
    return "", f"≤ {goal:.0f} {unit} " + ("met" if value <= goal else "**missed**")


def _table(rows: list[Row]) -> str:
    lines = ["| | Docker's bridge | stackpad | ratio | goal |", "|---|---|---|---|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


_HEAD = """# Benchmarks

Written by `make bench`. Each figure is the median of one run, with the least and the greatest value behind it; both
drivers were measured in turn, on the same engine and machine ({cores} cores, kernel {kernel}, shared with others).
Compare the columns, not the figures of one run with those of another.

"""

_FOOT = """
## Reading it

- *network create + rm*: Docker's bridge runs `iptables` once for each rule and waits for the kernel to delete its bridge.
  Ours is one `nft` transaction each, and bridges are deleted in the background.
- *network's share of a container's start*: most of it is the engine's own work, the same for every driver on a
  user-defined network: about nine `iptables` calls in the container's namespace for its name resolver, on 20.10 helper
  processes too. Ours are a veth pair and one `nft` transaction (about 8 ms), and the move of one end into the container
  by the engine, which waits for the kernel (17 to 21 ms here). From Docker 28 on the built-in bridge makes its pair in
  the container's namespace and is spared that move; a plugin cannot, because the protocol has it name a link in the
  node's namespace.
- *first HTTPS 200*: event, inspection, one accepted connection, one write to Caddy, and Caddy's making of a certificate.
"""

if __name__ == "__main__":
    say("this takes about ten minutes")
    sys.exit(main())
