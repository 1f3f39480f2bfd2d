"""What agents have written, read and summed up; the summing is pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec


class Beat(msgspec.Struct, rename={"since": "from"}):
    """A quarter of a second of one stream; see ``agent.py``."""

    since: float
    to: float
    ok: int
    gaps: list[tuple[float, float]]
    lost: list[float]
    why: dict[str, int]


@dataclass(frozen=True, slots=True)
class Loss:
    """What a stream lost in a window of time.

    ``lost`` counts packets, requests, questions or connections. ``gap`` is the longest time without any answer in
    seconds, and ``back`` how long after the fault's end the last such gap ended or the last of what was lost was sent,
    0 if before.
    """

    lost: int = 0
    gap: float = 0.0
    back: float = 0.0
    answered: int = 0
    why: Counter[str] = field(default_factory=Counter)

    def worse(self, other: Loss) -> Loss:
        """Of two streams of one kind: their losses together, the longer of their times."""
        return Loss(
            self.lost + other.lost,
            max(self.gap, other.gap),
            max(self.back, other.back),
            self.answered + other.answered,
            self.why + other.why,
        )


class Log:
    """The lines of one stream, read as they come."""

    def __init__(self, file: Path) -> None:
        self._file, self._read = file, 0
        self.beats: list[Beat] = []

    def refresh(self) -> None:
        """Read what is new; a line that is not there whole is read the next time."""
        if not self._file.exists():
            return
        with self._file.open("rb") as lines:
            lines.seek(self._read)
            whole, _, _ = lines.read().rpartition(b"\n")
        for line in whole.splitlines():
            self.beats.append(msgspec.convert(json.loads(line), Beat))
        self._read += len(whole) + bool(whole)

    def well_since(self, when: float) -> bool:
        """Whether there were answers after ``when``, and nothing sent after it was lost."""
        late = [beat for beat in self.beats[-40:] if beat.to > when]
        return bool(late) and not any(sent > when for beat in self.beats[-40:] for sent in beat.lost)


def gaps(beats: Iterable[Beat]) -> list[tuple[float, float]]:
    """All silences between answers, also from one process to its successor."""
    found, last = [], 0.0
    for beat in beats:
        found += beat.gaps
        if beat.ok:
            if last and not any(to == beat.since for _, to in beat.gaps):
                found.append((last, beat.since))
            last = beat.to
    return found


def loss(beats: Sequence[Beat], began: float, ended: float, until: float, least: float = 0.3) -> Loss:
    """What was lost of a stream from ``began`` to ``until``, the fault having ended at ``ended``.

    Silences below ``least`` seconds are the machine's own. One that has not ended is counted up to ``until``.
    """
    silences = [(since, to) for since, to in gaps(beats) if to > began and since < until and to - since >= least]
    last = max((beat.to for beat in beats if beat.ok and beat.to <= until), default=began)
    if until - last >= 2:
        silences.append((max(last, began), until))
    lost = [sent for beat in beats for sent in beat.lost if began <= sent <= until]
    return Loss(
        lost=len(lost),
        gap=max((to - since for since, to in silences), default=0.0),
        back=max([0.0, *(to - ended for _, to in silences), *(sent - ended for sent in lost)]),
        answered=sum(beat.ok for beat in beats if began <= beat.to <= until),
        why=sum((Counter(beat.why) for beat in beats if beat.lost and began <= beat.lost[-1] <= until), Counter()),
    )
