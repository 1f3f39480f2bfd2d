"""When Caddy is told of a change of one route, so that a service which comes and goes costs the others little; pure.

Every write to Caddy costs every visitor of every service something. A route that changes waits the longer for its next
change the more often it has changed lately. What its visitors wait for, that somebody is there again or elsewhere, waits
the least; what can wait, because Caddy finds the living among those it knows by itself, waits in full; and that nobody is
left waits at least as long as a restart takes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

FIRST, MOST = 1.0, 60.0
"""Least and most seconds between two changes of a route that can wait, once it has changed."""

URGENT = 1 / 8
"""The part of it that a change waits which visitors wait for."""

CALM = 600.0
"""Seconds without a change after which a route is like one that never changed."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What Caddy has been told of a route: ``since`` when, and what can wait does so for ``pause`` seconds from then.

    ``gone`` is since when nobody of the service is there, ``other`` since when something else is wanted that has the time
    to be looked at for a while. Times are seconds of one clock that never goes back.
    """

    dials: tuple[str, ...]
    since: float
    pause: float = 0.0
    gone: float | None = None
    other: float | None = None


def step(
    before: Shown | None, wanted: tuple[str, ...], now: float, hold: float, look: float = 0.0
) -> tuple[Shown, float | None]:
    """What to tell Caddy at ``now`` where ``wanted`` is true, and when to ask again, if that is not the whole truth.

    A route whose last container went away stays for ``hold`` seconds as it was, and one whose change is not needed until
    it has been wanted for ``look`` seconds, for that long.
    """
    if before is None:
        return Shown(wanted, now), None
    if wanted == before.dials:
        return (before if before.gone is before.other is None else replace(before, gone=None, other=None)), None
    gone = other = None
    if not wanted:
        gone = now if before.gone is None else before.gone
    elif look:
        other = now if before.other is None else before.other
    urgent = bool(wanted) and not set(wanted) & set(before.dials)
    pause = before.pause * URGENT if urgent else before.pause
    due = max(before.since + pause, gone + hold if gone is not None else now, other + look if other is not None else now)
    if now < due:
        return replace(before, gone=gone, other=other), due
    calm = now - before.since >= CALM or not before.pause
    return Shown(wanted, now, FIRST if calm else min(before.pause * 2, MOST), gone), None
