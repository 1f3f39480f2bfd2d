"""The testbed as its users drive it, by the command line: up, exec, up again, down without a trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testbed import testbed
from tests.testbed.shell import ROOT, alive

NAME = f"t{os.getpid()}-smoke"
"""The census looks for this name in what it counts: other testbeds may come and go meanwhile."""


def command(*words: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run the testbed's command line as a user does."""
    line = [sys.executable, "-m", "tests.testbed", *words]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


def last_line(done: subprocess.CompletedProcess[str]) -> Any:
    """The document a program reads."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def census(numbers: set[int]) -> dict[str, set[str]]:
    """Everything on this machine that is this testbed's: by its name, or by a number it had."""
    home = str(testbed.home() / NAME)
    namespace = f"stackpad-{NAME}-"
    lines = Path("/proc/mounts").read_text().splitlines()
    # Not rglob: others' groups go while we look.
    groups = [Path(above, name) for above, names, _ in os.walk("/sys/fs/cgroup") for name in names if namespace in name]
    rules = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    return {
        "namespaces": {path.name for path in Path("/run/netns").glob(f"{namespace}*")},
        "links": {f"sptest{number}" for number in numbers if f" sptest{number}@" in links},
        "mounts": {line for line in lines if home in line or namespace in line},
        "control groups": {str(path) for path in groups},
        "tables": {line for line in rules.splitlines() if "stackpad" in line or "docker" in line.lower()},
        "files": {home} if Path(home).exists() else set(),
        "processes": processes(home),
    }


def processes(home: str) -> set[str]:
    """Processes that name the testbed's directory, or are in one of its namespaces."""
    inodes = {path.stat().st_ino for path in Path("/run/netns").glob(f"stackpad-{NAME}-*")}
    found = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid() and alive(int(process.name)):
            try:
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if home in line or (process / "ns/net").stat().st_ino in inodes:
                    found.add(f"{process.name} {line}")
            except OSError:
                continue
    return found


def shims() -> set[str]:
    """The containers' parents, which lead a life of their own when an engine is killed, and every plugin."""
    found = set()
    for process in Path("/proc").iterdir():
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"/{NAME}/" in line:
            found.add(line)
    return found


@pytest.fixture
def clean() -> Iterator[dict[str, set[str]]]:
    """What there is before; the testbed is taken down after the test, whatever happened."""
    command("down", "--name", NAME)
    before = census(set())
    yield before
    command("down", "--name", NAME)


def test_up_exec_up_again_and_down_without_a_trace(clean: dict[str, set[str]]) -> None:
    up = command("up", "--name", NAME, "--nodes", "2", "--no-ingress")
    said = last_line(up)
    made = testbed.find(NAME)
    assert made is not None
    assert {"nodes", "base_domain", "https", "ca"} <= said.keys()
    assert [node["name"] for node in said["nodes"]] == ["n1", "n2"]
    assert "n2: engine debian12" in up.stderr

    for node in said["nodes"]:
        version = subprocess.run(
            ["docker", "version", "--format", "{{.Server.Version}}"],
            env={**os.environ, "DOCKER_HOST": node["docker_host"]}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert version.stdout.strip() == node["engine"]
        assert node["engine"].startswith("20.10")
        assert Path("/run/netns", node["netns"]).exists()

    n1, n2 = said["nodes"]
    assert f"inet {n1['address']}/24" in command("exec", "--name", NAME, "n1", "--", "ip", "addr").stdout
    plugins = command("exec", "--name", NAME, "n1", "--", "docker", "plugin", "ls", "--format", "{{.Name}} {{.Enabled}}")
    assert plugins.stdout.split() == ["stackpad/net:latest", "true"]
    assert "stackpad/test" in command("exec", "--name", NAME, "n2", "docker", "images").stdout
    for reached in (n2["address"], n2["address6"], "198.51.100.1", "2001:db8:ffff::1", "169.254.169.254"):
        ping = command("exec", "--name", NAME, "n1", "--", "ping", "-c1", "-W2", reached)
        assert ping.returncode == 0, (reached, ping.stdout)
    assert subprocess.run(["ping", "-c1", "-W2", n2["address"]], capture_output=True, check=False).returncode == 0
    assert command("exec", "--name", NAME, "n1", "--", "sh", "-c", "exit 7").returncode == 7
    unknown = command("exec", "--name", NAME, "n9", "--", "true")
    assert unknown.returncode == 1
    assert "no node n9: there are n1, n2" in unknown.stderr

    # A container that still runs, a server somebody forgot, and a process that hides in its directory.
    run = ["docker", "run", "--detach", "stackpad/test:latest", "sleep", "900"]
    assert command("exec", "--name", NAME, "n1", "--", *run).returncode == 0
    forgotten = "exec setsid sleep 900 > /dev/null 2>&1 &"
    assert command("exec", "--name", NAME, "n2", "--", "sh", "-c", forgotten).returncode == 0

    again = command("up", "--name", NAME, "--nodes", "2")
    assert last_line(again) == said
    assert "up already" in again.stderr
    assert said in last_line(command("status"))

    numbers = {made.plan.number}
    there = census(numbers)
    assert there["links"]
    assert len(there["namespaces"]) == 3
    assert there["processes"]

    down = command("down", "--name", NAME)
    assert down.returncode == 0, down.stderr
    assert census(numbers) == clean
    assert not shims()
    again = command("down", "--name", NAME)
    assert again.returncode == 0
    assert f"no testbed {NAME} is up" in again.stderr


def test_one_that_was_killed_half_way_is_made_again(clean: dict[str, set[str]]) -> None:
    line = [sys.executable, "-m", "tests.testbed", "up", "--name", NAME, "--no-plugin", "--no-ingress"]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not Path(f"/run/netns/stackpad-{NAME}-n1").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()

    up = command("up", "--name", NAME, "--no-plugin", "--no-ingress")
    said = last_line(up)
    assert "left half-made" in up.stderr
    assert said["nodes"][0]["engine"]
    made = testbed.find(NAME)
    assert made is not None
    assert command("down", "--name", NAME).returncode == 0
    assert census({made.plan.number}) == clean
    assert not shims()


def test_one_that_cannot_come_up_cleans_up_and_says_why(clean: dict[str, set[str]]) -> None:
    up = command("up", "--name", NAME, "--engine", "sarge")
    assert up.returncode == 1
    assert "engine 'sarge' is unknown" in up.stderr
    assert up.stdout == ""
    assert census(set()) == clean
