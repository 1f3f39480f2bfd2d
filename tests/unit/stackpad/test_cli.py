"""The command line against real sockets that say canned things."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from stackpad.cli import app as commands
from stackpad.cli.app import app
from stackpad.cli.examine import Places
from tests.unit.stackpad.canned import NETWORKS, PORTS, ROUTES, STATUS, served

PLUGIN = {"/status": STATUS, "/networks": NETWORKS, "/ports": PORTS}


@pytest.fixture
def answers() -> dict[str, Any]:
    """What the plugin answers; a test may change it."""
    return copy.deepcopy(PLUGIN)


@pytest.fixture
def plugin(tmp_path: Path, answers: dict[str, Any]) -> Iterator[Path]:
    with served(tmp_path / "net.sock", answers) as path:
        yield path


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the node's state is; this machine may have one."""
    monkeypatch.setattr(commands, "PLACES", replace(Places(), state=tmp_path / "state"))
    return tmp_path / "state"


def run(*words: str | Path, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(
        app, [str(word) for word in words], env={"STACKPAD_INGRESS_SOCKET": "/nowhere", **(env or {})}
    )


def test_status_is_a_pair_of_columns(plugin: Path) -> None:
    result = run("status", "--socket", plugin)
    assert result.exit_code == 0, result.output
    lines = dict(line.split(None, 1) for line in result.stdout.splitlines())
    assert lines["plugin"].startswith("ready, up ")
    assert lines["engine"] == "28.5.2"
    assert lines["addresses"] == "192.0.2.10, 2001:db8::10"
    assert lines["ingress"] == "not on this node"
    assert lines["problems"] == "none"


def test_the_socket_may_come_from_the_environment(plugin: Path) -> None:
    assert run("status", env={"STACKPAD_SOCKET": str(plugin)}).exit_code == 0


def test_status_counts_the_ingress_in(plugin: Path, tmp_path: Path) -> None:
    with served(tmp_path / "ingress.sock", {"/routes": ROUTES}) as ingress:
        result = run("status", "--socket", plugin, "--ingress-socket", ingress, "--json")
    assert result.exit_code == 0
    assert [route["path"] for route in json.loads(result.stdout)["ingress"]["routes"]] == ["/", "/api"]


def test_a_link_in_place_of_the_ingress_is_not_followed(plugin: Path, tmp_path: Path) -> None:
    with served(tmp_path / "other.sock", {"/routes": ROUTES}) as other:
        link = tmp_path / "ingress.sock"
        link.symlink_to(other)
        result = run("routes", "--socket", link)
    assert result.exit_code == 3
    assert "it is something else than a socket, and not followed" in " ".join(result.stderr.split())


@pytest.mark.parametrize("change", [{"ready": False}, {"problems": ["port 80/tcp: taken"]}])
def test_status_ends_with_1_for_a_problem(plugin: Path, answers: dict[str, Any], change: dict[str, Any]) -> None:
    answers["/status"].update(change)
    result = run("status", "--socket", plugin)
    assert result.exit_code == 1
    assert "port 80/tcp: taken" in result.stdout or "not reconciled yet" in result.stdout


def test_an_ingress_that_left_its_socket_is_a_problem(plugin: Path, tmp_path: Path) -> None:
    left = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(left))
    result = run("status", "--socket", plugin, "--ingress-socket", left)
    assert result.exit_code == 1
    assert "Connection refused" in result.stdout
    assert "docker start stackpad-ingress" in " ".join(result.stdout.split())


@pytest.mark.parametrize("kept", ["ingress/claims.json", "ingress/proof.key", "claims.json"])
def test_an_ingress_that_has_ended_is_a_problem(plugin: Path, state: Path, kept: str) -> None:
    """It takes its socket away when it is asked to end, so that only its state shows that there was one."""
    (state / "ingress").mkdir(parents=True)
    (state / kept).touch()
    result = run("status", "--socket", plugin)
    words = " ".join(result.stdout.split())
    assert result.exit_code == 1
    assert "ingress does not answer" in words
    assert f"problems ingress: there was an ingress on this node ({state / kept} is its), and it does not run;" in words
    assert "docker start stackpad-ingress" in words


