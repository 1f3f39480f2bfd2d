"""Nodes that die and come back, are cut off, or are removed when they are dead: what the others see, and in which order.

How long it takes is noted, and asserted on only in one direction that noise cannot turn: not before its lease can have
ended. Measured without tests beside it: ``tests/bench/mesh.py``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.life import ENVIRONMENT, Life
from tests.e2e.workbench import eventually, everything
from tests.testbed.shell import run, say

DUAL = ("--ipv6", "--ipam-driver", "stackpad")
LEASE, RENEWED = 10.0, 2.5
"""Seconds: a node's lease, and how often it renews it (docs/store.md)."""

Row = dict[str, Any]


class Death(Life):
    """A server on each node, and how each node sees the others."""

    def people(self) -> None:
        """The servers."""
        for number in self.bench:
            self.bench[number].network(ENVIRONMENT, *DUAL)
            self.bench[number].serve(f"web{number}", ENVIRONMENT, "--restart", "always")
        eventually(lambda: all(self.sees(here, there) for here in self.bench for there in self.bench), "the names", 60)

    def sees(self, here: int, there: int, name: str = "web") -> bool:
        """Whether a node's server finds another's."""
        return self.finds(here, f"web{here}", f"{name}{there}")

    def row(self, here: int, there: int) -> Row:
        """What one node says of another in the store; of the tunnel to it nothing, for that changes."""
        done = self.bench[here].node.stackpad("node", "ls", "--json", check=False)
        rows = json.loads(done.stdout)["nodes"]
        found = next(row for row in rows if row["name"] == self.name(there))
        kept = ("id", "name", "public_key", "mesh", "endpoints", "blocks", "ranges", "networks", "alive")
        return {key: found[key] for key in kept}

    def all_meet(self) -> bool:
        """Whether each server finds and reaches each."""
        return all(
            self.sees(here, there)
            and self.meet(here, f"web{here}", self.bench[there].node.address_of(f"web{there}", ENVIRONMENT))
            for here in self.bench
            for there in self.bench
            if here != there
        )

    def routes(self, here: int) -> str:
        """A node's routes to the others' ranges."""
        return "".join(
            self.bench[here].exec("ip", f"-{version}", "route", "show", "proto", "83").stdout for version in (4, 6)
        )

    @contextlib.contextmanager
    def no_plugin(self, number: int) -> Iterator[None]:
        """A node's plugin killed, and its engine kept from starting it again."""
        engine = int((self.bench[number].node.home / "docker.pid").read_text())
        os.kill(engine, signal.SIGSTOP)
        try:
            os.kill(self.bench[number].node.plugin_init(), signal.SIGKILL)
            yield
        finally:
            os.kill(engine, signal.SIGCONT)
            self.bench[number].wait_plugin()

    @contextlib.contextmanager
    def no_power(self, number: int) -> Iterator[None]:
        """A node without power: its link is down, and nothing of it runs."""
        self.bench[number].node.power_off()
        try:
            yield
        finally:
            self.bench[number].node.power_on()
            self.bench[number].wait_plugin()

    @contextlib.contextmanager
    def cut_off(self, number: int) -> Iterator[None]:
        """A node that runs, and that the switch lets nothing through to or from."""
        switch, port = self.bed.plan.switch, self.bed.nodes[number - 1].name
        rules = f"""
        table bridge cut {{
          chain cut {{
            type filter hook forward priority 0
            iifname {port} drop
            oifname {port} drop
          }}
        }}"""
        run("ip", "netns", "exec", switch, "nft", "-f", "-", script=rules)
        try:
            yield
        finally:
            run("ip", "netns", "exec", switch, "nft", "delete", "table", "bridge", "cut")


@pytest.fixture
def death(life: Life) -> Death:
    made = Death(life.bed)
    made.people()
    return made


@pytest.mark.parametrize("how", ["no_plugin", "no_power"])
def test_the_names_of_a_node_that_dies_leave_everywhere_and_come_back(death: Death, how: str) -> None:
    """The second of three. Its names go because its lease has ended, no sooner, and its record stays as it was."""
    before, others = death.row(1, 2), (1, 3)
    assert before["alive"]
    began = time.monotonic()
    with getattr(death, how)(2):
        gone: dict[int, float] = {}

        def left() -> bool:
            for here in others:
                if here not in gone and not death.sees(here, 2):
                    gone[here] = time.monotonic() - began
                    assert not death.row(here, 2)["alive"], "a name is gone although its node is taken to be alive"
            return len(gone) == len(others)

        eventually(left, "its name to leave both other nodes", 120)
        for here, seconds in gone.items():
            say(f"{how}, gone on n{here}: {seconds:.1f} s")
            # Renewed so long ago, or on a slow machine twice so long.
            assert seconds > LEASE - 2 * RENEWED - 1, "its lease cannot have ended yet"
            assert death.sees(here, here), "names of the living stay"
        assert death.row(1, 2) == {**before, "alive": False}, "nothing of it is given to others"
        for here in others:
            assert [block for block in before["blocks"] if block not in death.routes(here)] == [], "its ways stay"
    back = time.monotonic()
    eventually(lambda: all(death.sees(here, 2) for here in others), "its name to come back to both", 120)
    say(f"{how}, back on both, after its plugin was ready: {time.monotonic() - back:.1f} s")
    assert all(death.row(here, 2)["alive"] for here in others)
    # A container that had no address of its own choice may have another one after a reboot of its node.
    assert {**death.row(1, 2), "endpoints": None} == {**before, "endpoints": None}
    eventually(death.all_meet, "everybody to meet", 60)


