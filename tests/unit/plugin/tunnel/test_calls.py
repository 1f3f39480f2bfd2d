"""What WireGuard is told of a peer whose session has ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugin import steady
from plugin.model import ip_network
from plugin.store.mesh import KEEPALIVE, MeshPeer, MeshPlan
from plugin.tunnel.calls import LATER, RECENT, Calls
from plugin.tunnel.sightings import Sightings
from plugin.tunnel.wants import Wanted
from plugin.wireguard.keys import generate
from plugin.wireguard.model import STALE, Address, Observed, PeerState

HERE: Address = ("192.0.2.1", 51820)
PEER = MeshPeer("k", "", frozenset({ip_network("10.192.64.0/18")}), ("192.0.2.1:51820",), node="n1")
PRIVATE = generate()
WANTED = Wanted(MeshPlan({"k": PEER}, addresses=frozenset(), routes=PEER.allowed), PRIVATE, 51820, frozenset())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, by the clock that does not jump."""
    now = [1_000_000.0]
    monkeypatch.setattr(steady, "now", lambda: now[0])
    return now


def there(received: int, handshake: float) -> Observed:
    return Observed(PRIVATE, 51820, {"k": PeerState("", HERE, PEER.allowed, 0, handshake, received, 10 * received)})


@pytest.mark.parametrize(
    ("own", "silent", "age", "anew", "keepalive"),
    [
        pytest.param("a", 0.0, STALE - 1, False, 0, id="a session that is good"),
        pytest.param("a", 0.0, STALE, True, 0, id="one that has ended in use: who sends calls by itself"),
        pytest.param("z", 0.0, STALE, False, 0, id="the same at the later end"),
        pytest.param("z", 0.0, STALE + LATER, True, KEEPALIVE, id="the later end, which calls"),
        pytest.param("z", RECENT + 1, STALE + LATER, True, 0, id="one that has ended at rest"),
    ],
)
def test_who_begins_anew_and_who_is_called_then(
    clock: list[float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own: str,
    silent: float,
    age: float,
    anew: bool,
    keepalive: int,
) -> None:
    monkeypatch.setattr("plugin.tunnel.calls.public_key", lambda _: own)
    calls, began = Calls(Sightings(tmp_path)), clock[0]
    for second in range(3):
        clock[0] = began + second
        calls.told(calls.choose(WANTED, there(1000 * (second + 1), began), made=False), WANTED)
    clock[0] += silent
    told = calls.choose(WANTED, there(3000, clock[0] - age), made=False)
    assert ("k" in told.anew, told.peers["k"].keepalive, told.again) == (anew, keepalive, bool(keepalive))
    due = clock[0] - age + STALE + LATER * (own == "z")
    assert told.due == (0.0 if anew else due), "the loop comes back when it ends"


def test_what_was_before_is_counted_on(clock: list[float], tmp_path: Path) -> None:
    calls, ended = Calls(Sightings(tmp_path)), clock[0] - STALE - 1
    assert calls.choose(WANTED, there(3000, ended), made=False).anew == {"k"}
    fresh = PeerState("", HERE, PEER.allowed)
    assert not calls.choose(WANTED, Observed(PRIVATE, 51820, {"k": fresh}), made=False).anew
    whole = calls.whole("k", PeerState(received=5, sent=7))
    assert (whole.last_handshake, whole.received, whole.sent) == (ended, 3005, 30007)
    assert calls.whole("k", PeerState(last_handshake=clock[0])).last_handshake == clock[0]
