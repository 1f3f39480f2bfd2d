"""The threat model names tests and rights: those are there."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

from plugin.privileges import NEEDED

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "security.md").read_text()


def test_every_test_that_is_named_exists() -> None:
    there = {
        node.name
        for file in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    named = set(re.findall(r"`(test_\w+)`", DOCUMENT))
    assert len(named) > 30
    assert named - there == set()


def test_every_file_that_is_named_exists() -> None:
    for name in re.findall(r"`((?:plugin|stackpad|ingress|tests)/[\w/.]+)`", DOCUMENT):
        assert (ROOT / name).exists(), name


def test_the_plugin_has_the_rights_that_are_explained_and_no_others() -> None:
    config = json.loads((ROOT / "config.json").read_text())
    assert config["linux"]["capabilities"] == ["CAP_NET_ADMIN"]
    assert [device["path"] for device in config["linux"]["devices"]] == ["/dev/net/tun"]
    assert {mount["source"] for mount in config["mounts"]} == {"/run", "/proc", "/var/lib"}
    explained = re.findall(r"^\| `CAP_(\w+)` \|", DOCUMENT, re.MULTILINE)
    assert sorted(explained) == sorted(NEEDED)
    for name in ("/dev/net/tun", "/run", "/proc", "/var/lib"):
        assert f"| `{name}`" in DOCUMENT or f"`{name}` |" in DOCUMENT or f"`{name}`, of the host |" in DOCUMENT, name
