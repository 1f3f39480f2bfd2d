"""Looks at a node from outside the plugin and says what is not as it should be, and what to do."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stackpad.cli import client
from stackpad.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Check:
    """One finding; ``remedy`` matters where ``ok`` is false."""

    check: str
    ok: bool
    found: str
    remedy: str


def examine(plugin_socket: Path, ingress_socket: Path) -> Iterator[Check]:
    """All checks, the fundamental ones first; what depends on a failed one is left out."""
    try:
        status = client.plugin(plugin_socket, "/status")
    except Unavailable as error:
        yield Check("plugin answers", False, str(error), "docker plugin enable stackpad/net")
        return
    yield Check("plugin answers", True, "yes", "")
    yield Check("kernel in step", status["ready"], "yes" if status["ready"] else "not yet", "see the engine's log")
    yield _engine(status["engine"])
    plain = plugin_socket.parents[1] / "docker/plugins/stackpad.sock"
    yield Check(
        "plain driver name",
        plain.exists(),
        f"{plain} is {'there' if plain.exists() else 'missing'}",
        "docker plugin disable -f stackpad/net && docker plugin enable stackpad/net",
    )
    forwarding = Path("/proc/sys/net/ipv4/ip_forward").read_text().strip()
    yield Check("forwarding", forwarding == "1", f"net.ipv4.ip_forward = {forwarding}", "sysctl -w net.ipv4.ip_forward=1")
    yield _command("firewall tables", ["nft", "list", "table", "inet", "stackpad"], "chain forward_guard")
    yield _command("accepted by Docker's chains", ["iptables", "-S"], "--comment stackpad")
    for problem in status["problems"]:
        yield Check("plugin's own word", False, problem, "see the text")
    yield from _ingress(ingress_socket)


def _engine(version: str | None) -> Check:
    name = "engine"
    if version is None:
        return Check(name, False, "does not answer the plugin", "systemctl status docker")
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    if numbers < (20, 10):
        return Check(name, False, version, "upgrade to 20.10 or later")
    if (29, 0, 0) <= numbers < (29, 0, 3):
        return Check(name, False, version, "this engine crashes with network plugins; upgrade to 29.0.3 or later")
    return Check(name, True, version, "")


def _command(name: str, command: list[str], expected: str) -> Check:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(name, False, f"{command[0]}: {error}", f"install {command[0]}")
    there = expected in done.stdout
    return Check(name, there, "there" if there else "missing", "wait a second; if it stays so, see the plugin's log")


def _ingress(path: Path) -> Iterator[Check]:
    if not path.exists():
        return
    try:
        report: Any = client.ingress(path)
    except Unavailable as error:
        yield Check("ingress answers", False, str(error), "start the ingress")
        return
    yield Check("Caddy in step", not report["problem"], report["problem"] or "yes", "is Caddy running?")
    for row in report["problems"]:
        yield Check("web service", False, f"{row['container']}: {row['problem']}", "see the text")
