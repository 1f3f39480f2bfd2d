"""A file is replaced as a whole, or not at all."""

from __future__ import annotations

import itertools
import os
import stat
from concurrent.futures import ThreadPoolExecutor
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
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(Unavailable, match=f"{path} cannot be written"):
        files.replace(path, b"new")
    assert [file.name for file in tmp_path.rglob("*")] == ["thing", "old"]


def test_writers_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    path, values = tmp_path / "thing", [bytes([number]) * 100_000 for number in range(20)]
    with ThreadPoolExecutor(len(values)) as pool:
        for done in [pool.submit(files.replace, path, value) for value in values]:
            done.result()
    assert path.read_bytes() in values
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["link", "left"])
def test_what_is_in_the_way_is_neither_followed_nor_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A link to somebody else's file, or what a writer of the same number left open to all when it was killed."""
    path, other = tmp_path / "thing", tmp_path / "other"
    other.write_text("somebody else's")
    monkeypatch.setattr(files, "_numbers", itertools.count())
    fresh = tmp_path / f".thing.{os.getpid()}-0.new"
    if kind == "link":
        fresh.symlink_to(other)
    else:
        fresh.write_text("half")
        fresh.chmod(0o666)
    files.replace(path, b"new")
    assert path.read_bytes() == b"new"
    assert not path.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert other.read_text() == "somebody else's"
