"""Our nftables tables on a real kernel: what is written is read, and what somebody else writes is noticed."""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from plugin.kernel.dataplane import FILTER, PREFIXES, SWITCH, Element
from plugin.kernel.firewall import Firewall, generation
from plugin.kernel.ruleset import MAPS, SETS
from stackpad.errors import Unavailable
from tests.netns import eventually, run
from tests.testbed.shell import ROOT

pytestmark = pytest.mark.usefixtures("netns")

EXAMPLES = {
    "same_network": [("sp-0123456789ab . sp-0123456789ab", "")],
    "internal": [("sp-0123456789ab", ""), ("sp-000000000000", "")],
    "no_egress": [("sp-123456789012", "")],
    "barred": [("sp-123456789012", "")],
    "own_gateway4": [("sp-0123456789ab . 10.192.0.1", "")],
    "own_gateway6": [("sp-0123456789ab . fd00::1", ""), ("sp-0123456789ab . 2001:db8:0:1::1", "")],
    "node4": [("192.0.2.1", ""), ("203.0.113.255", "")],
    "node6": [("2001:db8::1", ""), ("2001:db8:0:1:1:1:1:1", "")],
    "uplink_bridges": [("br0", ""), ("br-lan.7", ""), ("7", "")],
    "senders4": [("spv0123456789ab . 02:50:0a:c0:00:02 . 10.192.0.2", "")],
    "senders6": [
        ("spv0123456789ab . 02:50:0a:c0:00:02 . fd00::2", ""),
        ("spv0123456789ab . 02:50:0a:c0:00:02 . fe80::50:aff:fec0:2", ""),
        ("spv0123456789ab . 02:50:0a:c0:00:02 . ::", ""),
    ],
    "own4": [("spv0123456789ab . 180355074", ""), ("spv0123456789ab . 3232235521", "")],
    "own6": [
        ("spv0123456789ab . 0xfd000000000000000000000000000002", ""),
        ("spv0123456789ab . 0x64ff9b" + 23 * "0" + "1", ""),
    ],
    "published4": [("tcp . 80", "10.192.0.2 . 8080"), ("udp . 65535", "10.192.0.2 . 1")],
    "published6": [("tcp . 443", "fd00::2 . 8443"), ("udp . 22", "fd00::2 . 22")],
    "published4_at": [("192.0.2.1 . tcp . 80", "10.192.0.2 . 80"), ("127.0.0.1 . udp . 53", "10.192.0.2 . 53")],
    "published6_at": [("2001:db8::1 . tcp . 80", "fd00::2 . 80")],
    "tunnel_only4": [("10.192.0.0/10", ""), ("192.0.2.1", "")],
    "tunnel_only6": [("fd00::/48", "")],
    "mesh_self4": [("10.192.0.1", "")],
    "mesh_self6": [("fd00::1", "")],
    "peers4": [("10.192.64.1", ""), ("10.192.128.1", "")],
    "peers6": [("fd00:0:0:100::1", "")],
    "guests4": [("10.192.0.2", "")],
    "gateways4": [("10.192.64.1", ""), ("10.192.128.1", "")],
    "gateways6": [("fd00:0:0:100::1", "")],
    "web4": [("10.192.7.2 . 80", ""), ("10.192.7.2 . 8080", "")],
    "web6": [("fd00::2 . 80", "")],
    "mesh_services": [("2379", ""), ("9483", "")],
    "join_service": [("4783", "")],
    "stores": [("10.192.0.1 . 2379", ""), ("10.192.64.1 . 12379", "")],
    "upstreams": [("20001", ""), ("64999", "")],
    "upstream4": [("20001", "10.192.0.2 . 8080"), ("33434", "10.192.0.2 . 22")],
    "upstream6": [("20001", "fd00::2 . 8080"), ("64999", "2001:db8::2 . 443")],
    "upstream4_shared": [("20001 . 0", "10.192.0.2 . 80"), ("20001 . 22", "10.192.0.3 . 80")],
    "upstream6_shared": [("20001 . 30", "fd00::2 . 80"), ("20001 . 2", "fd00::3 . 65535")],
    **{f"remote4_{length}": [("sp-0123456789ab . 10.0.0.0", "")] for length in PREFIXES[4]},
    **{f"remote6_{length}": [("sp-0123456789ab . fd00::", "")] for length in PREFIXES[6]},
}
ELEMENTS = frozenset(Element(table, name, key, value) for table, name in (*SETS, *MAPS) for key, value in EXAMPLES[name])


