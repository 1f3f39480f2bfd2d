"""The document of measurements: each part is written into its own place."""

from __future__ import annotations

import pytest

from tests.bench.__main__ import DOCUMENT, PARTS, placed
from tests.bench.measure import percentile


def test_a_part_is_replaced_and_nothing_else() -> None:
    before = "a\n<!-- x -->\nold\n<!-- end of x -->\nb\n<!-- y -->\n<!-- end of y -->\n"
    after = placed(before, "x", "new")
    assert after == before.replace("old", "new")
    assert placed(after, "y", "more").count("new") == 1


def test_the_document_has_a_place_for_each_part() -> None:
    for name in PARTS:
        assert "here it is" in placed(DOCUMENT.read_text(), name, "here it is")
    with pytest.raises(ValueError, match="no place for nothing"):
        placed(DOCUMENT.read_text(), "nothing", "")


@pytest.mark.parametrize(("part", "value"), [(0.5, 2.0), (0.99, 4.0), (0.25, 1.0), (1.0, 4.0)])
def test_percentiles_are_values_that_were_measured(part: float, value: float) -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], part) == value
