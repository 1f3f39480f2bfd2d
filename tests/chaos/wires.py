"""Faults of what carries the traffic: the underlay, the firewall, links, routes and peers."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from tests.chaos.fault import CONTROL, PARTED, TRAFFIC_STOPS, UNNOTICED, WORKER, Goal, Place, fault
from tests.chaos.scene import ENVIRONMENT, address
from tests.chaos.seed import SEED
from tests.testbed import network
from tests.testbed.shell import ROOT, Failed, run, say

REPAIRED = Goal(still=(), across=None)
"""What somebody damaged is put right within the time for convergence, and nobody else notices."""

LAME = Goal(still=("same", "published"), across=None, others=True)


@contextlib.contextmanager
def underlay(place: Place, *rules: str) -> Iterator[None]:
    """Rules on the switch between the nodes; the way to the outside is not through it."""
    switch = ["ip", "netns", "exec", place.scene.bed.plan.switch, "nft"]
    body = "; ".join(rules)
    chain = f"chain cut {{ type filter hook forward priority 0; {body}; }}"
    run(*switch, "-f", "-", script=f"table bridge cut {{\n{chain}\n}}\n")
    try:
        yield
    finally:
        run(*switch, "delete", "table", "bridge", "cut")


@fault("nothing comes from the other nodes", goal=PARTED, hold=6)
def deaf(place: Place) -> Iterator[None]:
    with underlay(place, f"oifname {place.node.name} drop"):
        yield


@fault("nothing goes to the other nodes", goal=PARTED, hold=6)
def mute(place: Place) -> Iterator[None]:
    with underlay(place, f"iifname {place.node.name} drop"):
        yield


@fault("cut off from the other nodes for longer than the lease", goal=PARTED, hold=16, daily=True)
def parted(place: Place) -> Iterator[None]:
    with underlay(place, f"iifname {place.node.name} drop", f"oifname {place.node.name} drop"):
        yield


@fault("one packet in ten is lost between the nodes", goal=LAME, hold=15, roles=(WORKER,),
       note="by nftables, where the kernel has no netem")  # fmt: skip
def lossy(place: Place) -> Iterator[None]:
    drop = "numgen random mod 10 == 0 drop"
    with underlay(place, f"iifname {place.node.name} {drop}", f"oifname {place.node.name} {drop}"):
        yield


@fault("packets between nodes late, in another order, and twice", goal=Goal(across=1.0), hold=15,
       note="in user space: one packet in 20 waits 2 to 20 ms, others pass it; one in 50 comes twice")  # fmt: skip
def shuffled(place: Place) -> Iterator[None]:
    """Frames take the way through a pair of links of ours instead of the node's own port on the switch.

    The pair works before the port is taken away and after it is back, so that the change itself loses nothing.
    """
    switch, port = place.scene.bed.plan.switch, place.node.name
    link = ["ip", "-n", switch, "link"]
    (of_all,) = json.loads(run("ip", "-n", switch, "-j", "link", "show", network.BRIDGE).stdout)
    # It takes its lowest port's otherwise, and neighbours would not know it again.
    run(*link, "set", network.BRIDGE, "address", of_all["address"])
    run(*link, "add", "far", "address", "fe:ff:ff:ff:ff:01", "type", "veth", "peer", "name", "near")
    try:
        # One packet a frame: what is cut into packets only behind us would all be late together.
        run(*link, "set", "near", "gso_max_segs", "1", "master", network.BRIDGE, "up")
        run(*link, "set", "far", "up")
        place.bench.exec("ip", "link", "set", "eth0", "gso_max_segs", "1")
        with _shuffle(switch, port, "far"):
            run(*link, "set", port, "nomaster")
            try:
                yield
            finally:
                run(*link, "set", port, "master", network.BRIDGE)
                time.sleep(0.2)
    finally:
        place.bench.exec("ip", "link", "set", "eth0", "gso_max_segs", "65535")
        run(*link, "delete", "far")


@contextlib.contextmanager
def _shuffle(netns: str, near: str, far: str) -> Iterator[None]:
    words = ["ip", "netns", "exec", netns, sys.executable, "-m", "tests.chaos.shuffle", near, far, SEED]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            if process.stdout.readline() != "ready\n":
                raise Failed("nobody passes the frames on")
            yield
        finally:
            process.terminate()
            say(f"frames of {near}: {process.stdout.read().strip()}, STACKPAD_SEED={SEED}")


@fault("iptables -F", goal=REPAIRED)
def iptables_flushed(place: Place) -> Iterator[None]:
    place.bench.exec("iptables", "-F")
    yield


@fault("nft flush ruleset", goal=REPAIRED,
       note="Docker's chains come back with its engine only; until then no accept is needed")  # fmt: skip
def rules_flushed(place: Place) -> Iterator[None]:
    place.bench.exec("nft", "flush", "ruleset")
    yield


@fault("somebody else's table that drops all that is forwarded", goal=REPAIRED, roles=(WORKER,), hold=4)
def foreign_table(place: Place) -> Iterator[None]:
    rules = "table inet foreign {\nchain drops { type filter hook forward priority 10; policy drop; }\n}\n"
    place.bench.exec("nft", "-f", "-", script=rules)
    yield
    place.bench.exec("nft", "delete", "table", "inet", "foreign")


@fault("our table of the bridges deleted", goal=UNNOTICED, note="without it, senders are not checked until it is back")
def bridge_table_deleted(place: Place) -> Iterator[None]:
    place.bench.exec("nft", "delete", "table", "bridge", "stackpad")
    yield


@fault("a rule of ours deleted", goal=REPAIRED, roles=(WORKER,))
def rule_deleted(place: Place) -> Iterator[None]:
    """The first rule of the chain that all forwarded packets pass."""
    listed = place.bench.exec("nft", "-a", "list", "table", "inet", "stackpad").stdout
    chain, handle = "", ""
    for line in listed.splitlines():
        if found := re.match(r"\tchain (\w+) \{", line):
            chain, handle = found[1], ""
        if "hook forward" in line:
            handle = "next"
        elif handle == "next" and (number := re.search(r"# handle (\d+)$", line)):
            handle = number[1]
            break
    if not handle.isdigit():
        raise Failed("there is no chain of forwarded packets")
    place.bench.exec("nft", "delete", "rule", "inet", "stackpad", chain, "handle", handle)
    yield


@fault("our bridge deleted", goal=REPAIRED)
def bridge_deleted(place: Place) -> Iterator[None]:
    place.bench.exec("ip", "link", "delete", bridge(place))
    yield


@fault("our bridge set down", goal=REPAIRED, roles=(WORKER,))
def bridge_down(place: Place) -> Iterator[None]:
    place.bench.exec("ip", "link", "set", bridge(place), "down")
    yield


@fault("our bridge's address deleted", goal=REPAIRED, roles=(WORKER,))
def address_deleted(place: Place) -> Iterator[None]:
    gateway = address(place.number).rpartition(".")[0] + ".1"
    place.bench.exec("ip", "address", "delete", f"{gateway}/24", "dev", bridge(place))
    yield


@fault("a container's veth taken off the bridge", goal=REPAIRED, roles=(WORKER,))
def veth_released(place: Place) -> Iterator[None]:
    place.bench.exec("ip", "link", "set", veth(place, "srv"), "nomaster")
    yield


@fault("a container's veth deleted", roles=(WORKER,),
       goal=Goal(still=(), across=None),
       note="the engine alone can put a new one into the container: start it again")  # fmt: skip
def veth_deleted(place: Place) -> Iterator[None]:
    place.bench.exec("ip", "link", "delete", veth(place, "srv"))
    yield


@fault("our routes to other nodes deleted", goal=REPAIRED, roles=(WORKER,))
def routes_deleted(place: Place) -> Iterator[None]:
    for each in json.loads(place.bench.exec("ip", "-j", "route", "show", "dev", "sp-wg", "proto", "83").stdout):
        place.bench.exec("ip", "route", "delete", each["dst"], "dev", "sp-wg")
    yield


@fault("a WireGuard peer removed", goal=REPAIRED)
def peer_removed(place: Place) -> Iterator[None]:
    """The peer is the other one of the first two nodes."""
    other = place.scene.bed.nodes[WORKER - place.number]
    rows = place.bench.admin("/cluster")["nodes"]
    key = next(row["public_key"] for row in rows if any(other.address in end for end in row["endpoints"]))

    text = f"set=1\npublic_key={base64.b64decode(key).hex()}\nremove=true\n\n"
    with socket.socket(socket.AF_UNIX) as wire:
        wire.connect(f"/proc/{place.node.plugin_pid()}/root/run/wireguard/sp-wg.sock")
        wire.sendall(text.encode())
        if b"errno=0" not in wire.recv(4096):
            raise Failed("the peer could not be removed")
    yield


@fault("the tunnel's link set down", goal=REPAIRED, roles=(CONTROL,))
def tunnel_down(place: Place) -> Iterator[None]:
    place.bench.exec("ip", "link", "set", "sp-wg", "down")
    yield


@fault("the tunnel's link deleted", goal=REPAIRED, roles=(CONTROL, WORKER))
def tunnel_deleted(place: Place) -> Iterator[None]:
    place.bench.exec("ip", "link", "delete", "sp-wg")
    yield


@fault("ip_forward switched off", goal=REPAIRED, roles=(WORKER,))
def forwarding_off(place: Place) -> Iterator[None]:
    place.bench.exec("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")
    yield


@fault("another address on the uplink", goal=Goal(still=("same",), across=1.0), hold=8, roles=(WORKER,),
       note="the others learn where it is from what it sends")  # fmt: skip
def address_changed(place: Place) -> Iterator[None]:
    plan, spec = place.scene.bed.plan, place.node.spec
    moved = spec.address.rpartition(".")[0] + ".77"
    address = ["ip", "-n", spec.netns, "addr"]
    run(*address, "del", f"{spec.address}/24", "dev", "eth0")
    run(*address, "add", f"{moved}/24", "dev", "eth0")
    run("ip", "-n", spec.netns, "route", "replace", "default", "via", plan.gateway)
    yield
    run(*address, "del", f"{moved}/24", "dev", "eth0")
    network.connect(plan, spec)


@fault("the uplink without a cable", goal=TRAFFIC_STOPS, hold=5, roles=(WORKER,))
def uplink_down(place: Place) -> Iterator[None]:
    cable = ["ip", "-n", place.scene.bed.plan.switch, "link", "set", place.node.name]
    run(*cable, "down")
    yield
    run(*cable, "up")


def bridge(place: Place) -> str:
    """The environment's bridge."""
    return str(next(row["bridge"] for row in place.bench.admin("/networks") if row["name"] == ENVIRONMENT))


def veth(place: Place, what: str) -> str:
    """The node's end of a container's pair, by the container's end's number for it."""
    sandbox = place.bench.docker("inspect", "-f", "{{.State.Pid}}", f"{what}{place.number}").strip()
    (link,) = json.loads(run("nsenter", f"--net=/proc/{sandbox}/ns/net", "ip", "-j", "link", "show", "eth0").stdout)
    links = json.loads(place.bench.exec("ip", "-j", "link").stdout)
    return str(next(each["ifname"] for each in links if each["ifindex"] == link["link_index"]))
