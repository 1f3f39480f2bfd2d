"""The text of the ruleset. ``tests/golden/install.nft`` is what a review of the rules reads.

After a change that is meant: ``python -m tests.unit.plugin.kernel.test_ruleset`` writes it anew.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from plugin import upstreams
from plugin.kernel import leading, ruleset
from plugin.kernel.dataplane import FILTER, PREFIXES, SWITCH, Element, desired
from plugin.model import Protocol, PublishedPort, ip_network
from tests.samples import endpoint, network, network6

GOLDEN = Path(__file__).parents[3] / "golden" / "install.nft"


def sample() -> str:
    """The whole script for one network of each kind and a published port of each kind."""
    ports = (
        PublishedPort(Protocol.TCP, 80, 8080),
        PublishedPort(Protocol.UDP, 53, 5353, "192.0.2.1"),
        PublishedPort(Protocol.TCP, 443, 8443, "2001:db8::1"),
    )
    networks = (network6(1), network(2, internal=True), network(3, egress=False))
    elements = {
        Element(FILTER, "node4", "192.0.2.1"),
        Element(FILTER, "node6", "2001:db8::1"),
        Element(FILTER, "uplink_bridges", "br0"),
    }
    remote = [ip_network(f"10.0.0.0/{length}") for length in (*PREFIXES[4], 25)]
    remote += [ip_network(f"fd00::/{length}") for length in (*PREFIXES[6], 47)]
    elements |= desired(networks[0], [], uplink_mtu=1420, remote=remote, barred=True).elements
    elements |= {
        Element(FILTER, "tunnel_only4", "10.192.0.0/10"),
        Element(FILTER, "tunnel_only6", "fd00::/48"),
        Element(FILTER, "mesh_self4", "10.192.0.1"),
        Element(FILTER, "mesh_self6", "fd00::1"),
        Element(FILTER, "peers4", "10.192.64.1"),
        Element(FILTER, "peers6", "fd00:0:0:100::1"),
        Element(FILTER, "guests4", "10.192.0.2"),
        Element(FILTER, "gateways4", "10.192.64.1"),
        Element(FILTER, "gateways6", "fd00:0:0:100::1"),
        Element(FILTER, "web4", "10.192.7.2 . 8080"),
        Element(FILTER, "web6", "fd00::2 . 8080"),
        Element(FILTER, "mesh_services", "2379"),
        Element(FILTER, "join_service", "4783"),
        Element(FILTER, "stores", "10.192.0.1 . 2379"),
    }
    for number, texts in {20001: ["10.192.1.2:80"], 20002: ["10.192.1.2:80", "10.192.1.3:8080"]}.items():
        six = [text.replace("10.192.1.", "[fd00:1::").replace(":80", "]:80", 1) for text in texts]
        for given in (texts, six):
            (targets,) = upstreams.read(json.dumps({str(number): given}).encode()).values()
            elements |= leading.elements(number, targets)
    for there in networks:
        elements |= desired(there, [endpoint(there, ports=ports[: 3 if there.ipv6 else 0])], uplink_mtu=1500).elements
    return ruleset.install(elements)


def test_the_ruleset_is_the_one_that_was_read() -> None:
    assert sample() == GOLDEN.read_text()


def test_every_set_and_map_is_used_by_a_rule_and_every_used_one_declared() -> None:
    text = ruleset.install([])
    names = {name for _, name in (*ruleset.SETS, *ruleset.MAPS)}
    used = {word.strip("{},") for word in text.split() if word.startswith("@") and not word.startswith("@th,")}
    assert used == {f"@{name}" for name in names}


def test_every_drop_is_counted_or_says_why() -> None:
    """Who wonders where a packet went finds a counter that moved."""
    drops = [line for line in ruleset.install([]).splitlines() if " drop" in line]
    assert drops
    assert [line for line in drops if "counter drop comment" not in line] == []


def test_the_sample_has_an_element_in_every_set_and_map() -> None:
    text = sample()
    assert [
        name for _, name in (*ruleset.SETS, *ruleset.MAPS) if f" {name} {{ " not in text.split("add element", 1)[1]
    ] == []


def test_a_change_takes_out_before_it_puts_in() -> None:
    """In one transaction a map's key can then get another value."""
    before = Element(FILTER, "published4", "tcp . 80", "10.0.0.2 . 80")
    after = Element(FILTER, "published4", "tcp . 80", "10.0.0.3 . 80")
    assert ruleset.change([after], [before]) == (
        "delete element inet stackpad published4 { tcp . 80 }\n"
        "add element inet stackpad published4 { tcp . 80 : 10.0.0.3 . 80 }\n"
    )


def test_elements_of_one_set_are_one_command() -> None:
    text = ruleset.change(
        [Element(SWITCH, "senders4", "b"), Element(FILTER, "internal", "x"), Element(SWITCH, "senders4", "a")], []
    )
    assert text == "add element bridge stackpad senders4 { a, b }\nadd element inet stackpad internal { x }\n"


def test_no_change_is_no_text() -> None:
    assert ruleset.change([], []) == ""


@pytest.mark.kernel
def test_nft_understands_it(netns: None) -> None:
    done = subprocess.run(["nft", "-c", "-f", "-"], input=sample(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


if __name__ == "__main__":
    GOLDEN.write_text(sample())