def test_networks(plugin: Path) -> None:
    result = run("networks", "--socket", plugin)
    assert result.exit_code == 1, "one of them has a problem"
    head, *rows = result.stdout.splitlines()
    assert head.split() == ["NETWORK", "ENVIRONMENT", "SUBNETS", "GATEWAY", "BRIDGE", "MTU", "OUTSIDE", "CONTAINERS"]
    assert rows[0].split() == ["130dee79645c", "-", "10.192.0.64/26", "-", "sp-130dee79645c", "1400", "internal", "0"]
    assert rows[1].split()[:4] == ["my-app-production", "my-app-production", "10.192.0.0/26", "10.192.0.1"]
    assert rows[2].split() == ["fd12:3456:789a::/64", "fd12:3456:789a::1"]
    assert rows[3] == "130dee79645c: nft refused a change of the firewall"


@pytest.mark.parametrize("name", ["my-app-production", "94e8d85bf90a"])
def test_one_network_with_its_containers(plugin: Path, name: str) -> None:
    result = run("networks", name, "--socket", plugin)
    assert "02:50:0a:c0:00:02" in result.stdout
    assert "bbbbbbbbbbbb" in result.stdout
    assert "link is gone" in result.stdout
    assert result.exit_code == 1


def test_a_network_there_is_not(plugin: Path) -> None:
    result = run("networks", "my-app-prod", "--socket", plugin)
    assert result.exit_code == 2
    assert "my-app-prod is no network here; there are: 130dee79645c, my-app-production" in result.stderr


def test_an_environment_that_nothing_is_known_of(plugin: Path, answers: dict[str, Any]) -> None:
    answers["/services"] = [{"environment": "my-app-staging", "names": ["db"], "container": "db", "node": "n2"}]
    result = run("services", "my-app-stagin", "--socket", plugin)
    assert result.exit_code == 2
    assert "my-app-stagin is no environment that is known here" in result.stderr
    assert "there are: my-app-production, my-app-staging" in " ".join(result.stderr.split())
    assert "db" in run("services", "my-app-staging", "--socket", plugin).stdout
    assert run("services", "my-app-production", "--socket", plugin).exit_code == 0, "it is here, and has no names yet"


def test_ports_are_written_as_docker_does(plugin: Path) -> None:
    result = run("ports", "--socket", plugin)
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["CONTAINER", "NETWORK", "PORTS"],
        ["web", "my-app-production", "0.0.0.0:8080-8082->80-82/tcp"],
        ["[::]:8080-8082->80-82/tcp"],
    ]


def test_no_ports(plugin: Path, answers: dict[str, Any]) -> None:
    answers["/ports"] = []
    result = run("ports", "--socket", plugin)
    assert result.stdout.startswith("no published ports")
    assert json.loads(run("ports", "--socket", plugin, "--json").stdout) == []


def test_routes(tmp_path: Path) -> None:
    with served(tmp_path / "ingress.sock", {"/routes": ROUTES}) as ingress:
        result = run("routes", "--socket", ingress)
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[0] == ["HOST", "STATE", "OWNER", "SERVICE", "UPSTREAMS", "CERTIFICATE", "CLAIMED"], "not since it is up"
    assert rows[1][:5] == ["my-app.acme.stackpad.test", "up", "acme/my-app/production", "web", "10.192.0.2:80"]
    assert rows[2][:5] == ["my-app.acme.stackpad.test/api", "down", "acme/my-app/production", "api", "-"]


def test_routes_without_a_caddy_are_served_to_nobody(plugin: Path, tmp_path: Path) -> None:
    report = {**ROUTES, "problem": "nobody listens at Caddy's admin socket", "away": True}
    with served(tmp_path / "ingress.sock", {"/routes": report}) as ingress:
        listed = run("routes", "--socket", ingress)
        one = run("routes", "my-app.acme.stackpad.test", "--socket", ingress)
        at_a_glance = run("status", "--socket", plugin, "--ingress-socket", ingress)
    assert (listed.exit_code, at_a_glance.exit_code) == (1, 1)
    first, second = listed.stdout.splitlines()[1:3]
    assert "up, but no Caddy" in first
    assert " down " in second
    assert "up, but no Caddy" in one.stdout
    assert "Caddy does not run; routes: " in at_a_glance.stdout
    for told in (listed, at_a_glance):
        words = " ".join(told.stdout.split())
        assert "ingress: nobody listens at Caddy's admin socket; start it: systemctl start caddy" in words


