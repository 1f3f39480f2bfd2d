"""What somebody on the wire between the nodes sees: WireGuard, and nothing of a tenant's, whatever happens meanwhile.

The capture is at the switch, so it sees all that goes from node to node. It looks for words that containers send, for
their addresses (IPv4 as the pair in a header, for four bytes alone are in any noise) and for names.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path

import pytest

from tests.e2e.life import Life
from tests.e2e.scene import INTERNET, Scene
from tests.e2e.wire import Capture, capture
from tests.e2e.workbench import eventually, hold
from tests.testbed.node import PLUGIN

WORD = b"sixteen in clear"
"""What every ping carries, and what must not be seen."""

SHOP = "clear-production"
ADDRESSES = {1: ("172.31.81.9", "fd5a:c1ea:0:1::9"), 2: ("172.31.82.9", "fd5a:c1ea:0:2::9")}
THIRD = ("172.31.83.9", "fd5a:c1ea:0:3::9")
CALL = "while :; do ping -q -i 0.1 -c 20 -s 64 -W 1 -p {word} {address}; sleep 0.1; done"


def in_clear(seen: Capture, addresses: list[str], words: list[bytes]) -> list[str]:
    """What of a tenant's is in a capture."""
    pairs = [pair for pair in permutations(addresses, 2) if all("." in address for address in pair)]
    found = [f"{a} to {b}" for a, b in pairs if seen.packed(a) + seen.packed(b) in seen.seen]
    found += [address for address in addresses if ":" in address and seen.packed(address) in seen.seen]
    return found + [str(word) for word in words if word in seen.seen]


@pytest.mark.replay("S29", "S42")
def test_nothing_is_in_clear_on_the_underlay(three: Scene, tmp_path: Path) -> None:
    with capture(Path("/run/netns", three.bed.plan.switch), tmp_path / "all") as seen:
        for version in (4, 6):
            assert three.reaches("a1", "a2", version)
            assert three.reaches("a3", "a1", version)
        three.resolve("a1", "a3")
        visible(seen, lambda: run_ping(three, INTERNET))
    assert in_clear(seen, [a for of_it in three.address.values() for a in of_it.values()], [b"hello", b"shop-"]) == []
    assert (51820).to_bytes(2, "big") in seen.seen


def run_ping(scene: Scene, address: str) -> None:
    """Ping with the word from a container, once."""
    assert scene.at("a1").node.inside("a1", "ping", "-c", "1", "-s", "64", "-p", WORD.hex(), address)[0] == 0


def visible(seen: Capture, send: Callable[[], object]) -> None:
    """Show that the capture sees what is in clear, once all else has been sent; its packets are the last ones."""
    assert WORD not in seen.seen
    send()
    eventually(lambda: WORD in seen.seen, "what is in clear to be captured", 30)


def calling(life: Life) -> Callable[[], bool]:
    """Containers on two nodes that call each other all the time, also after a reboot; returns whether they meet."""
    for number, (four, six) in ADDRESSES.items():
        ranges = ("--subnet", four.rpartition(".")[0] + ".0/24", "--ipv6", "--subnet", six.rpartition("::")[0] + "::/64")
        life.bench[number].network(SHOP, *ranges)
        options = ("--ip", four, "--ip6", six, "--restart", "always")
        callee = ADDRESSES[3 - number]
        calls = " & ".join(CALL.format(word=WORD.hex(), address=address) for address in callee)
        life.bench[number].start(f"caller{number}", SHOP, *options, command=("sh", "-c", calls))

    def met() -> bool:
        return all(
            life.bench[number].node.inside(f"caller{number}", "ping", "-c", "1", "-W", "2", address)[0] == 0
            for number in ADDRESSES
            for address in ADDRESSES[3 - number]
        )

    return met