@pytest.fixture
def firewall(netns: None) -> Firewall:
    made = Firewall()
    made.install(ELEMENTS)
    return made


def test_there_is_an_example_for_every_set() -> None:
    assert EXAMPLES.keys() == {name for _, name in (*SETS, *MAPS)}


def test_what_is_written_is_read(firewall: Firewall) -> None:
    assert firewall.observe() == ELEMENTS
    assert firewall.intact()


@pytest.mark.parametrize("element", sorted(ELEMENTS, key=str), ids=lambda e: f"{e.set}-{e.key}")
def test_each_element_alone_comes_and_goes(element: Element) -> None:
    firewall = Firewall()
    firewall.install([])
    firewall.apply([element], [])
    assert firewall.observe() == frozenset([element])
    firewall.apply([], [element])
    assert firewall.observe() == frozenset()
    assert firewall.intact()


def test_a_key_gets_another_value_in_one_step(firewall: Firewall) -> None:
    before = Element(FILTER, "published4", "tcp . 80", "10.192.0.2 . 8080")
    after = Element(FILTER, "published4", "tcp . 80", "10.192.0.3 . 8080")
    firewall.apply([after], [before])
    assert firewall.observe() == (ELEMENTS - {before}) | frozenset([after])


def test_all_or_nothing(firewall: Firewall) -> None:
    with pytest.raises(Unavailable, match="nft refused a change of the firewall"):
        firewall.apply([Element(FILTER, "node4", "192.0.2.99")], [Element(FILTER, "node4", "192.0.2.100")])
    assert firewall.observe() == ELEMENTS


def test_installing_over_anything(firewall: Firewall) -> None:
    run("nft", "add", "rule", "inet", "stackpad", "forward_guard", "accept")
    run("nft", "add", "set", "inet", "stackpad", "foreign", "{ type ipv4_addr; }")
    firewall.install([])
    assert firewall.observe() == frozenset()
    assert "foreign" not in run("nft", "list", "ruleset")


def test_a_fresh_process_does_not_know_what_it_finds(firewall: Firewall) -> None:
    """Another version may have written it; it is replaced by what this one means."""
    fresh = Firewall()
    assert not fresh.intact()
    assert fresh.observe() is None
    fresh.install(ELEMENTS)
    assert fresh.observe() == ELEMENTS


@pytest.mark.parametrize(
    "words",
    [
        ("flush", "ruleset"),
        ("delete", "table", "bridge", "stackpad"),
        ("delete", "table", "inet", "stackpad"),
        ("flush", "chain", "inet", "stackpad", "to_node"),
        ("flush", "table", "bridge", "stackpad"),
        ("insert", "rule", "inet", "stackpad", "forward_guard", "accept"),
        ("add", "chain", "inet", "stackpad", "forward_guard", "{ policy drop; }"),
        ("add", "chain", "inet", "stackpad", "another"),
    ],
)
def test_damage_is_noticed_and_mended(firewall: Firewall, words: tuple[str, ...]) -> None:
    run("nft", *words)
    assert not firewall.intact()
    assert firewall.observe() is None
    firewall.install(ELEMENTS)
    assert firewall.observe() == ELEMENTS


