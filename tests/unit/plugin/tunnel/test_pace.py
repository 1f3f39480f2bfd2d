"""How often the tunnel is looked at."""

from __future__ import annotations

import pytest

from plugin.tunnel.pace import Pace


@pytest.mark.parametrize(
    ("costs", "pauses"),
    [
        ([0.001] * 4, [1.0] * 4),
        ([0.01] * 4, [1.0, 1.0, 5.0, 5.0]),
        ([0.5] * 4, [1.0, 1.0, 30.0, 30.0]),
        ([0.001, 0.5, 0.001, 0.5, 0.5], [1.0] * 5),
        ([0.01, 0.01, 0.01, 0.5, 0.02, 0.02], [1.0, 1.0, 5.0, 5.0, 5.0, 10.0]),
    ],
    ids=["cheap", "dear", "too dear", "dear beside other work", "one of them dear"],
)
def test_who_is_dear_looks_less_often(costs: list[float], pauses: list[float]) -> None:
    pace = Pace(1.0, 30.0, 0.002)
    assert [pace.after(cost) for cost in costs] == pytest.approx(pauses)
