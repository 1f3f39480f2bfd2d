"""One fault, from before it to when all is well again, and what it has cost."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass, field

from tests.chaos import census
from tests.chaos.census import Census
from tests.chaos.fault import Fault, Goal, Place
from tests.chaos.record import Loss
from tests.chaos.scene import COLUMNS, Scene, Stream
from tests.testbed import images
from tests.testbed.node import PLUGIN
from tests.testbed.shell import Failed, say

LATE = 4.5
"""Seconds until an agent has said of the last request that it was lost."""

GIVE_UP = 40.0
"""Seconds after which what has not become well is helped."""

DAILY = "daily"


@dataclass(slots=True)
class Outcome:
    """What a fault has cost."""

    fault: str
    title: str
    node: str
    number: int
    streams: dict[str, Loss] = field(default_factory=dict)
    """By column, of the streams that pass the node."""

    others: Loss = field(default_factory=Loss)
    """Of the streams that do not."""

    converged: float | None = None
    """Seconds from the fault's end until every stream and the census were well; None if help was needed."""

    traffic: float | None = None
    """The same for the streams alone, to a hundredth."""

    left: list[str] = field(default_factory=list)
    """What the census still found different at the end."""

    calls: dict[str, float] = field(default_factory=dict)
    """Seconds that Docker's commands took meanwhile; negative if one failed."""

    refused: dict[str, str] = field(default_factory=dict)
    """Those of them that were refused as they must be, with what was said."""

    misses: list[str] = field(default_factory=list)
    why: dict[str, int] = field(default_factory=dict)


def inject(scene: Scene, fault: Fault, number: int, before: Census, *, stop: float = 20.0, timed: bool = True) -> Outcome:
    """Inject a fault at a node, see how things become well again, and judge; ``timed`` has durations judged, too."""
    place = Place(scene, number, stop)
    with fault.prepare(place):
        if fault.prepared:
            before = census.settled(scene.bed)
        return _injected(scene, fault, place, before, timed=timed)


def _injected(scene: Scene, fault: Fault, place: Place, before: Census, *, timed: bool) -> Outcome:
    number = place.number
    made = Outcome(fault.name, fault.title, place.node.name, number)
    broken: list[str] = []
    began = time.monotonic()
    try:
        with fault.inject(place):
            if fault.daily:
                _daily(place)
            time.sleep(max(0.0, began + (place.stop if fault.hold is None else fault.hold) - time.monotonic()))
    except (Failed, OSError, LookupError, StopIteration, subprocess.SubprocessError) as error:
        broken.append(f"not injected as meant: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    ended = time.monotonic()
    made.calls, made.refused = place.calls, place.refused
    unwell = _converge(scene, made, before, ended)
    time.sleep(LATE)
    until = time.monotonic()
    losses = scene.losses(began, ended, until)
    if made.converged is not None:
        made.traffic = max(lost.back for lost in losses.values())
        made.converged = max(made.converged, made.traffic)
    for stream, lost in losses.items():
        if stream.touches(number):
            made.streams[stream.column] = made.streams.get(stream.column, Loss()).worse(lost)
        elif stream.kind != "dns":
            made.others = made.others.worse(lost)
        for word, count in lost.why.items():
            made.why[f"{stream.name}: {word}"] = count
    if unwell:
        say(f"{made.fault}: helping, for {unwell}")
        _help(scene, number)
    made.misses = [*broken, *judge(made, fault.goal, losses, timed=timed)]
    say(f"{fault.name} on {made.node}: {'; '.join(made.misses) or 'met'}")
    return made


def judge(made: Outcome, goal: Goal, losses: dict[Stream, Loss], *, timed: bool = True) -> list[str]:
    """What was missed of the goal; questions for names count for convergence only."""
    missed: list[str] = []
    for column in COLUMNS:
        lost = made.streams.get(column)
        kind, _, way = column.partition(" ")
        if lost is None or kind == "dns":
            continue
        if way in goal.still and lost.lost:
            missed.append(f"{column}: {lost.lost} lost")
        if way == "across" and goal.across is not None:
            if goal.across == 0.0 and lost.lost:
                missed.append(f"{column}: {lost.lost} lost")
            elif timed and lost.gap > max(goal.across, 1.0):
                missed.append(f"{column}: {lost.gap:.1f} s without answers")
    if goal.others:
        bad = {
            each.name: lost
            for each, lost in losses.items()
            if not each.touches(made.number) and lost.lost and each.kind != "dns"
        }
        missed += [f"{name}, which does not pass the node: {lost.lost} lost" for name, lost in bad.items()]
    if made.converged is None:
        missed.append(f"not well after {GIVE_UP:.0f} s without help")
    elif timed and made.converged > goal.converge:
        missed.append(f"well again after {made.converged:.1f} s")
    if made.left:
        missed.append(f"left {', '.join(made.left[:3])}{f' and {len(made.left) - 3} more' if len(made.left) > 3 else ''}")
    missed += [f"{call} {'failed' if took < 0 else f'took {took:.1f} s'}" for call, took in made.calls.items()
               if took < 0 or (timed and took > 10)]  # fmt: skip
    return missed


def _converge(scene: Scene, made: Outcome, before: Census, ended: float) -> list[str]:
    """Wait until all streams are well and the census is as before; returns what is not in time."""
    told: list[str] = []
    while True:
        now = time.monotonic()
        bad = scene.unwell(now - 1.0) if now - 1.0 >= ended else ["too early to tell"]
        if not bad:
            try:
                left = census.differences(before, census.take(scene.bed))
            except Failed as error:
                left = [str(error).splitlines()[0]]
            bad = left[:5]
            made.left = left
            if not left:
                made.converged = max(0.0, now - 1.0 - ended)
                return []
        if now - ended > 2.0 and bad != told:
            say(f"{made.fault}: {now - ended:.1f} s after its end not well: {', '.join(bad)}")
            told = bad
        if now - ended > GIVE_UP:
            return bad
        time.sleep(0.2)


def _help(scene: Scene, number: int) -> None:
    """What an operator would do at last: the plugin off and on, the engine anew, the containers anew."""
    bench = scene.bench[number]
    bench.try_docker("plugin", "disable", "--force", PLUGIN)
    bench.try_docker("plugin", "enable", PLUGIN)
    try:
        scene.wait_well(20)
    except TimeoutError:
        bench.node.restart_engine()
        running = bench.docker("ps", "--quiet").split()
        bench.docker("restart", "--time", "1", *running)
        scene.wait_well(90)


def _daily(place: Place) -> None:
    """Make a network, run a container on it, and remove both."""
    place.ask("network create", "network", "create", "--driver", "stackpad", "--ipam-driver", "stackpad", DAILY)
    place.ask("run", "run", "--detach", "--name", DAILY, "--network", DAILY, images.TEST)
    place.ask("rm", "rm", "--force", DAILY)
    place.ask("network rm", "network", "rm", DAILY)