def test_a_long_reason_stands_below_the_table(tmp_path: Path) -> None:
    long = "not proved: " + "x" * 99
    waiting = {**ROUTES["routes"][1], "host": "shop.example", "path": "/", "state": "unproved", "reason": long}
    down = {**ROUTES["routes"][1], "reason": "api: it has ended"}
    with served(tmp_path / "ingress.sock", {"/routes": {**ROUTES, "routes": [down, waiting]}}) as ingress:
        result = run("routes", "--socket", ingress)
    _, first, second, note = result.stdout.splitlines()
    assert "down: api: it has ended" in first
    assert second.split()[:3] == ["shop.example", "unproved", "acme/my-app/production"]
    assert "not proved" not in second
    assert note == f"shop.example (acme/my-app/production): {long}"


@pytest.mark.parametrize("words", [[], ["node"], ["domain"]])
def test_what_commands_are_for_is_said_whole(words: list[str]) -> None:
    told = run(*words, "--help", env={"COLUMNS": "80"})
    commands = told.stdout.partition("Commands:")[2].splitlines()
    assert len(commands) > 4
    assert not [line for line in commands if line.endswith("...")]


def test_routes_say_who_is_not_served(tmp_path: Path) -> None:
    report = {**ROUTES, "problem": "Caddy is away", "stale": True}
    report["problems"] = [{"container": "evil\x1b[2J", "id": "cc" * 32, "problem": "no network of ours"}]
    with served(tmp_path / "ingress.sock", {"/routes": report}) as ingress:
        result = run("routes", env={"STACKPAD_INGRESS_SOCKET": str(ingress)})
    assert result.exit_code == 1
    assert "ingress: Caddy is away" in result.stdout
    assert "the routes are those known last" in result.stdout
    assert "container evil\\x1b[2J: no network of ours" in result.stdout
    report["problems"][0]["node"] = "worker-1"
    with served(tmp_path / "ingress.sock", {"/routes": report}) as ingress:
        result = run("routes", env={"STACKPAD_INGRESS_SOCKET": str(ingress)})
    assert "container evil\\x1b[2J on worker-1: no network of ours" in result.stdout


def test_reasons_are_below_the_table_in_order(tmp_path: Path) -> None:
    """A sentence in a column would make every row as long as it is."""
    sentence = "nobody has proved it yet; have a TXT record say so, " * 4
    report = {**ROUTES, "routes": [ROUTES["routes"][0], {**ROUTES["routes"][1], "reason": sentence}]}
    report["problems"] = [{"container": name, "id": "cc" * 32, "problem": "no"} for name in ("web-3", "web-1", "web-2")]
    with served(tmp_path / "ingress.sock", {"/routes": report}) as ingress:
        lines = run("routes", "--socket", ingress).stdout.splitlines()
    assert max(len(line) for line in lines[:3]) < 150
    assert (
        " ".join(lines[3:]).split()
        == (
            f"my-app.acme.stackpad.test (acme/my-app/production): {sentence}"
            " container web-1: no container web-2: no container web-3: no"
        ).split()
    )


@pytest.mark.parametrize("command", ["status", "networks", "ports", "routes"])
def test_nobody_there_is_3_and_a_sentence(tmp_path: Path, command: str) -> None:
    result = run(command, "--socket", tmp_path / "none.sock", "--json")
    assert result.exit_code == 3
    assert result.stdout == ""
    assert f"no socket {tmp_path / 'none.sock'}" in result.stderr
    assert ("docker plugin ls" in result.stderr) is (command != "routes")


@pytest.mark.parametrize("answer", ["not JSON", {"ready": "perhaps"}, 500, "[]"])
def test_a_strange_answer_is_3_and_a_sentence(plugin: Path, answers: dict[str, Any], answer: Any) -> None:
    answers["/status"] = answer
    result = run("status", "--socket", plugin)
    assert result.exit_code == 3
    assert str(plugin) in result.stderr


def test_an_older_plugin_may_say_less(plugin: Path, answers: dict[str, Any]) -> None:
    answers["/status"] = {"ready": True}
    assert run("status", "--socket", plugin).exit_code == 0


def test_usage() -> None:
    assert run("nothing").exit_code == 2
    assert run("doctor", "--docker", "tcp://192.0.2.1:2375").exit_code == 2
    assert run("--version").stdout.startswith("stackpad ")


