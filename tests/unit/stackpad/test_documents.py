"""What the README lists is what there is: settings, options, labels, commands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.main import get_command

from ingress.settings import HELP
from plugin.docker import options
from stackpad import labels
from stackpad.cli.app import app

ROOT = Path(__file__).parents[3]
README = re.sub(r"^```.*?^```", "", (ROOT / "README.md").read_text(), flags=re.DOTALL | re.MULTILINE)
PLUGIN_SETTINGS = [entry["name"] for entry in json.loads((ROOT / "config.json").read_text())["env"]]
COMMANDS = [f"stackpad {name}" for name in getattr(get_command(app), "commands", {})]


def listed(section: str) -> set[str]:
    """The code words in the first column of the tables in a section of the README, its subsections included."""
    level = re.search(rf"^(#+) {re.escape(section)}$", README, re.MULTILINE)
    assert level is not None, section
    body = re.split(rf"^#{{1,{len(level[1])}}} ", README[level.end() :], maxsplit=1, flags=re.MULTILINE)[0]
    firsts = re.findall(r"^\| ([^|]+) \|", body, re.MULTILINE)
    return {word for first in firsts for word in re.findall(r"`([^`]+)`", first)}


@pytest.mark.parametrize(
    ("section", "there"),
    [
        ("Options", {*options.KNOWN, "com.docker.network.driver.mtu"}),
        ("Labels of containers", set(labels.KNOWN)),
        ("Settings", {*PLUGIN_SETTINGS, *HELP}),
    ],
)
def test_tables_are_complete_and_true(section: str, there: set[str]) -> None:
    assert listed(section) == there


def test_commands() -> None:
    assert {
        re.split(r" \[| …| [A-Z]", word)[0] for word in listed("The command `stackpad`") if word.startswith("stackpad ")
    } == set(COMMANDS)
    assert len(COMMANDS) == 10


def test_the_sandbox_says_how_each_of_its_sockets_is_reached() -> None:
    told = re.findall(r"export (STACKPAD_\w+)=", (ROOT / "examples" / "demo.py").read_text())
    assert set(told) == set(re.findall(r"`(STACKPAD_\w*SOCKET)`", README))
