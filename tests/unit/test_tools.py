"""What the lock file installs, as a document and against advisories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from packaging.version import Version

from tools import audit, sbom
from tools.lockfile import LOCK, ROOT, packages

A, B = "a" * 64, "b" * 64
ENTRIES = f"""#
# made by pip-compile
#
aiohttp==3.14.5 \\
    --hash=sha256:{A} \\
    --hash=sha256:{B}
    # via stackpad (pyproject.toml)
atheris==3.0.0 ; python_version < "3.14" \\
    --hash=sha256:{A}
    # via stackpad (pyproject.toml)
yarl==1.25.1 \\
    --hash=sha256:{B}
    # via
    #   aiohttp
    #   other
"""
PROJECT = '[project]\nname = "stackpad"\nversion = "1.0"\ndependencies = ["aiohttp>=3"]\n'


def test_every_package_of_the_lock_is_in_the_document() -> None:
    text = sbom.document(LOCK.read_text(), (ROOT / "pyproject.toml").read_text())
    made = json.loads(text)
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", SchemaVersion.V1_6.to_version())
    locked = packages(LOCK.read_text())
    listed = {(one["name"], one["version"]): one for one in made["components"]}
    assert set(listed) == {(package.name, package.version) for package in locked}
    for package in locked:
        (files,) = listed[package.name, package.version]["externalReferences"]
        assert {content["content"] for content in files["hashes"]} == set(package.hashes)
    scopes = {name: one["scope"] for (name, _), one in listed.items()}
    assert {scopes[name] for name in ("aiohttp", "yarl", "aiohappyeyeballs", "cryptography", "cffi")} == {"required"}
    assert {scopes[name] for name in ("pytest", "mypy", "atheris", "ruff")} == {"excluded"}


def test_it_is_the_same_for_the_same_lock() -> None:
    assert sbom.document(ENTRIES, PROJECT) == sbom.document(ENTRIES, PROJECT)
    assert sbom.document(ENTRIES, PROJECT) != sbom.document(ENTRIES.replace("3.14.5", "3.14.6"), PROJECT)


def test_who_asks_for_what_is_read() -> None:
    first, tool, last = packages(ENTRIES)
    assert (first.name, first.version, first.hashes) == ("aiohttp", "3.14.5", (A, B))
    assert (tool.version, last.wanted_by) == ("3.0.0", ("aiohttp", "other"))
    assert sbom.needed([first, tool, last], ["aiohttp"]) == {"aiohttp", "yarl"}


@pytest.mark.parametrize("text", ["", "aiohttp>=3\n", "aiohttp==3.14.5\n", f"aiohttp \\\n    --hash=sha256:{A}\n"])
def test_a_lock_that_locks_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="lock"):
        packages(text)


def advisory(identifier: str, **affected: Any) -> dict[str, Any]:
    return {
        "id": identifier,
        "modified": "2026-01-02T03:04:05Z",
        "aliases": [f"CVE-{identifier}"],
        "affected": [{"package": {"ecosystem": "PyPI", "name": "AioHTTP"}, **affected}],
    }


@pytest.mark.parametrize(
    ("affected", "concerned"),
    [
        ({"versions": ["3.14.4", "3.14.5"]}, True),
        ({"versions": ["3.14.4", "not a version"]}, False),
        ({"ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.14.6"}]}]}, True),
        ({"ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.14.5"}]}]}, False),
        ({"ranges": [{"type": "ECOSYSTEM", "events": [{"fixed": "3.9"}, {"introduced": "3.0"}]}]}, False),
        ({"ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "3.10"}, {"last_affected": "3.14.5"}]}]}, True),
        ({"ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "3.10"}, {"last_affected": "3.14.4"}]}]}, False),
        ({"ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "4.0"}]}]}, False),
        ({"ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}]}, False),
    ],
)
def test_whether_an_advisory_concerns_a_version(affected: dict[str, Any], concerned: bool) -> None:
    (entry,) = advisory("X", **affected)["affected"]
    assert audit.affects(entry, Version("3.14.5")) is concerned


def test_advisories_are_read_in_both_forms(tmp_path: Path) -> None:
    (tmp_path / "aiohttp").mkdir()
    (tmp_path / "X-1.json").write_text(json.dumps(advisory("X-1", versions=["3.14.5"])))
    (tmp_path / "aiohttp" / "X-2.yaml").write_text(json.dumps(advisory("X-2", versions=["3.14.5"])))
    withdrawn = {**advisory("X-3", versions=["3.14.5"]), "withdrawn": "2026-01-01T00:00:00Z"}
    (tmp_path / "X-3.json").write_text(json.dumps(withdrawn))
    found, newest, count = audit.vulnerable(packages(ENTRIES), tmp_path)
    assert found == ["aiohttp 3.14.5: X-1, CVE-X-1", "aiohttp 3.14.5: X-2, CVE-X-2"]
    assert (newest, count) == ("2026-01-02", 3)


def test_what_was_not_looked_at_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main([]) in {1, 2}
    assert "no advisories were looked at" in capsys.readouterr().out
