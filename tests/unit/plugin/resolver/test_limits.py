"""What one asker may take."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.resolver.limits import REMEMBERED, Limit, Pace, Shares


def test_at_a_time() -> None:
    limit = Limit(3, 2)
    with contextlib.ExitStack() as stack:
        assert [stack.enter_context(limit.one("a")) for _ in range(3)] == [True, True, False]
        assert [stack.enter_context(limit.one("b")) for _ in range(2)] == [True, False]
        assert not limit.free("c")
    assert (limit.total, dict(limit.now)) == (0, {})
    with limit.one("a") as admitted:
        assert admitted


def test_those_who_belong_together_leave_half_to_others() -> None:
    limit = Limit(8, 8, 1)
    with contextlib.ExitStack() as stack:
        assert [stack.enter_context(limit.one(f"a{n}", "a")) for n in range(5)] == [True] * 4 + [False]
        assert stack.enter_context(limit.one("b", "b"))
        assert not limit.free("c", "b")
        assert limit.free("c", "c")
    assert (limit.total, dict(limit.now), dict(limit.together)) == (0, {}, {})


def test_paces_of_one_and_of_all_together() -> None:
    clock = Clock()
    shares = Shares(Pace(10, 20, clock), Pace(10, 30, clock), lambda who: who[0])
    shares.spend("a1", 25)
    assert shares.wait("a1") == pytest.approx(0.5)
    assert shares.wait("a2") == 0
    shares.spend("a2", 15)
    assert shares.wait("a3") == pytest.approx(1.0)
    assert shares.wait("b1") == 0


def test_asking_leaves_nothing_behind() -> None:
    limit = Limit(1, 1)
    for number in range(100):
        assert limit.free(str(number))
    assert not limit.now


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_pace() -> None:
    clock = Clock()
    pace = Pace(10, 20, clock)
    pace.spend("a", 25)
    assert pace.wait("a") == pytest.approx(0.5)
    assert pace.wait("b") == 0
    clock.now += 0.6
    assert pace.wait("a") == 0
    clock.now += 1000
    pace.spend("a", 20)  # no more is saved than the burst
    assert pace.wait("a") == 0
    pace.spend("a", 1)
    assert pace.wait("a") == pytest.approx(0.1)


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(1, 8)), max_size=200))
def test_nobody_gets_more_than_burst_and_rate(asked: list[tuple[float, int]]) -> None:
    clock = Clock()
    pace, spent, began = Pace(10, 20, clock), 0, clock.now
    for after, cost in asked:
        clock.now += after
        if not pace.wait("a"):
            pace.spend("a", cost)
            spent += cost
    assert spent <= 20 + (clock.now - began) * 10 + 8 + 1e-6


def test_the_silent_are_forgotten() -> None:
    clock = Clock()
    pace = Pace(10, 20, clock)
    pace.spend("first", 100)
    for number in range(REMEMBERED):
        pace.spend(str(number), 100)
    assert pace.wait("first") == 0
    assert pace.wait("0") > 0
