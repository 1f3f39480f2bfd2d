"""Which proof is tried next: soon at first, owners in turn, and never too many at once."""

from __future__ import annotations

import itertools

import pytest

from ingress.proving.queue import AT_ONCE, FIRST, FOR_ONE, LAST, Queue, Target


def target(owner: int | str, domain: int | str = 0) -> Target:
    return Target(f"d{domain:05}.example" if isinstance(domain, int) else domain, f"o{owner}")


def taken(queue: Queue, now: float) -> list[Target]:
    """All that can be begun now."""
    found: list[Target] = []
    while (one := queue.take(now)) is not None:
        found.append(one)
    return found


def test_the_first_attempt_is_at_once_and_later_ones_are_rarer_and_rarer() -> None:
    queue, one = Queue(), target(1)
    queue.want([one], 0.0)
    times, now = [], 0.0
    for _ in range(14):
        due = queue.next_due()
        assert due is not None
        assert queue.take(due - 0.001) is None
        now = due
        times.append(now)
        assert taken(queue, now) == [one]
        assert queue.take(now + 10_000) is None, "it is under way"
        queue.done(one, now)
    waits = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert times[0] == 0.0
    assert waits[:4] == [FIRST, FIRST * 2, FIRST * 4, FIRST * 8]
    assert waits[-1] == LAST


def test_one_with_ten_thousand_domains_keeps_nobody_waiting() -> None:
    queue = Queue()
    many = [target("greedy", n) for n in range(10_000)]
    queue.want(many, 0.0)
    begun = taken(queue, 0.0)
    assert len(begun) == FOR_ONE
    few = [target(n) for n in range(5)]
    queue.want([*many, *few], 1.0)
    assert set(taken(queue, 1.0)) == set(few), "at once, although the others came first"
    assert queue.take(1.0) is None
    queue.done(begun[0], 2.0)
    (following,) = taken(queue, 2.0)
    assert following.owner == "ogreedy"
    assert following not in begun


def test_no_more_than_so_many_at_once_and_owners_take_turns() -> None:
    queue = Queue()
    everything = [target(owner, n) for owner in range(AT_ONCE * 2) for n in range(3)]
    queue.want(everything, 0.0)
    seen: list[Target] = []
    under_way = taken(queue, 0.0)
    assert len(under_way) == AT_ONCE
    assert len({one.owner for one in under_way}) == AT_ONCE, "one each before anybody's second"
    while under_way:
        seen.append(one := under_way.pop(0))
        queue.done(one, 0.0)
        under_way += taken(queue, 0.0)
        assert len(under_way) <= AT_ONCE
    assert sorted(seen, key=str) == sorted(everything, key=str)
    assert len({one.owner for one in seen[: AT_ONCE * 2]}) == AT_ONCE * 2


def test_what_is_not_wanted_any_more_is_not_tried_again() -> None:
    queue, one, two = Queue(), target(1), target(2)
    queue.want([one, two], 0.0)
    queue.want([two], 0.0)
    assert taken(queue, 0.0) == [two]
    queue.want([], 0.0)
    queue.done(two, 0.0)
    assert queue.next_due() is None
    assert queue.take(10_000.0) is None


def test_what_comes_back_begins_anew_and_only_once() -> None:
    queue, one = Queue(), target(1)
    queue.want([one], 0.0)
    assert taken(queue, 0.0) == [one]
    queue.want([], 0.0)
    queue.want([one], 1.0)
    assert taken(queue, 1.0) == [one], "while the old attempt is still under way"
    queue.done(one, 2.0)
    queue.done(one, 2.0)
    assert taken(queue, 2.0 + FIRST) == [one]


@pytest.mark.parametrize("dns_only", [False, True])
def test_an_attempt_whose_terms_have_changed_is_another(dns_only: bool) -> None:
    queue = Queue()
    queue.want([Target("a.example", "o", not dns_only)], 0.0)
    queue.want([Target("a.example", "o", dns_only)], 0.0)
    assert taken(queue, 0.0) == [Target("a.example", "o", dns_only)]
