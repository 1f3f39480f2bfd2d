"""When Caddy is told of a change of one route: tables of what is true when, and what Caddy is told when."""

from __future__ import annotations

import itertools

import pytest

from ingress.upstreams.pace import CALM, MOST, URGENT, Shown, step

A, B, AB, NOBODY = ("a:80",), ("b:80",), ("a:80", "b:80"), ()
HOLD = 5.0

Story = list[tuple[float, tuple[str, ...]]]
"""What is true, or told, from which time on."""


def played(story: Story, until: float, hold: float = HOLD) -> Story:
    """What Caddy is told when, if this is true from those times on; asked again exactly when asked to."""
    told: Story = []
    state: Shown | None = None
    events = [*story, (until, story[-1][1])]
    due: float | None = None
    for (at, wanted), (following, _) in itertools.pairwise(events):
        now: float | None = at
        while now is not None and now < following:
            before = state
            state, due = step(state, wanted, now, hold)
            if before is None or state.dials != before.dials:
                told.append((now, state.dials))
            assert due is None or due > now, "asked again for nothing"
            now = due
    return told


@pytest.mark.parametrize(
    ("story", "told"),
    [
        ([(0, A)], [(0, A)]),
        ([(0, NOBODY)], [(0, NOBODY)]),
        ([(0, NOBODY), (1, A)], [(0, NOBODY), (1, A)]),
        # Gone, and back before the time is over: nothing is written.
        ([(0, A), (100, NOBODY), (104, A)], [(0, A)]),
        ([(0, A), (100, NOBODY), (104, A), (108, NOBODY), (112, A)], [(0, A)]),
        # Gone for longer: told after that time, and at once when somebody is there.
        ([(0, A), (100, NOBODY), (107, A)], [(0, A), (105, NOBODY), (107, A)]),
        # Somebody else instead, and nobody Caddy knows is there: an eighth of what others wait.
        ([(0, A), (100, B), (100.1, A), (100.2, B)], [(0, A), (100, B), (100.125, A), (100.375, B)]),
        # More or fewer of those it knows: the first at once, the next after a second, two, four.
        ([(0, A), (100, AB)], [(0, A), (100, AB)]),
        ([(0, A), (100, AB), (100.1, B)], [(0, A), (100, AB), (101, B)]),
        ([(0, A), (100, AB), (100.1, B), (101.5, AB)], [(0, A), (100, AB), (101, B), (103, AB)]),
        # What is over before its turn is not told.
        ([(0, A), (100, AB), (100.1, A), (100.5, AB)], [(0, A), (100, AB)]),
    ],
)
def test_what_is_told_when(story: Story, told: Story) -> None:
    assert played(story, until=1000.0) == told


def test_without_a_hold_nobody_is_told_at_once() -> None:
    assert played([(0, A), (100, NOBODY)], 1000, hold=0) == [(0, A), (100, NOBODY)]


@pytest.mark.parametrize("period", [0.5, 1.0, 3.0, 8.0, 15.0, 30.0])
@pytest.mark.parametrize("hold", [0.0, HOLD])
@pytest.mark.parametrize("moves", [False, True], ids=["stays", "moves"])
def test_a_crash_loop_is_written_ever_more_seldom(period: float, hold: float, moves: bool) -> None:
    """For two hours, up and gone in turn, at the same address or at another one each time; how often it is written."""
    story: Story = []
    for number in range(int(7200 / period / 2)):
        story += [(2 * number * period, B if moves and number % 2 else A), ((2 * number + 1) * period, NOBODY)]
    told = played(story, until=7200.0, hold=hold)
    late = [at for at, _ in told if at > 600]
    assert len(late) <= 2 * 6600 / (MOST * URGENT if moves else MOST) + 2


def test_after_a_long_calm_it_is_as_new() -> None:
    story = [(0.0, A), *((100 + number / 2, AB if number % 2 else A) for number in range(100))]
    quiet = 200 + CALM
    told = played([*story, (quiet, A if story[-1][1] == AB else AB), (quiet + 0.1, story[-1][1])], quiet + 100)
    assert [round(at - quiet, 1) for at, _ in told[-2:]] == [0.0, 1.0]


def test_what_need_not_be_soon_is_looked_at_for_a_while() -> None:
    state, due = step(Shown(A, 0.0), AB, 100.0, HOLD, 30.0)
    assert (state.dials, due) == (A, 130.0)
    gone, due = step(state, NOBODY, 129.0, HOLD)
    assert (gone.dials, due) == (A, 134.0), "that nobody is there has a time of its own"
    back, due = step(gone, AB, 133.0, HOLD, 30.0)
    assert (back.dials, due) == (A, 163.0)
    same, due = step(back, A, 140.0, HOLD)
    assert (same.other, same.gone, due) == (None, None, None)
    assert step(back, AB, 163.0, HOLD, 30.0)[0].dials == AB
