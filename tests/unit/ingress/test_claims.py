"""Claims outlive the process that made them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from ingress.claims import Claims
from ingress.routes import Claim
from stackpad.errors import Unavailable

CLAIM = Claim("acme/shop/production", 5.0, {"": "web", "/api": "api"})


def test_what_was_saved_is_there_for_the_next(tmp_path: Path) -> None:
    path = tmp_path / "state" / "claims.json"
    claims = Claims(path)
    claims.decide({"shop.example": CLAIM})
    assert claims.current == {"shop.example": CLAIM}
    assert not path.exists()
    claims.save()
    assert Claims(path).current == {"shop.example": CLAIM}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [file.name for file in path.parent.iterdir()] == ["claims.json"]


def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "claims.json"
    claims = Claims(path)
    claims.decide({"shop.example": CLAIM})
    claims.save()
    before = path.stat().st_ino
    claims.decide({"shop.example": CLAIM})
    claims.save()
    assert path.stat().st_ino == before
    claims.decide({})
    claims.save()
    assert Claims(path).current == {}


def test_a_disk_that_refuses_takes_no_decision_back(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    claims = Claims(tmp_path / "claims.json")
    claims._path = tmp_path / "file" / "claims.json"
    claims.decide({"shop.example": CLAIM})
    for _ in range(2):
        with pytest.raises(Unavailable, match="cannot be written"):
            claims.save()
    assert claims.current == {"shop.example": CLAIM}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": {"owner": 5}}', '{"a": 1}', "\xff"])
def test_a_damaged_file_is_told_and_not_taken_for_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "claims.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(Unavailable, match="repair it, or remove it"):
        Claims(path)
    assert path.exists()
