"""A file is replaced as a whole, or not at all."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from stackpad import files
from stackpad.errors import Unavailable


def test_the_new_one_is_there_alone_and_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "thing.json"
    path.write_text("old")
    files.replace(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_where_it_cannot_be_the_old_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "thing"
    path.write_text("old")
    (tmp_path / ".thing.new").mkdir()
    with pytest.raises(Unavailable, match=f"{path} cannot be written"):
        files.replace(path, b"new")
    assert path.read_text() == "old"
