"""Durations across a clock that is set: what is in flight keeps its time, and nothing lasts an hour too long."""

from __future__ import annotations

import time

import pytest

from plugin import steady
from plugin.steady import Moments
from plugin.tunnel.handover import LINGER, Handover
from plugin.wireguard.calling import QUIET, Calling
from plugin.wireguard.handshakes import Handshakes
from plugin.wireguard.model import STALE, Address, Observed, PeerState, has_session
from stackpad import records
from tests.clock import Clock

HERE: Address = ("192.0.2.1", 51820)
THERE: Address = ("198.51.100.7", 4500)
HOUR = 3600.0


def test_the_clock_begins_as_the_one_of_the_day() -> None:
    assert steady.now() == pytest.approx(time.time(), abs=60)


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_moment_stays_where_it_was_seen_first(jump: float) -> None:
    clock = Clock()
    moments = Moments(clock.day, clock.steady)
    moment = clock.day() - 10
    assert moments.age("a", moment) == pytest.approx(10)
    clock.set(jump)
    clock.run(5)
    assert moments.age("a", moment) == pytest.approx(15)
    assert moments.age("a", clock.day() - 1) == pytest.approx(1), "another moment, by the clock as it is now"
    assert moments.age("b", clock.day() + HOUR) == 0, "what is still to come begins now"
    moments.keep(["b"])
    assert moments.age("a", clock.day() - 2) == pytest.approx(2)


def seen(at: float) -> Observed:
    return Observed(peers={"k": PeerState(endpoint=HERE, last_handshake=at)})


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_session_lasts_as_long_as_without_the_jump(jump: float) -> None:
    clock = Clock()
    handshakes = Handshakes(Moments(clock.day, clock.steady))
    first = clock.day()

    def session(at: float) -> bool:
        return has_session(handshakes.translated(seen(at), clock.steady()).peers["k"], clock.steady())

    assert not session(0.0), "never"
    clock.run(1)
    assert session(first)
    clock.set(jump)
    clock.run(STALE - 10)
    assert session(first), "an hour older to the clock of the day"
    clock.run(10)
    assert not session(first), "an hour younger to it"
    # WireGuard's own clock was not set (or another hour later): what is new since the last look is not older than that.
    assert session(first + 200)


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_peer_is_called_elsewhere_when_it_is_silent_and_not_by_the_date(jump: float) -> None:
    clock, calling = Clock(), Calling()
    handshakes = Handshakes(Moments(clock.day, clock.steady))
    calling.configured["k"], began = HERE, clock.day()

    def look(second: int, *, answered: bool) -> Address | None:
        back = second if answered else 7
        state = PeerState(endpoint=HERE, last_handshake=began, sent=1000 * second, received=back)
        observed = handshakes.translated(Observed(peers={"k": state}), clock.steady())
        calling.look({"k": "n"}, observed, clock.steady())
        clock.run(1)
        return calling.endpoint("k", [HERE, THERE], observed.peers["k"], clock.steady())

    assert {look(second, answered=True) for second in range(10)} == {HERE}
    clock.set(jump)
    assert {look(second, answered=True) for second in range(10, 30)} == {HERE}
    after = [look(second, answered=False) for second in range(30, 30 + int(QUIET) + 5)]
    assert after[0] == HERE
    assert THERE in after


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_key_that_changes_is_followed_in_its_time(jump: float) -> None:
    clock, handover = Clock(), Handover()
    handshakes = Handshakes(Moments(clock.day, clock.steady))
    began = clock.day()

    def key(*keys: str) -> str:
        observed = handshakes.translated(Observed(peers={"old": PeerState(last_handshake=began)}), clock.steady())
        node = records.Node(owner="n", name="n", public_keys=keys)
        return handover.choose([node], observed, clock.steady())["n"].key

    assert key("old") == "old"
    clock.run(1)
    assert key("new") == "old"
    clock.set(jump)
    clock.run(LINGER / 2)
    assert key("new") == "old", "not before what is under way has arrived"
    clock.run(LINGER)
    assert key("new") == "new"
    assert handover.due - clock.steady() == pytest.approx(LINGER)
