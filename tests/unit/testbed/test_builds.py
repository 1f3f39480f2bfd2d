"""What decides whether something is built again, and what an image is built of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.testbed import builder, images
from tests.testbed.shell import ROOT


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(builder, "ROOT", tmp_path)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text("one")
    return tmp_path


def test_a_digest_follows_content(sources: Path) -> None:
    before = builder.digest([sources / "package"])
    assert builder.digest([sources / "package"]) == before
    (sources / "package" / "module.py").write_text("two")
    assert builder.digest([sources / "package"]) != before


def test_a_digest_follows_names(sources: Path) -> None:
    before = builder.digest([sources / "package"])
    (sources / "package" / "module.py").rename(sources / "package" / "other.py")
    assert builder.digest([sources / "package"]) != before


def test_a_digest_knows_two_files_from_one(sources: Path) -> None:
    (sources / "package" / "other.py").write_text("one")
    both = builder.digest([sources / "package"])
    (sources / "package" / "other.py").unlink()
    assert builder.digest([sources / "package"]) != both


def test_compiled_files_do_not_count(sources: Path) -> None:
    before = builder.digest([sources / "package"])
    (sources / "package" / "__pycache__").mkdir()
    (sources / "package" / "__pycache__" / "module.pyc").write_bytes(b"x")
    assert builder.digest([sources / "package"]) == before


def test_wheels_begun_and_not_finished_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "ROOT", tmp_path)

    def fill(key: str, *, fail: bool = False) -> bool:
        with images._fresh("own", key) as place:
            if place is not None:
                (place / "a.whl").touch()
                if fail:
                    raise OSError("no space")
            return place is not None

    with pytest.raises(OSError, match="no space"):
        fill("k1", fail=True)
    assert fill("k1")
    assert not fill("k1")
    assert fill("k2")


def test_the_lock_file_pins_all_that_an_image_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "build").mkdir()
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.setattr(images, "ROOT", tmp_path)
    pins = [line.partition("==")[0] for line in images._constraints().read_text().splitlines()]
    assert all(word.split(">")[0] in pins for word in images._dependencies())


def test_the_lock_file_names_no_place() -> None:
    """Neither a registry nor a path of the machine it was made on."""
    lock = (ROOT / "requirements.lock").read_text()
    options = [line.split()[0] for line in lock.splitlines() if line.strip().startswith("-")]
    assert "://" not in lock
    assert options
    assert all(option.startswith("--hash=sha256:") for option in options)


def test_the_plugin_mounts_only_what_every_host_has_at_boot() -> None:
    """A mount whose source is missing makes the engine itself fail to start."""
    config = json.loads((ROOT / "config.json").read_text())
    assert {mount["source"] for mount in config["mounts"]} == {"/run", "/proc", "/var/lib"}
    assert config["interface"] == {
        "types": ["docker.networkdriver/1.0", "docker.ipamdriver/1.0"],
        "socket": "stackpad.sock",
    }
    assert all(entry["description"] and "value" in entry for entry in config["env"])