@pytest.mark.parametrize(
    "words",
    [
        ("flush", "set", "bridge", "stackpad", "senders4"),
        ("flush", "map", "inet", "stackpad", "published4"),
        ("delete", "element", "inet", "stackpad", "node4", "{ 192.0.2.1 }"),
        ("add", "element", "inet", "stackpad", "node4", "{ 192.0.2.77 }"),
    ],
)
def test_elements_of_others_doing_are_seen(firewall: Firewall, words: tuple[str, ...]) -> None:
    run("nft", *words)
    assert not firewall.intact()
    seen = firewall.observe()
    assert seen is not None
    assert seen != ELEMENTS
    firewall.apply(ELEMENTS - seen, seen - ELEMENTS)
    assert firewall.observe() == ELEMENTS


def test_tables_of_others_are_looked_past(firewall: Firewall) -> None:
    run("nft", "add", "table", "inet", "theirs")
    assert not firewall.intact()
    assert firewall.observe() == ELEMENTS
    assert firewall.intact()


def test_somebody_between_two_of_our_own_changes_is_noticed(firewall: Firewall) -> None:
    run("nft", "flush", "set", "bridge", "stackpad", "senders4")
    firewall.apply([Element(SWITCH, "senders4", "spv1 . 02:00:00:00:00:01 . 10.0.0.9")], [])
    assert not firewall.intact()


def test_the_generation_counts_transactions() -> None:
    before = generation()
    assert generation() == before
    run("nft", "add", "table", "inet", "one")
    assert generation() == before + 1
    run("nft", "-f", "-", script="add table inet two\nadd table inet three\ndelete table inet one\n")
    assert generation() == before + 2


def test_counters_are_no_change(firewall: Firewall) -> None:
    """A packet that is dropped moves one; the rules are what they were."""
    run("ip", "link", "add", "sp-x", "type", "bridge")
    run("ip", "addr", "add", "10.77.0.1/24", "dev", "sp-x")
    run("ip", "link", "set", "sp-x", "up")
    run("nft", "reset", "counters")
    assert firewall.observe() == ELEMENTS


def test_removal_leaves_nothing_and_may_come_twice(firewall: Firewall) -> None:
    for _ in range(2):
        firewall.remove()
        assert "stackpad" not in run("nft", "list", "ruleset")


def test_an_element_for_a_table_that_is_gone_is_refused(firewall: Firewall) -> None:
    run("nft", "flush", "ruleset")
    with pytest.raises(Unavailable, match="nft refused"):
        firewall.apply([Element(FILTER, "node4", "192.0.2.9")], [])


LATE = """
import os, sys
from plugin.kernel import firewall
firewall._nft("list ruleset")
os.environ["PATH"] = sys.argv[1] + ":" + os.environ["PATH"]
firewall._nft("list ruleset")
"""


def test_an_nft_that_is_under_way_ends_with_a_killed_plugin(tmp_path: Path) -> None:
    """Late, it would undo what the next plugin has begun with."""
    begun, slow = tmp_path / "begun", tmp_path / "nft"
    slow.write_text(f"#!/bin/sh\necho $$ > {begun}.part && mv {begun}.part {begun}\nexec sleep 600\n")
    slow.chmod(0o755)
    with subprocess.Popen([sys.executable, "-c", LATE, str(tmp_path)], cwd=ROOT) as killed:
        try:
            asyncio.run(eventually(begun.exists, "nft under way"))
            process = os.pidfd_open(int(begun.read_text()))
        finally:
            killed.kill()
    with os.fdopen(process, "rb"):
        assert select.select([process], [], [], 30)[0] == [process], "it goes on"


def test_who_has_no_nft_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setpriv = shutil.which("setpriv")
    assert setpriv is not None
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="install the package util-linux"):
        Firewall().install([])
    (tmp_path / "setpriv").symlink_to(setpriv)
    with pytest.raises(Unavailable, match="install the package nftables"):
        Firewall().install([])
