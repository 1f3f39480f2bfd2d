"""What somebody on the wire between the nodes sees: WireGuard, and nothing of a tenant's, whatever happens meanwhile.

The capture is at the switch, so it sees all that goes from node to node. It looks for words that containers send, for
their addresses (IPv4 as the pair in a header, for four bytes alone are in any noise) and for names.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest

from tests.e2e.life import Life
from tests.e2e.scene import INTERNET, Scene
from tests.e2e.wire import Capture, capture
from tests.e2e.workbench import eventually, hold

WORD = b"sixteen in clear"
"""What every ping carries, and what must not be seen."""

SHOP = "clear-production"
ADDRESSES = {1: ("172.31.81.9", "fd5a:c1ea:0:1::9"), 2: ("172.31.82.9", "fd5a:c1ea:0:2::9")}
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


@pytest.mark.timeout(900)
def test_nothing_is_in_clear_in_any_moment_of_change(life: Life, tmp_path: Path) -> None:
    """While a node joins, another one is rebooted, plugins and the tunnel with them are killed, and a key is changed."""
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

    eventually(met, "the two to meet")
    with capture(Path("/run/netns", life.bed.plan.switch), tmp_path / "all", what="not arp") as seen:
        life.bench[3].node.stackpad("node", "leave", "--yes", configures=True)
        ended, said = life.join(3, life.token())
        assert ended == 0, said
        for number in (2, 1):
            os.kill(life.bench[number].node.plugin_pid(), signal.SIGKILL)
            hold(0.5)
            life.bench[number].wait_plugin()
            eventually(met, f"the two to meet after node {number}'s plugin was killed", 90)
        eventually(lambda: all(map(life.connected, life.bench)), "the nodes to reach the store", 90)
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
