"""The directory of certificates as it is looked at: what is used, what is told, and what a change costs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ingress.certificates import files
from ingress.certificates.files import CertificateFiles
from tests import certs
from tests.clock import HOUR


def names(files: CertificateFiles) -> list[str]:
    return [pair.name for pair in files.look().pairs]


def test_without_a_directory_there_is_nothing_to_say() -> None:
    found = CertificateFiles(None).look()
    assert (found.pairs, found.problems) == ((), ())


def test_pairs_are_found_and_other_files_passed_over(tmp_path: Path) -> None:
    certs.put(tmp_path, "_wildcard.acme.example.org", "*.acme.example.org")
    certs.put(tmp_path, "b", "b.example.org")
    certs.put(tmp_path, ".hidden", "c.example.org")
    (tmp_path / "README.txt").write_text("hello")
    found = CertificateFiles(tmp_path).look()
    assert [pair.name for pair in found.pairs] == ["_wildcard.acme.example.org", "b"]
    assert found.pairs[1].certificate == f"{tmp_path}/b.crt"
    assert found.problems == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: (d / "a.key").unlink(), "a.key is missing"),
        (lambda d: (d / "a.crt").unlink(), "a.crt is missing"),
        (lambda d: (d / "a.crt").write_bytes(b"x" * (files.MAX_BYTES + 1)), "is larger than"),
        (lambda d: (d / "a.key").write_bytes((d / "b.key").read_bytes()), "is not the key of"),
        (lambda d: ((d / "a.key").unlink(), (d / "a.key").mkdir()), "cannot be read"),
        (lambda d: certs.put(d, "a", "a.example", first=-9, last=-1), "has expired"),
        (lambda d: certs.put(d, "a", "a.example", first=3, last=9), "is not valid yet"),
        (lambda d: (d / "a.crt").rename(d / "{x}.crt"), "rename it"),
        (lambda d: (d / "a.crt").rename(d / "\x1b[2J.crt"), "rename it"),
    ],
)
def test_one_that_cannot_be_used_costs_itself_only(tmp_path: Path, change: Callable[[Path], object], words: str) -> None:
    certs.put(tmp_path, "a", "a.example")
    certs.put(tmp_path, "b", "b.example")
    change(tmp_path)
    found = CertificateFiles(tmp_path).look()
    assert [pair.name for pair in found.pairs] == ["b"]
    assert any(words in problem for problem in found.problems)
    assert all("\x1b" not in problem for problem in found.problems)


def test_a_change_counts_once_it_stays(tmp_path: Path) -> None:
    certs.put(tmp_path, "a", "a.example")
    files = CertificateFiles(tmp_path)
    before = files.look().pairs
    assert files.look().pairs == before
    fresh = certs.new_key()
    (tmp_path / "a.crt").write_bytes(certs.certificate(("a.example",), fresh))
    assert files.look().pairs == before, "the new key may be on its way"
    (tmp_path / "a.key").write_bytes(certs.private(fresh))
    assert files.look().pairs == before, "it has changed since the last look"
    (after,) = files.look().pairs
    assert after.digest != before[0].digest
    (tmp_path / "a.key").unlink()
    assert names(files) == ["a"]
    assert names(files) == [], "it has stayed away"
    (tmp_path / "a.key").write_bytes(certs.private(fresh))
    files.look()
    assert [pair.digest for pair in files.look().pairs] == [after.digest]


def test_rights_that_change_are_a_change(tmp_path: Path) -> None:
    certs.put(tmp_path, "a", "a.example")
    files = CertificateFiles(tmp_path)
    (before,) = files.look().pairs
    (tmp_path / "a.key").chmod(0o640)
    files.look()
    (after,) = files.look().pairs
    assert (after == before, after.digest) == (False, before.digest)


def test_time_passes(tmp_path: Path) -> None:
    certs.put(tmp_path, "a", "a.example", last=2)
    moment = time.time()
    files = CertificateFiles(tmp_path, lambda: moment)
    assert names(files) == ["a"]
    moment += 2 * 86400 + 1
    found = files.look()
    assert (found.pairs, "has expired" in found.problems[0]) == ((), True)


def test_a_clock_that_is_set_back_takes_no_certificate_away(tmp_path: Path) -> None:
    certs.put(tmp_path, "a", "a.example", first=-0.01)
    moment = time.time()
    files = CertificateFiles(tmp_path, lambda: moment)
    assert names(files) == ["a"]
    moment -= HOUR
    assert (names(files), files.look().problems) == (["a"], ())
    certs.put(tmp_path, "a", "a.example", first=-0.01)
    files.look()
    assert names(files) == [], "another one, of which nothing says that its time has come"
    moment += HOUR
    assert names(files) == ["a"]


def test_a_directory_that_is_not_there_yet_and_one_that_goes(tmp_path: Path) -> None:
    place = tmp_path / "later"
    files = CertificateFiles(place)
    (problem,) = files.look().problems
    assert f"CERTIFICATES={place} cannot be listed" in problem
    certs.put(place, "a", "a.example")
    assert names(files) == ["a"]
    os.rename(place, tmp_path / "away")
    files.look()
    found = files.look()
    assert (found.pairs, len(found.problems)) == ((), 1)


def test_no_more_than_are_reasonable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_PAIRS", 2)
    for stem in "abc":
        certs.put(tmp_path, stem, f"{stem}.example")
    found = CertificateFiles(tmp_path).look()
    assert [pair.name for pair in found.pairs] == ["a", "b"]
    assert "has 3 pairs; only the first 2" in found.problems[0]
