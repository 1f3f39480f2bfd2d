"""Which number each service has, on a real disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ingress.upstreams.numbers import NumberFile
from ingress.upstreams.stable import Numbers, Service
from stackpad.errors import Unavailable

WEB = Service("acme/shop/production", "web", "/a")
GIVEN = Numbers(20005, {WEB: 20005, Service("o", "s", ""): 64999, WEB._replace(guard="ab12"): 20001})


def test_what_is_decided_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "upstreams.json"
    first = NumberFile(path)
    assert first.current == Numbers()
    first.decide(GIVEN)
    assert NumberFile(path).current == GIVEN


def test_what_cannot_be_kept_is_not_decided(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    file = NumberFile(tmp_path / "upstreams.json")
    file.decide(GIVEN)
    file._path = tmp_path / "file" / "upstreams.json"
    with pytest.raises(Unavailable, match="make room or repair the disk"):
        file.decide(Numbers(20006, {WEB: 20006}))
    assert file.current == GIVEN


def test_what_an_earlier_version_has_kept_stays(tmp_path: Path) -> None:
    path = tmp_path / "upstreams.json"
    entry = {"owner": "o", "service": "s", "path": "", "number": 20000}
    path.write_text(json.dumps({"last": 20001, "services": [entry, {**entry, "number": 20001, "part": 1}]}))
    assert NumberFile(path).current.given == {Service("o", "s", ""): 20000, Service("o", "s", "", 1): 20001}


TWICE = json.dumps(
    {"last": 20001, "services": [{"owner": "o", "service": s, "path": "", "number": 20001} for s in ("s", "t")]}
)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"last": 20000, "services": [{"owner": "o", "service": "s", "path": "", "number": 80}]}',
        TWICE,
    ],
)
def test_one_that_cannot_be_read_is_said_and_begun_anew(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "upstreams.json"
    path.write_text(text)
    assert NumberFile(path).current == Numbers()
    assert "they get new ones" in capsys.readouterr().out
