"""``make chaos``: faults one after another under traffic, on three nodes; writes docs/resilience.md."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import sys
import time
from collections.abc import Container, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from tests.chaos import census, disk, firewalls, limits, processes, report, wires
from tests.chaos.crowd import ADDRESSES_REST, Crowd
from tests.chaos.fault import FAULTS, Fault
from tests.chaos.inject import Outcome, inject
from tests.chaos.scene import Scene
from tests.chaos.seed import SEED
from tests.testbed import testbed
from tests.testbed.shell import ROOT, Failed, say, step
from tests.testbed.testbed import Options, Testbed

DOCUMENT = ROOT / "docs" / "resilience.md"
KEPT = ROOT / "build" / "chaos.json"
"""What has been found so far; for who looks on, or whose run does not come to its end."""

ENGINES = "debian12,forky,forky"
MODULES = (processes, wires, firewalls, limits, disk)
"""What declares the faults, in the order in which they are injected."""

ORDERED = {each.name: each for module in MODULES for each in FAULTS.values() if each.inject.__module__ == module.__name__}


class Found(msgspec.Struct):
    """What has been found so far, as it is kept."""

    outcomes: list[Outcome] = []
    crowd: str = ""

    @classmethod
    def read(cls) -> Found:
        """What earlier runs have found."""
        counted = msgspec.json.Decoder(cls, dec_hook=lambda kind, value: kind(value))
        return counted.decode(KEPT.read_bytes()) if KEPT.exists() else cls()

    def add(self, made: Outcome) -> None:
        """Take an outcome in, in place of an earlier one of the same fault on the same node."""
        names = list(ORDERED)
        kept = [each for each in self.outcomes if (each.fault, each.number) != (made.fault, made.number)]
        self.outcomes = sorted([*kept, made], key=lambda each: (names.index(each.fault), each.number))
        self.keep()

    def keep(self) -> None:
        """Write it."""
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_bytes(msgspec.json.encode(self))


def main() -> int:
    """Inject the chosen faults; returns 1 if goals were missed."""
    options = _options()
    if options.list:
        print(*(f"{each.name}: {each.title}" for each in ORDERED.values()), sep="\n")
        return 0
    chosen = [ORDERED[name] for name in options.only or ORDERED] if options.only != ["none"] else []
    found = Found() if not options.only else Found.read()
    say(f"{sum(len(each.roles) for each in chosen)} faults, about half a minute each")
    there = testbed.find(options.on) if options.on else None
    bed = there or testbed.make("chaos", 3, ENGINES)
    try:
        if there is None:
            bed.up(Options(images=("test", "example")))
        run(bed, chosen, options.stop, found)
        if options.crowd:
            crowded(bed, options.crowd, found)
    finally:
        if there is None:
            bed.down()
    print(report.table(found.outcomes), report.calls(found.outcomes), report.misses(found.outcomes), sep="\n\n")
    if options.write or not options.only:
        DOCUMENT.write_text(
            report.document(
                DOCUMENT.read_text(), found.outcomes, found.crowd, _when({each.fault for each in found.outcomes})
            )
        )
    return 1 if any(made.misses for made in found.outcomes) else 0


def run(bed: Testbed, chosen: Sequence[Fault], stop: float, found: Found) -> None:
    """All chosen faults, each on all of its nodes; what cannot go on ends the run, and what was found is kept."""
    if not chosen:
        return
    with step("engines with live-restore"), ThreadPoolExecutor(3) as pool:
        list(pool.map(_live_restore, range(1, 4), [bed] * 3))
    with Scene(bed) as scene:
        before = census.settled(bed)
        for fault in chosen:
            for number in fault.roles:
                with step(f"{fault.name} on n{number}"):
                    try:
                        made = inject(scene, fault, number, before, stop=stop)
                    except (Failed, TimeoutError) as error:
                        say(f"the run ends here: {error}")
                        return
                found.add(made)
                if made.left:
                    before = census.settled(bed)


def crowded(bed: Testbed, seconds: float, found: Found) -> None:
    """Many at once, for so long, between two censuses."""
    crowd = Crowd(bed, SEED)
    before = census.settled(bed)
    with step(f"many at once, STACKPAD_SEED={SEED}"):
        crowd.run(seconds)
    left = census.differences(before, census.take(bed))
    until = time.monotonic() + ADDRESSES_REST
    while left and time.monotonic() < until:
        time.sleep(1)
        left = census.differences(before, census.take(bed))
    found.crowd = report.crowd(crowd, seconds, left)
    found.keep()
    say(found.crowd)


def _live_restore(number: int, bed: Testbed) -> None:
    node = bed.nodes[number - 1]
    file = node.root / "etc/docker/daemon.json"
    there = msgspec.json.decode(file.read_bytes()) if file.exists() else {}
    if not there.get("live-restore"):
        file.write_bytes(msgspec.json.encode({**there, "live-restore": True}))
        node.restart_engine()


def _when(found: Container[str]) -> str:
    date = datetime.datetime.now(datetime.UTC).date()
    kernel = re.sub(r"[^0-9.].*", "", platform.release())
    missing = [each.title for name, each in ORDERED.items() if name not in found]
    unrun = f" Not run this time: {'; '.join(missing)}." if missing else ""
    load = os.getloadavg()[2]
    where = f"{os.cpu_count()} cores shared with others (load {load:.0f}), kernel {kernel}, engines {ENGINES}"
    return f"Found {date}, {where}.{unrun}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=[*ORDERED, "none"], help="only this fault (can be given several times)"
    )
    parser.add_argument("--on", metavar="NAME", help="the testbed of this name, which stays up")
    parser.add_argument("--stop", type=float, default=20.0, help="seconds for which processes are stopped (default 20)")
    parser.add_argument("--crowd", type=float, default=120.0, help="seconds of many at once; 0 for none (default 120)")
    parser.add_argument("--write", action="store_true", help="write the document after --only, too")
    parser.add_argument("--list", action="store_true", help="print the faults there are")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
