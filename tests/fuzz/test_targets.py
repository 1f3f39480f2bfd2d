"""The targets over their corpus, always, and over its mutations, of which there are more with ``STACKPAD_FUZZ``."""

from __future__ import annotations

import os
import zlib
from contextlib import chdir
from functools import partial
from pathlib import Path

import pytest

from tests.fuzz.corpus import HERE, seeds
from tests.fuzz.mutate import mutations
from tests.fuzz.sandbox import lines_of
from tests.fuzz.targets import TARGETS

TIMES = int(os.environ.get("STACKPAD_FUZZ") or 1)
"""How many times as many cases as in every run."""

ROUND = int(os.environ.get("STACKPAD_FUZZ_ROUND") or 0)
"""Another number makes other cases."""

CASES = {
    "labels": 10_000, "hosts": 10_000, "token": 6_000, "token-body": 8_000, "join": 6_000, "place": 6_000,
    "record": 6_000, "store": 5_000, "shown": 5_000, "dns": 9_000, "web-report": 8_000, "upstreams": 8_000,
    "container": 6_000, "view": 6_000, "call": 6_000, "disk": 4_000,
}  # fmt: skip

LINES, EACH = 40_000, 400
"""Lines of Python that an input may cost: so many, and so many for each of its bytes."""


def test_every_target_has_seeds_and_nobody_else_has() -> None:
    assert {folder.name for folder in HERE.iterdir()} == set(TARGETS) == set(CASES)
    assert all(len(data) <= 2048 for target in TARGETS for data in seeds(target).values()), "seeds are small"


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_holds_and_costs_what_its_length_is_worth(target: str) -> None:
    run = TARGETS[target]
    for name, data in seeds(target).items():
        run(data)
        # Whatever is quadratic shows when there is much of it.
        for grown in (data, data * 16, data[: len(data) // 2] + data[len(data) // 2 :] * 64):
            try:
                lines_of(partial(run, grown), LINES + EACH * len(grown))
            except Exception as error:
                raise AssertionError(f"seed {name}, {len(grown)} bytes") from error


@pytest.mark.parametrize("target", TARGETS)
def test_mutations_of_the_corpus(target: str, tmp_path: Path) -> None:
    run = TARGETS[target]
    before = len(os.listdir("/proc/self/fd"))
    with chdir(tmp_path):
        cases = mutations(list(seeds(target).values()), CASES[target] * TIMES, zlib.crc32(target.encode()) + ROUND)
        for number, data in enumerate(cases):
            try:
                run(data)
            except Exception as error:
                raise AssertionError(f"{target}, case {number}: {data!r}") from error
        assert not os.listdir(), "a reader has written somewhere"
    assert len(os.listdir("/proc/self/fd")) == before, "a file is left open"
