"""Whether a directory that is still seen is still there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ingress import mounts
from stackpad.errors import Unavailable


async def test_a_directory_that_was_removed_outside_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "LOOK", 0.001)
    made = tmp_path / "caddy"
    made.mkdir()
    held = os.open(made, os.O_PATH)
    seen = Path(f"/proc/self/fd/{held}")  # as a mount is: the directory itself, under another name
    try:
        assert not mounts.removed(seen)
        made.rmdir()
        made.mkdir()
        assert mounts.removed(seen)
        with pytest.raises(Unavailable, match="was removed outside of this container"):
            await mounts.watch(made, seen)
    finally:
        os.close(held)


def test_one_that_is_not_there_yet_is_not_removed(tmp_path: Path) -> None:
    assert not mounts.removed(tmp_path / "none")
    (tmp_path / "made").mkdir()
    assert not mounts.removed(tmp_path / "made")
