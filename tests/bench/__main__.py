"""`make bench`: measures, prints tables, and writes them into docs/benchmarks.md, each into its own part."""

from __future__ import annotations

import argparse
import datetime
import logging
import os
import platform
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

import structlog

from tests.bench import asking, mesh, redeploys, resolver, simulated, thousands, web
from tests.bench.measure import Bench
from tests.e2e.workbench import Workbench
from tests.testbed import testbed
from tests.testbed.plan import ENGINES
from tests.testbed.shell import ROOT, say, step
from tests.testbed.testbed import Options

Row = tuple[str, str, str, str, str]
DOCUMENT = ROOT / "docs" / "benchmarks.md"


def main() -> int:
    """Measure; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=PARTS, help="only this part (can be given several times)")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    for name in options.only or PARTS:
        with step(name):
            body = PARTS[name]()
        print(body)
        DOCUMENT.write_text(placed(DOCUMENT.read_text(), name, f"{body}\n\n{_when()}"))
    return 0


def placed(document: str, name: str, body: str) -> str:
    """``document`` with ``body`` between the marks of part ``name``; raises :class:`ValueError` without these."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if document.count(begin) != 1 or document.count(end) != 1:
        raise ValueError(f"{DOCUMENT.name} has no place for {name}: {begin} … {end}")
    head, _, rest = document.partition(begin)
    return f"{head}{begin}\n{body}\n{end}{rest.partition(end)[2]}"


def _when() -> str:
    date = datetime.datetime.now(datetime.UTC).date()
    kernel = re.sub(r"[^0-9.].*", "", platform.release())
    return f"Measured {date}, {os.cpu_count()} cores shared with others, kernel {kernel}."


def _one_node() -> str:
    parts = []
    for engine in ENGINES:
        made = testbed.make(f"bench-{engine}", 1, engine)
        made.up(Options(images=("test",)))
        try:
            found = list(_rows(Bench(Workbench(made)), 1000))
            heads = ("", "Docker's bridge", "stackpad", "ratio", "goal")
            parts.append(f"### Docker {made.nodes[0].engine_version()}\n\n{_table(heads, found)}")
        finally:
            made.down()
    return "\n\n".join(parts)


def _between_nodes() -> str:
    flows, found = mesh.measure("forky", 7, 30)
    return f"{_table(mesh.HEADS, flows)}\n\n{_table(('', 'found', 'goal'), found)}"


def _many_nodes() -> str:
    return _table(("", "found", "goal"), [*simulated.rows(20.0), *thousands.measure()])


def _resolver() -> str:
    return _table(("", "stackpad", "dnsmasq"), [*resolver.serving(5, 1.0), *resolver.changes(20)])


def _ingress() -> str:
    return _table(("", "found", "goal"), asking.rows(2000))


def _web() -> str:
    changes, requests = web.measure()
    found = [*changes, *redeploys.measure()]
    return f"{_table(web.HEADS, found)}\n\n{_table(web.SPEED_HEADS, requests)}"


PARTS: dict[str, Callable[[], str]] = {
    "one node": _one_node,
    "between nodes": _between_nodes,
    "many nodes": _many_nodes,
    "resolver": _resolver,
    "ingress": _ingress,
    "web": _web,
}


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


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = (heads, ["---" for _ in heads], *rows)
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


if __name__ == "__main__":
    say("this takes about an hour")
    sys.exit(main())
