"""At which address a peer is called, by what was seen of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from plugin.tunnel.calls import Calls
from plugin.tunnel.sightings import Sightings
from plugin.wireguard.calling import QUIET, Calling, Ear
from plugin.wireguard.model import PATIENCE, Address, Observed, PeerState

HERE: Address = ("192.0.2.1", 51820)
THERE: Address = ("198.51.100.7", 4500)
NAT: Address = ("203.0.113.9", 61000)
NOW = 1_000_000.0


def state(received: int, sent: int, endpoint: Address | None = HERE, handshake: float = NOW) -> PeerState:
    return PeerState(endpoint=endpoint, received=received, sent=sent, last_handshake=handshake)


@pytest.mark.parametrize(
    ("sent", "received", "silent"),
    [
        pytest.param(range(0, 2000, 100), [7] * 20, True, id="more and more is sent and nothing comes"),
        pytest.param(range(0, 2000, 100), [7] * 19 + [8], False, id="a word in the last moment"),
        pytest.param(range(0, 2000, 100), range(7, 2967, 148), True, id="a peer that calls, as who does not hear us"),
        pytest.param(range(0, 2000, 100), range(20), False, id="a conversation"),
        pytest.param([0] * 20, [7] * 20, False, id="a peer at rest"),
        pytest.param([0, *[64] * 19], [7] * 20, False, id="one packet proves nothing"),
        pytest.param([0, *[64] * 16, 212, 212, 212], [7] * 20, True, id="one packet, and WireGuard's doubt of it"),
        pytest.param([0] * 5 + [32] * 10 + [64] * 5, [7] * 20, False, id="keepalives, which nobody answers"),
        pytest.param([*range(0, 1800, 100), 0, 0], [7] * 18 + [0, 0], False, id="a device made anew"),
    ],
)
def test_who_is_silent(sent: list[int], received: list[int], silent: bool) -> None:
    ear = Ear(received=7)
    for second, (out, back) in enumerate(zip(sent, received, strict=True)):
        ear = ear.listen(state(back, out), NOW + second)
    assert ear.silent(NOW + 19) == silent


def rounds(calling: Calling, announced: list[Address], seconds: int, *, answered: bool) -> list[Address | None]:
    """The address of each of so many rounds, a second apart, in which more and more is sent."""
    chosen: list[Address | None] = []
    for second in range(seconds):
        now, last = NOW + second, calling.configured.get("k")
        there = state(7 + second * answered, 1000 * second, last or HERE)
        calling.look({"k": "n1"}, Observed(peers={"k": there}), now)
        endpoint = calling.endpoint("k", calling.candidates("k", "n1", announced, there), there, now)
        if endpoint is not None:
            calling.configured["k"] = endpoint
        chosen.append(endpoint)
    return chosen


def test_a_peer_that_goes_silent_is_called_at_its_next_address_and_then_at_the_next() -> None:
    calling = Calling()
    calling.configured["k"] = HERE
    seen = rounds(calling, [HERE, THERE], 40, answered=False)
    moved = seen.index(THERE)
    assert QUIET <= moved <= QUIET + 2
    assert seen[moved + int(PATIENCE)] == HERE, "nor does it answer there"


def test_one_that_answers_stays_where_it_is() -> None:
    calling = Calling()
    calling.configured["k"] = HERE
    assert set(rounds(calling, [HERE, THERE], 40, answered=True)) == {HERE}


def test_a_silent_peer_that_announces_nothing_stays_where_it_was_heard() -> None:
    assert set(rounds(Calling(), [], 40, answered=False)) == {None}


def test_a_peer_made_anew_is_called_where_it_was_heard_first() -> None:
    calling = Calling({"n1": NAT})
    found = calling.candidates("k", "n1", [], None)
    assert found == [NAT]
    assert calling.endpoint("k", found, None, NOW) == NAT
    calling = Calling({"n1": THERE})
    assert calling.candidates("k", "n1", [HERE, THERE], None) == [THERE, HERE]
    assert calling.candidates("k", "n1", [HERE, THERE], state(1, 1)) == [THERE, HERE], "their order stays"
    assert calling.candidates("other", "n2", [HERE], None) == [HERE]


def test_where_it_moved_since_is_known_for_the_next_time_and_not_set() -> None:
    calling = Calling()
    for second, where in enumerate((HERE, NAT)):
        there = state(second + 1, 0, where)
        calling.look({"k": "n1"}, Observed(peers={"k": there}), NOW)
        assert calling.candidates("k", "n1", [HERE], there) == [HERE]
    assert calling.heard == {"n1": NAT}
    calling.look({"k": "n1"}, Observed(peers={"k": state(2, 500, THERE)}), NOW)
    assert calling.heard == {"n1": NAT}, "set, but nothing came from there"
    calling.keep(["n2"], ["k2"])
    assert not calling.heard


def test_sightings_are_kept_and_what_is_damaged_is_left_out(tmp_path: Path) -> None:
    kept = Sightings(tmp_path)
    assert kept.load() == {}
    kept.save({"n1": NAT, "n2": ("2001:db8::1", 1)})
    assert Sightings(tmp_path).load() == {"n1": NAT, "n2": ("2001:db8::1", 1)}
    (tmp_path / "sightings.json").write_text('{"n1": "203.0.113.9:61000", "n2": "nowhere"}')
    assert kept.load() == {"n1": NAT}
    (tmp_path / "sightings.json").write_text("[")
    assert kept.load() == {}
    kept.save({})
    assert not (tmp_path / "sightings.json").exists()


async def test_who_has_no_peers_any_more_goes_on_where_the_disk_keeps_the_sightings(tmp_path: Path) -> None:
    """As one does that is read-only since an error: they are a hint, and the tunnel does not end for them."""
    path = tmp_path / "sightings.json"
    Sightings(tmp_path).save({"n1": NAT})
    calls = Calls(Sightings(tmp_path))
    await calls.load()
    path.unlink()
    path.mkdir()
    with capture_logs() as logs:
        await calls.clear()
    (warning,) = logs
    assert f"{path} cannot be removed: " in warning["reason"]
    assert "repair the disk or make it writable" in warning["reason"]
    path.rmdir()
    Sightings(tmp_path).save({"n1": NAT})
    await calls.clear()
    assert not path.exists(), "tried again"
