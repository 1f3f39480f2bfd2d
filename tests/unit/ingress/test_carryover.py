"""The state of an ingress that had none of its own directory: moved whole, never over another, never lost."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from ingress import carryover
from ingress.carryover import NAMES, carry, found
from ingress.owners.claims import Claims
from stackpad import files
from stackpad.errors import Unavailable

LAYOUTS = Path(__file__).parents[2] / "golden" / "layouts"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Where the first ingress kept who owns what, among the plugin's files."""
    made = tmp_path / "stackpad"
    made.mkdir(mode=0o700)
    shutil.copy(LAYOUTS / "first-ingress" / "claims.json", made)
    (made / "proof.key").write_text("5a" * 32)
    (made / "net.db").write_text("the plugin's")
    return made


def test_who_owns_what_and_the_secret_are_the_same_afterwards(old: Path) -> None:
    before = Claims(old / "claims.json")
    said = carry(old, old / "ingress")
    after = Claims(old / "ingress" / "claims.json")
    assert (after.current, after.secret) == (before.current, bytes.fromhex("5a" * 32))
    assert len(after.current.claims) == 2
    assert said == [f"{old / name} is {old / 'ingress' / name} now" for name in ("proof.key", "claims.json")]
    assert sorted(path.name for path in old.iterdir()) == ["ingress", "net.db"]
    for path, mode in (
        (old / "ingress", 0o700),
        (old / "ingress/claims.json", 0o600),
        (old / "ingress/proof.key", 0o600),
    ):
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert carry(old, old / "ingress") == []


def test_every_file_of_an_ingress_is_moved(old: Path) -> None:
    for name in NAMES:
        (old / name).write_text(name)
    carry(old, old / "ingress")
    assert {path.name: path.read_text() for path in (old / "ingress").iterdir()} == {name: name for name in NAMES}


def test_what_is_in_use_is_not_written_over(old: Path) -> None:
    """An older ingress was started once more, and has begun anew: nobody but a person can tell what is to hold."""
    (old / "ingress").mkdir()
    (old / "ingress" / "claims.json").write_text("in use")
    said = carry(old, old / "ingress")
    assert (old / "ingress" / "claims.json").read_text() == "in use"
    assert (old / "claims.json").exists()
    assert any(f"{old / 'claims.json'} is left as it is, and is not used" in one for one in said)


@pytest.mark.parametrize("way", ["link", "linked directory", "hard link", "link the other way"])
def test_one_file_by_two_names_is_not_removed(old: Path, way: str) -> None:
    """An operator who wanted both an older and a newer ingress to find it."""
    new, before = old / "ingress", (old / "claims.json").read_bytes()
    if way == "linked directory":
        new.symlink_to(".")
    else:
        new.mkdir()
        if way == "link":
            (new / "claims.json").symlink_to("../claims.json")
        elif way == "hard link":
            (new / "claims.json").hardlink_to(old / "claims.json")
        else:
            (old / "claims.json").rename(new / "claims.json")
            (old / "claims.json").symlink_to("ingress/claims.json")
    said = carry(old, new)
    assert (old / "claims.json").read_bytes() == (new / "claims.json").read_bytes() == before
    assert any(
        f"{old / 'claims.json'} is left as it is: it and {new / 'claims.json'} are one file" in one for one in said
    )


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("ingress", "pipe"),
        ("ingress", "dangling link"),
        ("ingress", "link to another"),
        ("ingress", "directory"),
        (".", "pipe"),
    ],
)
def test_what_is_no_regular_file_is_refused_at_once(old: Path, where: str, what: str) -> None:
    """Whoever has taken the ingress over can have put it there; a pipe would have ``make install`` wait for ever."""
    (old / "ingress").mkdir()
    new = old / where / "certificates.json"
    (old / "certificates.json").write_text("{}")
    if where == ".":
        new.unlink()
    if what == "pipe":
        os.mkfifo(new)
    elif what == "directory":
        new.mkdir()
    else:
        (old / "copy").write_text("{}")
        new.symlink_to(old / ("none" if what == "dangling link" else "copy"))
    with pytest.raises(Unavailable, match=r"certificates\.json cannot be read: it is not a regular file"):
        carry(old, old / "ingress")
    assert where == "." or (old / "certificates.json").read_text() == "{}"


def test_who_is_interrupted_begins_again(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (old / "claims.json").read_bytes()

    unlink = Path.unlink

    def fails(path: Path, *, missing_ok: bool = False) -> None:
        if path.parent == old:
            raise OSError(f"{path.name}: no power")
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", fails)
        with pytest.raises(Unavailable, match="cannot be removed"):
            carry(old, old / "ingress")
    assert (old / "claims.json").read_bytes() == before
    assert (old / "ingress" / "proof.key").exists(), "it was interrupted in the middle"
    carry(old, old / "ingress")
    assert (old / "ingress" / "claims.json").read_bytes() == before
    assert sorted(path.name for path in old.iterdir()) == ["ingress", "net.db"]


def test_a_full_disk_loses_nothing(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(path: Path, data: bytes) -> None:
        raise Unavailable(f"{path} cannot be written: {len(data)} bytes are too many")

    monkeypatch.setattr(files, "replace", replace)
    with pytest.raises(Unavailable):
        carry(old, old / "ingress")
    assert {path.name for path in old.iterdir() if path.is_file()} == {"claims.json", "proof.key", "net.db"}


def test_who_only_looks_moves_nothing(old: Path) -> None:
    """A secret made anew in the new place would be in the way of the one that is to come there."""
    assert found(old, old / "ingress") == old
    assert (old / "claims.json").exists()
    carry(old, old / "ingress")
    assert found(old, old / "ingress") == old / "ingress"
    assert found(old / "none", old / "other") == old / "other"


def test_as_a_program(old: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(carryover, "STATE_DIR", old / "ingress")
    assert carryover.main() == 0
    assert "claims.json now" in capsys.readouterr().out
    assert carryover.main() == 0
    assert capsys.readouterr().out == ""
    (old / "claims.json").mkdir()
    assert carryover.main() == 1
    assert "cannot be read" in capsys.readouterr().err