@pytest.mark.parametrize("command", ["status", "networks", "ports", "routes", "doctor"])
def test_every_command_has_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: stackpad {command}" in result.stdout
    assert "--json" in result.stdout


def test_doctor_without_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "PLACES", replace(Places(), plain=tmp_path / "plain.sock"))
    gone = str(tmp_path / "gone.sock")
    result = run("doctor", "--socket", gone, "--docker", f"unix://{gone}", "--caddy", gone, "--json")
    assert result.exit_code == 1
    levels = {check["name"]: check["level"] for check in json.loads(result.stdout)}
    assert levels["plugin"] == levels["engine"] == levels["driver name"] == "problem"
    assert levels["reconciled"] == levels["networks"] == levels["MTU"] == levels["Caddy"] == "skipped"


def test_doctor_on_a_node(plugin: Path, answers: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proc/sys/net/ipv4").mkdir(parents=True)
    (tmp_path / "proc/sys/net/ipv4/ip_forward").write_text("1\n")
    (tmp_path / "proc/sys/net/netfilter").mkdir()
    for name, number in (("count", 1000), ("max", 1000)):
        (tmp_path / f"proc/sys/net/netfilter/nf_conntrack_{name}").write_text(f"{number}\n")
    answers["/networks"] = []
    plain, engine, caddy = (tmp_path / name for name in ("plain.sock", "docker.sock", "caddy.sock"))
    monkeypatch.setattr(commands, "PLACES", replace(Places(), plain=plain, proc=tmp_path / "proc"))
    listed = [{"Id": "dd" * 32, "Name": "old", "Driver": "stackpad"}, {"Id": "ee", "Name": "host", "Driver": "host"}]
    held = [{"NetworkSettings": {"Networks": {"x": {"EndpointID": "aa"}}}}, {"NetworkSettings": None}, {}]
    with (
        served(plain, {"/Plugin.Activate": {"Implements": ["NetworkDriver", "IpamDriver"]}}),
        served(engine, {"/version": {"Version": "29.0.1"}, "/networks": listed, "/containers/json": held}),
        served(caddy, {"/config/": "null"}),
    ):
        result = run("doctor", "--socket", plugin, "--docker", f"unix://{engine}", "--caddy", caddy, "--json")
        words = run("doctor", "--socket", plugin, "--docker", f"unix://{engine}", "--caddy", caddy).stdout
    found = {check["name"]: check for check in json.loads(result.stdout)}
    assert found["driver name"]["level"] == found["forwarding"]["level"] == found["Caddy"]["level"] == "ok"
    assert "1000 of 1000 are tracked: the table is full" in found["connections"]["detail"]
    assert found["engine"]["level"] == "warning"
    assert found["endpoints"]["level"] == "ok"
    assert found["networks"]["level"] == "problem"
    assert "Docker has old" in found["networks"]["detail"]
    assert "→ remove these networks and create them again" in words


def test_importing_it_is_cheap() -> None:
    """Typer and rich cost every other command of ours nothing, and rich costs a pipe nothing."""
    script = "import sys, stackpad.cli; sys.exit('typer' in sys.modules or 'rich' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_terminal_gets_the_same_words(plugin: Path) -> None:
    script = (
        "import pty, sys; words = [sys.executable, '-m', 'stackpad.cli', 'networks', '--socket', sys.argv[1]]; "
        "sys.exit(pty.spawn(words) >> 8)"
    )
    done = subprocess.run([sys.executable, "-c", script, plugin], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "my-app-production" in done.stdout, "names are not broken, however narrow the terminal is"
    assert "fd12:3456:789a::/64" in done.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("stackpad no", ["node"]), ("stackpad node r", ["rm", "roles", "rotate-key"]), ("stackpad exp", ["explain"])],
)
def test_a_shell_completes_commands(typed: str, offered: list[str]) -> None:
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" ")), "_STACKPAD_COMPLETE": "complete_bash"}
    command = [sys.executable, "-c", "from stackpad.cli import main; main()"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **words})
    assert sorted(done.stdout.split()) == offered
    ask = {**os.environ, "_STACKPAD_COMPLETE": "source_bash"}
    script = subprocess.run(command, capture_output=True, text=True, check=False, env=ask).stdout
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
