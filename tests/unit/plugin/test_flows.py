"""Which flows the kernel must forget."""

from __future__ import annotations

import pytest

from plugin.dataplane import FILTER, SWITCH, Element
from plugin.flows import stale, taken


@pytest.mark.parametrize(
    ("new", "old", "selections"),
    [
        ([], [Element(SWITCH, "senders4", "spv1 . 02:00:00:00:00:01 . 10.0.0.2")], [("ipv4", "10.0.0.2")]),
        ([], [Element(SWITCH, "senders6", "spv1 . 02:00:00:00:00:01 . fd00::2")], [("ipv6", "fd00::2")]),
        ([], [Element(SWITCH, "senders6", "spv1 . 02:00:00:00:00:01 . fe80::2")], []),
        ([], [Element(SWITCH, "senders6", "spv1 . 02:00:00:00:00:01 . ::")], []),
        ([], [Element(SWITCH, "own4", "spv1 . 167772162")], []),
        ([], [Element(FILTER, "internal", "sp-1")], []),
        ([Element(SWITCH, "senders4", "spv1 . 02:00:00:00:00:01 . 10.0.0.2")], [], []),
    ],
)
def test_an_address_that_goes_takes_its_flows_with_it(
    new: list[Element], old: list[Element], selections: list[tuple[str, str]]
) -> None:
    expected = [("-f", family, side, ip) for family, ip in selections for side in ("--orig-src", "--reply-src")]
    assert list(stale(new, old)) == expected


@pytest.mark.parametrize(
    ("element", "family"),
    [
        (Element(FILTER, "published4", "udp . 53", "10.0.0.2 . 53"), "ipv4"),
        (Element(FILTER, "published6", "udp . 53", "fd00::2 . 53"), "ipv6"),
        (Element(FILTER, "published4_at", "192.0.2.1 . udp . 53", "10.0.0.2 . 53"), "ipv4"),
        (Element(FILTER, "published6_at", "2001:db8::1 . udp . 53", "fd00::2 . 53"), "ipv6"),
    ],
)
def test_a_udp_port_that_is_published_takes_over_the_flows_there_were(element: Element, family: str) -> None:
    assert list(stale([element], [])) == [("-f", family, "-p", "udp", "--orig-port-dst", "53")]


def test_a_tcp_port_has_no_flows_to_take_over() -> None:
    assert list(stale([Element(FILTER, "published4", "tcp . 53", "10.0.0.2 . 53")], [])) == []


def test_whoever_gets_an_address_inherits_no_flows() -> None:
    new = [Element(SWITCH, "senders4", "spv1 . 02:00:00:00:00:01 . 10.0.0.2"), Element(FILTER, "internal", "sp-1")]
    assert list(taken(new)) == [("-f", "ipv4", "--orig-src", "10.0.0.2"), ("-f", "ipv4", "--reply-src", "10.0.0.2")]
