"""``docs/resilience.md`` from what a run has found; pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.chaos.crowd import Crowd
from tests.chaos.fault import FAULTS
from tests.chaos.inject import Outcome
from tests.chaos.record import Loss
from tests.chaos.scene import COLUMNS

GLANCE = 0.3
"""Seconds of silence below which a table shows none."""


MANY = """\
Containers start, stop, connect and disconnect at once on all nodes. Every third of a second the store is read whole, at
one revision: no address may have two owners there, and no ranges may overlap. Afterwards the plugin's state, the store,
the rules and the links must say on every node what Docker says, and when all is removed a census must be as before."""


def cell(lost: Loss | None) -> str:
    """Losses and the longest silence: ``0``, ``12``, ``12 / 0.8 s``."""
    if lost is None:
        return ""
    return f"{lost.lost} / {lost.gap:.1f} s" if lost.gap >= GLANCE else str(lost.lost)


def table(outcomes: Iterable[Outcome]) -> str:
    """A row for each fault."""
    heads = ["fault", "node", *COLUMNS, "others", "traffic well", "all well", "goals"]
    rows = [heads, ["---"] * len(heads)]
    for made in outcomes:
        cells = [cell(made.streams.get(column)) for column in COLUMNS]
        times = ["helped" if after is None else f"{after:.1f} s" for after in (made.traffic, made.converged)]
        rows.append(
            [
                made.title,
                made.node,
                *cells,
                cell(made.others),
                *times,
                f"{len(made.misses)} missed" if made.misses else "met",
            ]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def misses(outcomes: Iterable[Outcome]) -> str:
    """What was missed, by fault, with what is known of its cause."""
    lines: list[str] = []
    for made in outcomes:
        if made.misses:
            note = FAULTS[made.fault].note
            lines.append(
                f"- **{made.title}** on {made.node}{f' ({note})' if note else ''}: {'; '.join(made.misses[:12])}."
            )
            most = sorted(made.why.items(), key=lambda item: -item[1])[:4]
            if most:
                lines.append(f"  What was lost, most first: {', '.join(f'{word} ({count})' for word, count in most)}.")
    return "\n".join(lines) or "None."


def calls(outcomes: Iterable[Outcome]) -> str:
    """How long Docker's commands took meanwhile."""
    chosen = [made for made in outcomes if made.calls]
    if not chosen:
        return ""
    heads = ["meanwhile", *chosen[0].calls]
    rows = [heads, ["---"] * len(heads)]
    for made in chosen:
        took = {call: "failed" if seconds < 0 else f"{seconds:.1f} s" for call, seconds in made.calls.items()}
        cells = (f"{'refused, ' if call in made.refused else ''}{text}" for call, text in took.items())
        rows.append([f"{made.title}, {made.node}", *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def crowd(made: Crowd, seconds: float, left: Sequence[str]) -> str:
    """What many at once have come to."""
    each = ", ".join(f"{count} {what}" for what, count in sorted(made.calls.items()))
    wrong = [*made.wrong, *(f"left: {line}" for line in left)]
    said = (
        f"For {seconds:.0f} s, {made.workers} workers on each of three nodes made {made.calls.total()} calls ({each}) in "
        f"{made.environments} environments, {made.refused.total()} of which Docker refused. The slowest took "
        f"{made.slowest:.1f} s. The store was read {made.seen} times meanwhile."
    )
    faults = "; ".join(f"{count} times {what}" for what, count in sorted(made.faults.items()))
    lines = [said, "", f"Faults meanwhile: {faults or 'none'}.", "", f"Wrong: {'; '.join(wrong[:12]) or 'nothing'}."]
    if made.refused:
        lines += ["", "Refused:", "", *(f"- {count} times: {text}" for text, count in made.refused.most_common(8))]
    return "\n".join(lines)


def document(head: str, outcomes: Sequence[Outcome], many: str, when: str) -> str:
    """``head`` up to its mark, then what was found."""
    mark = "<!-- found -->"
    kept = head.partition(mark)[0]
    parts = [table(outcomes), calls(outcomes), "## Missed", misses(outcomes)]
    parts += ["## Many at once", MANY, many] if many else []
    parts.append(when)
    return kept + mark + "\n\n" + "\n\n".join(part for part in parts if part) + "\n"
