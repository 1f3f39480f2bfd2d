"""``stackpad node``: what it writes and when, against a real socket that says canned things."""

from __future__ import annotations

import copy
import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from stackpad.cli.app import app
from tests.unit.stackpad.canned import served

MEMBER = {
    "member": True,
    "id": "c1",
    "node": "n1",
    "name": "worker",
    "range4": "10.192.0.0/10",
    "range6": "fd00:1::/48",
    "pools": [{"base": "10.192.64.64/26", "size": 26}],
    "nodes": [{"id": "n2", "name": "other"}],
}
ANSWERS: dict[str, Any] = {
    "/cluster": MEMBER,
    "/node/init": {},
    "/node/join": '{"say": "calling"}\n{"done": true}\n',
    "/node/rm": {},
    "/node/leave": {"freed": True},
    "/node/rotate-key": '{"say": "announced"}\n{"done": true, "silent": [], "void": 2}\n',
}
BEFORE = '{"log-level": "warn"}\n'


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Path]:
    with served(tmp_path / "net.sock", copy.deepcopy(ANSWERS)) as path:
        yield path


@pytest.fixture
def daemon_json(tmp_path: Path) -> Path:
    path = tmp_path / "docker" / "daemon.json"
    path.parent.mkdir()
    path.write_text(BEFORE)
    return path


def arguments(plugin: Path, daemon_json: Path, *words: str) -> list[str]:
    places = ["--socket", str(plugin), "--daemon-json", str(daemon_json), "--docker-socket", "/nowhere/docker.sock"]
    return ["node", *words, *places, "--dns", "192.0.2.53"]


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def at_a_terminal(answer: str, words: list[str]) -> tuple[int, str]:
    """Exit status and output of a command whose stdin is a terminal at which somebody types ``answer``."""
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    try:
        command = [sys.executable, "-m", "stackpad.cli", *words]
        done = subprocess.run(command, stdin=theirs, capture_output=True, text=True, check=False)
    finally:
        os.close(ours)
        os.close(theirs)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("command", [["configure"], ["init"], ["join", "stackpad-1-x"]])
def test_agreed_it_is_written_with_a_backup(plugin: Path, daemon_json: Path, command: list[str]) -> None:
    result = run(*arguments(plugin, daemon_json, *command), "--yes", "--json")
    assert result.exit_code == 0, result.output
    written = json.loads(daemon_json.read_text())
    assert written["dns"] == ["169.254.53.53", "fd9c:5acd:5353::53", "192.0.2.53"]
    assert written["default-address-pools"] == MEMBER["pools"]
    assert written["log-level"] == "warn"
    told = json.loads(result.stdout)
    told = told if command == ["configure"] else told["daemon_json"]
    assert (told["right"], told["written"], told["restart"]) == (True, True, True)
    assert Path(told["backup"]).read_text() == BEFORE
    assert '+  "dns": [' in result.stderr
    assert "systemctl restart docker" in result.stderr


def test_refused_nothing_is_written_and_it_can_be_had_later(plugin: Path, daemon_json: Path) -> None:
    status, said = at_a_terminal("n", arguments(plugin, daemon_json, "configure"))
    assert status == 1
    assert "another time: stackpad node configure" in said
    assert daemon_json.read_text() == BEFORE
    assert [path.name for path in daemon_json.parent.iterdir()] == ["daemon.json"]
    status, said = at_a_terminal("y", arguments(plugin, daemon_json, "configure"))
    assert status == 0, said
    assert "192.0.2.53" in daemon_json.read_text()


def test_where_nobody_can_answer_it_asks_for_yes(plugin: Path, daemon_json: Path) -> None:
    result = run(*arguments(plugin, daemon_json, "configure"))
    assert result.exit_code == 2
    assert "stackpad node configure --yes" in result.stderr
    assert daemon_json.read_text() == BEFORE
    result = run(*arguments(plugin, daemon_json, "init"))
    assert result.exit_code == 0, "the cluster is begun; the rest can be had later"
    assert "stackpad node configure --yes" in result.stderr
    assert daemon_json.read_text() == BEFORE