@pytest.mark.timeout(900)
def test_nothing_is_in_clear_in_any_moment_of_change(life: Life, tmp_path: Path) -> None:
    """While a node joins, another one is rebooted, plugins and the tunnel with them are killed, and a key is changed."""
    met = calling(life)
    eventually(met, "the two to meet")
    with capture(Path("/run/netns", life.bed.plan.switch), tmp_path / "all", what="not arp") as seen:
        life.bench[3].node.stackpad("node", "leave", "--yes", configures=True)
        ended, said = life.join(3, life.token())
        assert ended == 0, said
        for number in (2, 1):
            os.kill(life.bench[number].node.plugin_init(), signal.SIGKILL)
            hold(0.5)
            life.bench[number].wait_plugin()
            eventually(met, f"the two to meet after node {number}'s plugin was killed", 90)
        life.all_connected(90)
        for number in (1, 2):
            done = life.bench[number].node.stackpad("node", "rotate-key", check=False)
            assert done.returncode == 0, done.stderr
        life.bench[2].node.reboot()
        life.bench[2].wait_plugin()
        eventually(met, "the two to meet after the reboot", 90)
        size = len(seen.seen)
        last = ("ping", "-c", "1", "-s", "64", "-p", WORD.hex(), INTERNET)
        visible(seen, lambda: life.bench[1].docker("exec", "caller1", *last))
    assert size > 1000 * 100, "hardly anything was captured"
    found = in_clear(seen, [address for pair in ADDRESSES.values() for address in pair], [b"clear-production", b"caller"])
    assert found == []


@contextlib.contextmanager
def unstartable(life: Life, number: int) -> Iterator[None]:
    """The WireGuard in a node's plugin cannot be started meanwhile: not even by root, without that bit."""
    plugin = life.bench[number].docker("plugin", "inspect", "-f", "{{.Id}}", PLUGIN).strip()
    program = life.bed.nodes[number - 1].home / "data/plugins" / plugin / "rootfs/usr/bin/wireguard-go"
    mode = program.stat().st_mode
    program.chmod(0o644)
    try:
        yield
    finally:
        program.chmod(mode)


def trouble(life: Life, number: int) -> str:
    """What a node says of its cluster."""
    done = life.bench[number].node.stackpad("status", "--json", check=False)
    return "; ".join(json.loads(done.stdout)["cluster"]["problems"]) if done.stdout else ""


def calls_in_vain(life: Life, number: int, container: str) -> None:
    """A container calls the first node's, and is answered in no way."""
    for address in ADDRESSES[1]:
        ping = ("ping", "-c", "5", "-i", "0.2", "-W", "1", "-s", "64", "-p", WORD.hex(), address)
        assert life.bench[number].node.inside(container, *ping)[0] != 0, f"{container} reaches {address}"


@pytest.mark.timeout(900)
def test_nothing_is_in_clear_while_there_can_be_no_tunnel(life: Life, tmp_path: Path) -> None:
    """A node is rebooted, and another one leaves and joins again, and neither has a WireGuard that can be started."""
    met = calling(life)
    ranges = ("--ipv6", "--subnet", "172.31.83.0/24", "--subnet", "fd5a:c1ea:0:3::/64")
    life.bench[3].network(SHOP, *ranges)
    life.bench[3].start("caller3", SHOP, "--ip", THIRD[0], "--ip6", THIRD[1])
    eventually(met, "the two to meet")
    said = "there is no wireguard-go command"
    with capture(Path("/run/netns", life.bed.plan.switch), tmp_path / "all", what="not arp") as seen:
        with unstartable(life, 2):
            life.bench[2].node.reboot()
            life.bench[2].wait_plugin()
            eventually(lambda: said in trouble(life, 2), "the reason to be told", 90)
            eventually(lambda: life.bench[2].node.inside("caller2", "true")[0] == 0, "the container to be started again")
            calls_in_vain(life, 2, "caller2")
            assert not life.bench[2].exec("ip", "link", "show", "sp-wg", check=False).stdout
        eventually(met, "the two to meet when it can be started again", 90)
        life.bench[3].node.stackpad("node", "leave", "--yes", configures=True)
        with unstartable(life, 3):
            ended, why = life.join(3, life.token())
            assert ended != 0
            assert said in " ".join(why.split())
            calls_in_vain(life, 3, "caller3")
        ended, why = life.join(3, life.token())
        assert ended == 0, why
        ping = ("ping", "-c", "1", "-W", "2", ADDRESSES[1][0])
        eventually(lambda: life.bench[3].node.inside("caller3", *ping)[0] == 0, "the third to be in again", 90)
        size = len(seen.seen)
        last = ("ping", "-c", "1", "-s", "64", "-p", WORD.hex(), INTERNET)
        visible(seen, lambda: life.bench[2].docker("exec", "caller2", *last))
    assert size > 1000 * 100, "hardly anything was captured"
    addresses = [*(address for pair in (*ADDRESSES.values(), THIRD) for address in pair)]
    assert in_clear(seen, addresses, [b"clear-production", b"caller"]) == []
    # What the third was given back at its join is free again with its network.
    life.bench[3].clear()
    life.bench[3].network(SHOP, *ranges)
