"""A few faults of ``tests/chaos``, chosen by chance, under traffic; ``STACKPAD_SEED`` repeats a choice.

What may be lost is asserted, and that all becomes well without help. How long that takes is what ``make chaos`` measures.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from tests.chaos import census, limits, processes, wires
from tests.chaos.census import settled
from tests.chaos.fault import FAULTS
from tests.chaos.inject import inject
from tests.chaos.scene import Scene
from tests.testbed.shell import say
from tests.testbed.testbed import Testbed

SEED = os.environ.get("STACKPAD_SEED") or str(random.SystemRandom().randrange(1_000_000))
MODULES = (processes, wires, limits)

SHORT = ("plugin-killed", "tunnel-killed", "store-killed", "store-wiped", "ranges-deleted", "bridge-table-deleted",
         "deaf", "mute", "routes-deleted", "peer-removed", "bridge-down", "address-deleted", "rule-deleted",
         "shuffled")  # fmt: skip
"""Faults that need neither Caddy nor a setting of the engine's, and are over soon."""

CHOSEN = sorted(random.Random(SEED).sample(SHORT, 3))  # noqa: S311 - a choice of tests


@pytest.fixture(scope="module")
def under_traffic(fleet: Testbed) -> Iterator[tuple[Scene, census.Census]]:
    with Scene(fleet, web=False, databases=False) as scene:
        yield scene, settled(scene.bed)


@pytest.mark.parametrize("name", CHOSEN)
def test_what_a_fault_may_cost(under_traffic: tuple[Scene, census.Census], name: str) -> None:
    scene, before = under_traffic
    say(f"STACKPAD_SEED={SEED}")
    number = random.Random(f"{SEED} {name}").choice(FAULTS[name].roles)  # noqa: S311 - a choice of tests
    made = inject(scene, FAULTS[name], number, before, timed=False)
    assert made.misses == [], f"STACKPAD_SEED={SEED}, {made.node}: {made.why}"
