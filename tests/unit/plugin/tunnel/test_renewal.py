"""Which peers begin anew when their session has ended, who calls, and what is known of them afterwards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from plugin import steady
from plugin.model import ip_network
from plugin.store.mesh import KEEPALIVE, MeshPeer, MeshPlan
from plugin.tunnel.calls import Calls, Told
from plugin.tunnel.renewal import LATER, PAUSE, RECENT
from plugin.tunnel.sightings import Sightings
from plugin.tunnel.wants import Wanted
from plugin.wireguard.keys import generate
from plugin.wireguard.model import STALE, Address, Observed, Peer, PeerState

HERE: Address = ("192.0.2.1", 51820)
AWAY: Address = ("203.0.113.9", 666)
PEER = MeshPeer("k", "", frozenset({ip_network("10.192.64.0/18")}), ("192.0.2.1:51820",), node="n1")
PRIVATE = generate()
WANTED = Wanted(MeshPlan({"k": PEER}, addresses=frozenset(), routes=PEER.allowed), PRIVATE, 51820, frozenset())
BEGAN = 1_000_000.0


class Node:
    """One that looks at its one peer again and again; ``own`` is its public key, with which the order is decided."""

    def __init__(self, directory: Path, patched: pytest.MonkeyPatch, own: str) -> None:
        self.calls, self.now = Calls(Sightings(directory)), BEGAN
        patched.setattr(steady, "now", lambda: self.now)
        patched.setattr("plugin.tunnel.renewal.public_key", lambda _: own)

    def look(self, now: float, received: int, handshake: float, endpoint: Address = HERE, private: str = PRIVATE) -> Told:
        """What is told of it when this is seen, and done at once."""
        self.now = now
        seen = Observed(
            private, 51820, {"k": PeerState("", endpoint, PEER.allowed, 0, handshake, received, 2 * received)}
        )
        told = self.calls.choose(WANTED, seen, made=False)
        fresh = Observed(private, 51820, {"k": PeerState("", endpoint, PEER.allowed)})
        self.calls.told(told, WANTED, seen, fresh if told.ended.anew else seen)
        return told


def anew(told: Told) -> bool:
    return "k" in told.ended.anew


@pytest.fixture(params=["a", "z"])
def node(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch, request.param)


@pytest.fixture
def later(node: Node) -> float:
    """By how much it is the later end."""
    return LATER * (node.calls._renewal._own_key(PRIVATE) == "z")


def test_a_session_in_use_ends_on_time_and_the_later_end_calls(node: Node, later: float) -> None:
    handshake = BEGAN + 10
    node.look(BEGAN, 100, handshake)
    for second in range(100, int(STALE + 10)):
        told = node.look(BEGAN + second, 1000 * second, handshake)
    end = handshake + STALE + later
    assert not anew(told)
    assert told.ended.due == end, "the loop comes back then"
    assert not anew(node.look(end - 0.01, 1000 * second, handshake))
    told = node.look(end, 1000 * second, handshake)
    assert anew(told)
    assert told.peers["k"].keepalive == (KEEPALIVE if later else 0)
    assert told.again is bool(later)
    assert told.ended.due == 0.0


def test_one_at_rest_begins_anew_and_nobody_calls(node: Node, later: float) -> None:
    node.look(BEGAN, 100, BEGAN + 1)
    node.look(BEGAN + 2, 250, BEGAN + 1)
    assert node.look(BEGAN + 3 + RECENT, 250, BEGAN + 1).ended.due == 0.0
    told = node.look(BEGAN + 1 + STALE + later, 250, BEGAN + 1)
    assert (anew(told), told.peers["k"].keepalive, told.again) == (True, 0, False)


def test_what_a_process_sees_first_is_no_word_just_now_and_no_end(node: Node, later: float) -> None:
    """The clock of the day may have been set in between, and what was received may be long ago."""
    assert not anew(node.look(BEGAN, 5000, BEGAN - 3600))
    told = node.look(BEGAN + STALE + later, 5000, BEGAN - 3600)
    assert (anew(told), told.again) == (True, False)


def test_a_handshake_under_way_is_not_disturbed(node: Node) -> None:
    node.look(BEGAN, 5000, BEGAN)
    end = BEGAN + STALE + LATER
    assert not anew(node.look(end, 5148, BEGAN)), "a first message has come"
    assert not anew(node.look(end + PAUSE / 2, 5148, BEGAN))
    assert not anew(node.look(end + PAUSE * 2, 5300, end + PAUSE)), "and has become a session"


def test_one_that_was_answered_and_never_came_begins_anew_as_well(node: Node, later: float) -> None:
    """What it said is remembered all the same."""
    node.look(BEGAN, 0, 0.0)
    node.look(BEGAN + 5, 148, 0.0)
    assert not anew(node.look(BEGAN + STALE, 148, 0.0))
    assert anew(node.look(BEGAN + 5 + STALE + later, 148, 0.0))
    assert not anew(node.look(BEGAN + 2 * STALE + 10, 0, 0.0)), "nothing has come since"


def test_it_is_called_where_it_was_until_it_has_a_session(node: Node) -> None:
    """A recorded message moves the endpoint, and proves nothing."""
    node.look(BEGAN, 100, BEGAN)
    assert anew(node.look(BEGAN + STALE + LATER, 100, BEGAN))
    told = node.look(BEGAN + STALE + 1, 148, 0.0, AWAY)
    assert told.peers["k"].endpoint == HERE
    assert "k" not in told.configured, "it is told though nothing else was told before"
    told = node.look(BEGAN + STALE + 2, 500, BEGAN + STALE + 1, AWAY)
    assert told.configured["k"] == HERE == told.peers["k"].endpoint, "who has a session is where it says"


def test_the_keys_change_first(node: Node) -> None:
    node.look(BEGAN, 100, BEGAN)
    assert not anew(node.look(BEGAN + STALE + 1, 100, BEGAN, private=generate()))
    assert anew(node.look(BEGAN + STALE + 2, 100, BEGAN))


def test_what_was_before_is_counted_on(node: Node) -> None:
    node.look(BEGAN, 3000, BEGAN)
    assert node.calls.whole("k", PeerState(received=3000)).received == 3000
    node.look(BEGAN + STALE + LATER, 3000, BEGAN)
    whole = node.calls.whole("k", PeerState(received=5, sent=7))
    assert (whole.last_handshake, whole.received, whole.sent) == (BEGAN, 3005, 6007)
    assert node.calls.whole("k", PeerState(last_handshake=node.now)).last_handshake == node.now


def test_one_that_was_answered_before_the_first_look_begins_anew_as_well(node: Node, later: float) -> None:
    node.look(BEGAN, 148, 0.0)
    assert not anew(node.look(BEGAN + STALE - 1, 148, 0.0))
    assert anew(node.look(BEGAN + STALE + later, 148, 0.0))


def test_a_guest_is_not_disturbed_by_its_first_look(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first message came between the moment in which its peer was made and the look."""
    guest = Peer("g", allowed=frozenset({ip_network("10.192.0.9/32")}))
    monkeypatch.setattr("tests.unit.plugin.tunnel.test_renewal.WANTED", replace(WANTED, extra={"g": guest}))
    node.look(BEGAN, 100, BEGAN)
    node.now = BEGAN + 2 * STALE
    called = Observed(PRIVATE, 51820, {"g": PeerState(endpoint=AWAY, allowed=guest.allowed, received=148)})
    assert not node.calls.choose(WANTED, called, made=False).ended.anew


async def test_nothing_is_known_of_who_is_gone(node: Node) -> None:
    node.look(BEGAN, 3000, BEGAN)
    node.look(BEGAN + STALE + LATER, 3000, BEGAN)
    await node.calls.clear()
    assert node.calls.whole("k", PeerState()) == PeerState()
