"""The wires: a namespace with a bridge in it for each testbed, and one per node."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from tests.testbed.plan import OUTSIDE, NodePlan, Plan
from tests.testbed.shell import run

BRIDGE = "switch"


def lay(plan: Plan) -> None:
    """Make the switch, the nodes' namespaces and the machine's own link to them."""
    _namespace(plan.switch)
    # A namespace of its own for the switch: an engine has every bridge beside it pass its packets through iptables.
    _ip(plan.switch, "link", "add", BRIDGE, "type", "bridge")
    _ip(plan.switch, "link", "set", BRIDGE, "up")
    for address in (f"{plan.gateway}/24", f"{plan.gateway6}/64"):
        _ip(plan.switch, "addr", "add", address, "dev", BRIDGE, "nodad" if ":" in address else "noprefixroute")
    _ip(plan.switch, "route", "replace", f"10.89.{plan.number}.0/24", "dev", BRIDGE)
    for address in OUTSIDE:
        _ip(plan.switch, "addr", "add", address, "dev", "lo")
    for node in plan.nodes:
        _wire(plan, node)
    run("ip", "link", "add", plan.machine_link, "type", "veth", "peer", "name", "machine", "netns", plan.switch)
    _ip(plan.switch, "link", "set", "machine", "master", BRIDGE, "up")
    run("ip", "addr", "add", f"{plan.machine_address}/24", "dev", plan.machine_link)
    run("ip", "link", "set", plan.machine_link, "up")


def take_up(plan: Plan) -> None:
    """Remove all of it; what is not there is passed over."""
    for pid in inhabitants(plan.switch):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    run("ip", "link", "del", plan.machine_link, check=False)
    for netns in [node.netns for node in plan.nodes] + [plan.switch]:
        run("ip", "netns", "del", netns, check=False)


def connect(plan: Plan, node: NodePlan) -> None:
    """Give a node's uplink its addresses and routes; also after they were wiped."""
    for address in (f"{node.address}/24", f"{node.address6}/64"):
        _ip(node.netns, "addr", "replace", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
    for name in ("lo", "eth0"):
        _ip(node.netns, "link", "set", name, "up")
    _ip(node.netns, "route", "replace", "default", "via", plan.gateway)
    _ip(node.netns, "-6", "route", "replace", "default", "via", plan.gateway6)


def inhabitants(netns: str) -> list[int]:
    """The processes that live in a namespace."""
    try:
        wanted = Path(f"/run/netns/{netns}").stat().st_ino
    except FileNotFoundError:
        return []
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if (process / "ns/net").stat().st_ino == wanted:
                    found.append(int(process.name))
            except OSError:
                continue
    return found


def _namespace(name: str) -> None:
    run("ip", "netns", "add", name)
    _ip(name, "link", "set", "lo", "up")


def _wire(plan: Plan, node: NodePlan) -> None:
    _namespace(node.netns)
    run(
        "ip",
        "-n",
        node.netns,
        "link",
        "add",
        "eth0",
        "type",
        "veth",
        "peer",
        "name",
        node.name,
        "netns",
        plan.switch,
    )
    _ip(plan.switch, "link", "set", node.name, "master", BRIDGE, "up")
    connect(plan, node)


def _ip(netns: str, *arguments: str) -> None:
    run("ip", "-n", netns, *arguments)
