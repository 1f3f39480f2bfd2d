"""The ledger and the secret outlive the process that made them."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from ingress.owners.claims import Claims
from ingress.owners.ledger import Claim, How, Ledger, Proof, Released, Ruling
from stackpad.errors import Unavailable

CLAIM = Claim("acme/shop/production", 5.0, {"": "web", "/api": "api"}, Proof(6.0, How.DNS), ("", "n2"))
LEDGER = Ledger(
    {
        "shop.example": CLAIM,
        "new.example": Claim("acme/x/production", 7.0, {"": "web"}),
        "away.example": Claim("acme/x/production", 7.0, {}, Proof(6.0, How.DNS), (), 9.0),
        "left.example": Claim("acme/x/production", 7.0, {"": "web"}, networks={"": "x"}, left={"": 9.0}),
    },
    {"no.example": Ruling(False, "", 1.0), "yes.example": Ruling(True, "acme/x/production", 2.0)},
    {"old.example": Released("acme/y/production", 3.0), "hand.example": Released("acme/y/production", 3.0, by_hand=True)},
)


def test_what_was_saved_is_there_for_the_next(tmp_path: Path) -> None:
    path = tmp_path / "state" / "claims.json"
    claims = Claims(path)
    claims.decide(LEDGER)
    assert claims.current == LEDGER
    assert not path.exists()
    claims.save()
    assert Claims(path).current == LEDGER
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert sorted(file.name for file in path.parent.iterdir()) == ["claims.json", "proof.key"]


def test_the_secret_stays_the_same_and_is_nobodys_to_read(tmp_path: Path) -> None:
    path = tmp_path / "claims.json"
    first = Claims(path)
    assert stat.S_IMODE((tmp_path / "proof.key").stat().st_mode) == 0o600
    assert Claims(path).secret == first.secret
    assert Claims(tmp_path / "elsewhere" / "claims.json").secret != first.secret
    (tmp_path / "proof.key").unlink()
    assert Claims(path).secret != first.secret


@pytest.mark.parametrize("text", ["", "00", "zz" * 32, "\xff"])
def test_a_damaged_secret_is_told_and_not_made_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "proof.key").write_bytes(text.encode("latin-1"))
    with pytest.raises(Unavailable, match=r"restore it from a copy, or remove it"):
        Claims(tmp_path / "claims.json")


def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "claims.json"
    claims = Claims(path)
    claims.decide(LEDGER)
    claims.save()
    before = path.stat().st_ino
    claims.decide(Ledger(dict(LEDGER.claims), dict(LEDGER.rulings), dict(LEDGER.released)))
    claims.save()
    assert path.stat().st_ino == before
    claims.decide(Ledger())
    claims.save()
    assert Claims(path).current == Ledger()


def test_a_disk_that_refuses_takes_no_decision_back(tmp_path: Path) -> None:
    claims = Claims(tmp_path / "file" / "claims.json")
    (tmp_path / "file" / "proof.key").unlink()
    (tmp_path / "file").rmdir()
    (tmp_path / "file").write_text("")
    claims._secret_saved = False
    claims.decide(LEDGER)
    for _ in range(2):
        with pytest.raises(Unavailable, match="cannot be written"):
            claims.save()
    assert claims.current == LEDGER
    (tmp_path / "file").unlink()
    claims.save()
    again = Claims(tmp_path / "file" / "claims.json")
    assert (again.current, again.secret) == (LEDGER, claims.secret)


def test_the_first_layout_is_read_and_what_it_served_is_served_on(tmp_path: Path) -> None:
    path = tmp_path / "claims.json"
    path.write_text('{"shop.example":{"owner":"acme/shop/production","since":5.0,"paths":{"":"web"}}}')
    (claim,) = Claims(path).current.claims.values()
    assert claim == Claim("acme/shop/production", 5.0, {"": "web"}, Proof(5.0, How.OPERATOR))


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", '{"a": {"owner": 5}}', '{"a": 1}', "\xff", '{"schema": 3}', '{"schema": "2"}', '{"schema": 2}',
        '{"schema": 2, "claims": {}, "rulings": {}, "released": {}, "more": 1}',
        '{"schema": 2, "claims": {}, "rulings": {"a.b": {"allowed": 1}}, "released": {}}',
        '{"schema": 2, "claims": {"a.b": {"owner": "x", "since": 1, "proof": {"how": "magic"}}}, "rulings": {}}',
    ],
)  # fmt: skip
def test_a_damaged_file_is_told_and_not_taken_for_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "claims.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(Unavailable, match="repair it, or remove it"):
        Claims(path)
    assert path.read_bytes() == text.encode("latin-1")


def test_the_file_says_its_layout(tmp_path: Path) -> None:
    claims = Claims(tmp_path / "claims.json")
    claims.decide(LEDGER)
    claims.save()
    written = json.loads((tmp_path / "claims.json").read_bytes())
    assert written["schema"] == 2
    assert written["claims"]["shop.example"] == {
        "owner": "acme/shop/production",
        "since": 5.0,
        "paths": {"": "web", "/api": "api"},
        "proof": {"at": 6.0, "how": "dns"},
        "nodes": ["", "n2"],
        "gone": None,
        "networks": {},
    }
    assert written["claims"]["left.example"]["left"] == {"": 9.0}