def test_twice_is_right_already(plugin: Path, daemon_json: Path) -> None:
    run(*arguments(plugin, daemon_json, "configure"), "--yes")
    result = run(*arguments(plugin, daemon_json, "configure"), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {
        "path": str(daemon_json), "right": True, "written": False, "backup": None, "restart": False, "unattended": False,
    }  # fmt: skip
    assert "right already" in result.stderr


def test_other_servers_take_the_place_of_those_in_the_file(plugin: Path, daemon_json: Path) -> None:
    run(*arguments(plugin, daemon_json, "configure"), "--yes")
    words = arguments(plugin, daemon_json, "configure")
    run(*words[:-1], "192.0.2.54", "--yes")
    assert json.loads(daemon_json.read_text())["dns"][2:] == ["192.0.2.54"]


def test_outside_of_a_cluster_there_is_nothing_to_write(tmp_path: Path, daemon_json: Path) -> None:
    with served(tmp_path / "alone.sock", {"/cluster": {"member": False}}) as path:
        result = run(*arguments(path, daemon_json, "configure"), "--yes")
    assert result.exit_code == 1
    assert "stackpad node init" in result.stderr
    assert daemon_json.read_text() == BEFORE


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["rm", "other", "--yes"], {"removed": "other", "freed": True}),
        (["rotate-key"], {"silent": [], "void_tokens": 2}),
        (["leave", "--yes"], {"name": "worker", "node": "n1", "cluster": "c1", "freed": True, "daemon_json": None}),
        (
            ["init", "--no-daemon-json"],
            {"name": "worker", "node": "n1", "cluster": "c1", "daemon_json": None},
        ),
    ],
)
def test_each_command_has_json(plugin: Path, daemon_json: Path, words: list[str], told: dict[str, Any]) -> None:
    places = ["--daemon-json", str(daemon_json)] if words[0] in {"leave", "init"} else []
    result = run("node", *words, "--socket", str(plugin), *places, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == told


@pytest.mark.parametrize("words", [["rm", "worker", "--yes"], ["leave", "--yes"]])
def test_a_node_that_leaves_without_a_store_says_that_nothing_was_freed_there(
    tmp_path: Path, daemon_json: Path, words: list[str]
) -> None:
    places = ["--daemon-json", str(daemon_json)] if words[0] == "leave" else []
    here = {"id": "n1", "name": "worker", "self": True}
    answers = {"/cluster": MEMBER | {"nodes": [here]}, "/node/rm": {"freed": False}, "/node/leave": {"freed": False}}
    with served(tmp_path / "away.sock", ANSWERS | answers) as path:
        result = run("node", *words, "--socket", str(path), *places)
    assert result.exit_code == 0, result.output
    assert "nothing was freed there" in result.stderr
    assert "on another node: stackpad node rm worker" in " ".join(result.stderr.split())


def test_a_node_that_leaves_is_told_who_answers_its_containers_until_docker_is_restarted(
    plugin: Path, daemon_json: Path
) -> None:
    place = ["--socket", str(plugin), "--daemon-json", str(daemon_json)]
    assert "next reboot" not in run("node", "leave", *place, "--yes").stderr, "Docker's configuration has nothing of ours"
    named = json.dumps({"dns": ["169.254.53.53", "192.0.2.53"]})
    daemon_json.write_text(named)
    status, said = at_a_terminal("y\nn", ["node", "leave", *place])
    assert status == 0, said
    assert "still sends containers to 169.254.53.53" in said
    assert daemon_json.read_text() == named
    said = run("node", "leave", *place, "--yes").stderr
    assert "until Docker has been restarted, containers ask 169.254.53.53" in said
    assert json.loads(daemon_json.read_text()) == {"dns": ["192.0.2.53"]}


def test_who_removes_a_node_is_told_what_is_left_to_do_there(plugin: Path) -> None:
    said = run("node", "rm", "other", "--yes", "--socket", str(plugin)).stderr
    assert "on other, if it is to go on: take 169.254.53.53 and fd9c:5acd:5353::53 out of dns" in said
    assert "10.192.0.0/10" in said


@pytest.mark.parametrize("text", ["5", "5 x", "m", "-5m", ""])
def test_a_lifetime_has_its_unit(plugin: Path, text: str) -> None:
    result = run("node", "token", f"--lifetime={text}", "--socket", str(plugin))
    assert result.exit_code == 2
    assert "not a time with its unit; write 90s" in result.stderr


def test_a_token_says_how_long_it_is_good(tmp_path: Path) -> None:
    given = {"token": "stackpad-1-x", "expires": time.time() + 600}
    with served(tmp_path / "net.sock", {"/node/token": given}) as path:
        result = run("node", "token", "--lifetime", "10m", "--socket", str(path))
    assert result.exit_code == 0, result.output
    assert result.stdout == "stackpad-1-x\n", "nothing but the token, for a script"
    assert re.search(r"for one node, for 10 min, until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", result.stderr)


@pytest.mark.parametrize("words", [["rm", "two", "--yes"], ["roles", "two"]])
def test_a_name_that_two_nodes_have_names_neither(tmp_path: Path, words: list[str]) -> None:
    nodes = [{"id": f"id{number}", "name": "two"} for number in (1, 2)]
    with served(tmp_path / "two.sock", ANSWERS | {"/cluster": MEMBER | {"nodes": nodes}}) as path:
        result = run("node", *words, "--socket", str(path))
        assert result.exit_code == 1
        assert "id1, id2" in result.stderr
        again = run("node", words[0], "id2", *words[2:], "--socket", str(path), "--json")
        assert again.exit_code == 0, again.output
        assert "id2" in again.stdout


def test_a_list_with_a_node_that_is_gone_ends_with_0_and_one_with_a_problem_of_this_node_with_1(tmp_path: Path) -> None:
    for problems, status in (((), 0), (("the tunnel is down",), 1)):
        with served(tmp_path / "n.sock", {"/cluster": {**MEMBER, "problems": problems}}) as socket:
            result = run("node", "ls", "--socket", str(socket))
        assert result.exit_code == status
        assert result.stdout.splitlines()[1].split()[:2] == ["other", "gone"]
        assert "other gives no sign of life" in result.stdout
    assert "Ends with 0 also while nodes are gone" in run("node", "ls", "--help").output


def test_every_command_has_json_and_an_example() -> None:
    names = [name for name in run("node", "--help").output.split() if name in {
        "init", "join", "configure", "token", "ls", "rm", "roles", "rotate-key", "leave"}]  # fmt: skip
    assert set(names) == {"init", "join", "configure", "token", "ls", "rm", "roles", "rotate-key", "leave"}
    for name in set(names):
        shown = run("node", name, "--help").output
        assert "--json" in shown, name
        assert "Example: stackpad node" in shown, name
