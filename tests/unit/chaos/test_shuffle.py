"""What becomes of frames in the middle of a wire: none is lost, some are late, some come twice."""

from __future__ import annotations

from collections import Counter

from tests.chaos.shuffle import WAITS, Shuffle

FRAMES = [number.to_bytes(4) for number in range(2000)]


def passed(seed: str) -> tuple[list[bytes], Shuffle]:
    shuffle, out = Shuffle(seed), []
    for number, frame in enumerate(FRAMES):
        now = number / 1000
        out += [late for _, late in shuffle.due(now)]
        out += [frame] if shuffle.take(frame, 0, now) else []
    return out + [late for _, late in shuffle.due(2.0 + WAITS[1])], shuffle


def test_no_frame_is_lost_some_are_overtaken_and_some_come_twice() -> None:
    out, shuffle = passed("1")
    assert set(out) == set(FRAMES)
    assert max(Counter(out).values()) == 2
    assert len(out) == len(FRAMES) + shuffle.twice
    assert shuffle.passed == len(FRAMES)
    assert 0 < shuffle.twice < shuffle.late < len(FRAMES) / 4
    assert out != sorted(out)
    assert shuffle.patience(3.0) is None


def test_a_seed_says_which() -> None:
    assert passed("1")[0] == passed("1")[0] != passed("2")[0]
