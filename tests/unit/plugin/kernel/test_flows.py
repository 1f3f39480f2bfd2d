"""Which flows are to be forgotten, and which are not yet."""

from __future__ import annotations

import errno
from collections.abc import Collection

import pytest

from plugin.kernel import conntrack
from plugin.kernel.conntrack import Selection
from plugin.kernel.dataplane import FILTER, SWITCH, Element
from plugin.kernel.flows import Flows, addresses, udp_ports

MAC = "02:00:00:00:00:01"


@pytest.mark.parametrize(
    ("element", "found"),
    [
        (Element(SWITCH, "senders4", f"spv1 . {MAC} . 10.0.0.2"), {"10.0.0.2"}),
        (Element(SWITCH, "senders6", f"spv1 . {MAC} . fd00::2"), {"fd00::2"}),
        (Element(SWITCH, "senders6", f"spv1 . {MAC} . fe80::2"), set()),
        (Element(SWITCH, "senders6", f"spv1 . {MAC} . ::"), set()),
        (Element(SWITCH, "own4", "spv1 . 167772162"), set()),
        (Element(FILTER, "internal", "sp-1"), set()),
    ],
)
def test_an_address_is_its_senders(element: Element, found: set[str]) -> None:
    assert addresses([element]) == found


@pytest.mark.parametrize(
    ("element", "version"),
    [
        (Element(FILTER, "published4", "udp . 53", "10.0.0.2 . 53"), 4),
        (Element(FILTER, "published6", "udp . 53", "fd00::2 . 53"), 6),
        (Element(FILTER, "published4_at", "192.0.2.1 . udp . 53", "10.0.0.2 . 53"), 4),
        (Element(FILTER, "published6_at", "2001:db8::1 . udp . 53", "fd00::2 . 53"), 6),
    ],
)
def test_a_udp_port_that_is_published_takes_over_the_flows_there_were(element: Element, version: int) -> None:
    assert udp_ports([element]) == {Selection(version, port=53)}


def test_a_tcp_port_has_no_flows_to_take_over() -> None:
    assert udp_ports([Element(FILTER, "published4", "tcp . 53", "10.0.0.2 . 53")]) == set()


def test_an_address_is_remembered_until_its_flows_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    flows = Flows()
    flows.note(["10.0.0.2", "fd00::2"])
    assert flows.remembered(["10.0.0.2", "10.0.0.3"]) == {"10.0.0.2"}
    monkeypatch.setattr(conntrack, "forget", lambda wanted: {each for each in wanted if each.version == 6})
    flows.forget()
    assert flows.remembered(["10.0.0.2", "fd00::2"]) == {"10.0.0.2"}, "of the other one some may be left"


def test_an_address_that_is_left_again_meanwhile_stays_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    flows = Flows()
    flows.note(["10.0.0.2"])

    def slow(wanted: Collection[Selection]) -> set[Selection]:
        flows.note(["10.0.0.2"])
        return set(wanted)

    monkeypatch.setattr(conntrack, "forget", slow)
    flows.forget()
    assert flows.remembered(["10.0.0.2"]) == {"10.0.0.2"}


@pytest.mark.parametrize(("code", "done"), [(errno.EINVAL, 2), (errno.EPERM, 0)])
def test_who_is_answered_that_there_are_no_flows_to_be_asked_for_waits_for_nothing(
    monkeypatch: pytest.MonkeyPatch, code: int, done: int
) -> None:
    def refuses() -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(conntrack, "_channel", refuses)
    assert len(conntrack.forget([Selection(4, b"\x0a\0\0\2"), Selection(4, b"\x0a\0\0\3")])) == done