def test_two_halves_agree_again_without_a_restart(death: Death) -> None:
    """The third node is cut off; on both sides containers and networks come and go; then the cable is in again."""
    pids = {number: bench.node.plugin_pid() for number, bench in death.bench.items()}
    for number in (1, 3):
        death.bench[number].start(f"old{number}", ENVIRONMENT)
    eventually(
        lambda: death.sees(1, 3, "old") and death.sees(3, 1, "old") and death.sees(2, 3, "old"), "the old ones", 30
    )
    with death.cut_off(3):
        eventually(lambda: not death.sees(1, 3) and not death.sees(2, 3), "the one cut off to be missed", 120)
        eventually(lambda: not death.connected(3), "the one cut off to see it", 120)
        assert death.sees(1, 2)
        assert death.sees(2, 1)
        for number in (1, 3):
            bench = death.bench[number]
            bench.docker("rm", "--force", f"old{number}")
            bench.serve(f"new{number}", ENVIRONMENT)
            bench.network("late-production", *DUAL)
            bench.serve(f"late{number}", "late-production")
        assert death.finds(3, "web3", "new3"), "on either side life goes on"
        assert death.finds(2, "web2", "new1")
        assert not death.finds(2, "web2", "new3")
    address = {
        (number, version, name): death.bench[number].node.address_of(f"{name}{number}", network, version)
        for number in (1, 3)
        for version in (4, 6)
        for name, network in (("new", ENVIRONMENT), ("late", "late-production"))
    }

    def agreed() -> bool:
        return (
            all(death.sees(here, there) for here in death.bench for there in death.bench)
            and all(death.sees(here, there, "new") for here in death.bench for there in (1, 3))
            and not any(death.sees(here, there, "old") for here in death.bench for there in (1, 3))
            and death.finds(1, "late1", "late3")
            and death.finds(3, "late3", "late1")
        )

    eventually(agreed, "both halves to agree", 120)
    for version in (4, 6):
        for here, there in ((1, 3), (3, 1)):
            for name in ("new", "late"):
                assert death.bench[here].reaches(f"{name}{here}", *everything(address[there, version, name]))
        assert death.bench[1].cut_off("late1", *everything(address[3, version, "new"]))
    assert {number: bench.node.plugin_pid() for number, bench in death.bench.items()} == pids, "nobody was restarted"


def test_a_dead_node_is_removed(death: Death) -> None:
    """Its names, ways and addresses go while it is off; and when it is on again it is a stranger, who may join."""
    death.bench[3].docker("update", "--restart", "no", "web3")
    blocks, mesh = death.row(1, 3)["blocks"], death.row(1, 3)["mesh"]
    with death.no_power(3):
        eventually(lambda: not death.row(1, 3)["alive"], "the node to be missed", 120)
        assert any(block in death.routes(1) for block in blocks), "until it is removed, ways to it stay"
        death.bench[1].node.stackpad("node", "rm", death.name(3), "--yes")
        for here in (1, 2):
            eventually(lambda: not any(block in death.routes(here) for block in blocks), "the ways to it to go", 30)  # noqa: B023
            assert not death.sees(here, 3)
            names = json.loads(death.bench[here].node.stackpad("services", "--json", check=False).stdout)
            assert "web3" not in json.dumps(names)
            peers = [death.bench[here].exec("nft", "list", "set", "inet", "stackpad", f"peers{v}").stdout for v in (4, 6)]
            assert not [address for address in mesh if address in str(peers)]
        assert death.name(3) not in death.nodes()
        assert death.sees(1, 2)
        freed = next(block for block in blocks if "." in block)
        early = death.bench[1].try_docker("network", "create", "--driver", "stackpad", "--subnet", freed, "early")
        assert "given back a short while ago" in early.stderr, "its addresses are not another's for ten minutes"
    assert not death.connected(3), "nobody lets it in any more"
    death.bench[3].node.stackpad("node", "leave", "--yes", configures=True)
    ended, said = death.join(3, death.token())
    assert ended == 0, said
    death.bench[3].node.restart_engine()
    death.bench[3].wait_plugin()
    assert death.nodes()[death.name(3)] == "alive"
