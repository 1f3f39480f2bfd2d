"""How long is waited between things that are done: a table of when each was done."""

from __future__ import annotations

import pytest

from ingress.following.bursts import Burst


@pytest.mark.parametrize(
    ("done", "waits"),
    [
        # Two containers' starts at once: nobody waits. The next waits until the first of four is four gaps old.
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
        ([0.0, 0.01, 0.02, 0.03], [0.0, 0.0, 0.0, 0.37]),
        # Now and then: nobody ever waits.
        ([0.0, 1.0, 2.0, 3.0, 4.0], [0.0] * 5),
        # Without an end: one in a gap.
        ([0.0, 0.0, 0.0, 0.0, 0.4, 0.4], [0.0, 0.0, 0.0, 0.4, 0.0, 0.0]),
    ],
)
def test_some_at_once_and_then_one_in_a_gap(done: list[float], waits: list[float]) -> None:
    burst = Burst(4, 0.1)
    assert [burst.wait(at) for at in done] == pytest.approx(waits)


def test_as_fast_as_it_may() -> None:
    """In ten seconds, a hundred, and four at the beginning for nothing."""
    burst, now, done = Burst(4, 0.1), 0.0, 0
    while now < 10.0:
        done += 1
        now += burst.wait(now)
    assert 100 <= done <= 104
