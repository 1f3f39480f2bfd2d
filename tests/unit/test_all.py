"""``make test`` runs every directory of tests."""

from __future__ import annotations

from pathlib import Path

from tests.__main__ import BESIDE, ENGINES, FIRST

HERE = Path(__file__).parents[1]


def test_no_directory_is_left_out() -> None:
    there = {file.relative_to(HERE).parts[0] for file in HERE.rglob("test_*.py")}
    assert there == {*FIRST, *BESIDE, *ENGINES}
