"""Trees are made once, whoever asks for them at the same time."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.testbed import trees


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The releases that were made, in a cache of our own and without debootstrap."""
    seen: list[str] = []

    def make(release: str, path: Path) -> None:
        seen.append(release)
        path.mkdir(parents=True)
        time.sleep(0.05)
        (path / ".complete").touch()

    monkeypatch.setenv("STACKPAD_CACHE", str(tmp_path))
    monkeypatch.setattr(trees, "_make", make)
    monkeypatch.setattr(trees, "need", lambda *programs: None)
    return seen


def test_nodes_that_start_side_by_side_share_one(made: list[str]) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(trees.tree, ["forky"] * 4))
    assert made == ["forky"]
    assert len(set(paths)) == 1


def test_each_release_has_its_own(made: list[str]) -> None:
    assert trees.tree("trixie") != trees.tree("bookworm")
    assert made == ["trixie", "bookworm"]


def test_one_that_was_not_completed_is_made_again(made: list[str], tmp_path: Path) -> None:
    trees.tree("forky")
    (tmp_path / "trees" / "forky" / ".complete").unlink()
    with pytest.raises(FileExistsError):
        trees.tree("forky")
    assert made == ["forky", "forky"]
