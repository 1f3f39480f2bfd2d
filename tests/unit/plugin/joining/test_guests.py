"""Tokens given out, on the disk."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from plugin.joining.guests import Guests, Invitation
from stackpad.errors import Conflict, InvalidRequest, NotFound

ONE = Invitation(id="a", digest="d", public_key="k", preshared_key="p", address="10.192.0.2", expires=1000.0)

DAMAGE = [
    b"",
    b"{",
    b'{"a": 1}',
    b"\xff",
    b'{"a": "\xff"}',
    json.dumps({"a": {**msgspec.to_builtins(ONE), "address": "ten"}}).encode(),
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told_and_costs_the_tokens_only(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "guests.json").write_bytes(damage)
    guests = Guests(tmp_path)
    assert guests.peers(0.0) == []
    assert "guests.json cannot be read" in guests.problem
    assert "stackpad node token" in guests.problem
    assert (tmp_path / "guests.json").read_bytes() == damage, "until there is something to keep"
    guests.add(ONE, 0.0)
    assert not guests.problem
    assert [guest.public_key for guest in Guests(tmp_path).peers(0.0)] == ["k"]


USE, ADMIT, REVOKE, VOID = "use", "admit", "revoke", "void"


@pytest.mark.parametrize(
    ("steps", "ended", "left"),
    [
        pytest.param([USE, ADMIT], None, True, id="a node comes in"),
        pytest.param([REVOKE, USE], InvalidRequest, False, id="taken back after it was checked"),
        pytest.param([USE, REVOKE, ADMIT], InvalidRequest, False, id="taken back while the place was being made"),
        pytest.param([USE, ADMIT, REVOKE], Conflict, True, id="taken back too late"),
        pytest.param([REVOKE, REVOKE], NotFound, False, id="taken back twice"),
        pytest.param([VOID, USE], InvalidRequest, False, id="the key it names was changed meanwhile"),
        pytest.param([USE, VOID, ADMIT], None, True, id="a used one does not depend on the key any more"),
        pytest.param([USE, USE], InvalidRequest, True, id="used by another node since it was checked"),
    ],
)
def test_a_token_that_is_taken_back_stays_so(
    tmp_path: Path, steps: list[str], ended: type[Exception] | None, left: bool
) -> None:
    """Between the check and the place are seconds; the last step is the one that fails."""
    guests = Guests(tmp_path)
    guests.add(ONE, 0.0)
    do = {
        USE: lambda: guests.use(ONE, "its key", "n1"),
        ADMIT: lambda: guests.admit("a", "n1"),
        REVOKE: lambda: guests.remove("a"),
        VOID: guests.void,
    }
    for step in steps[:-1]:
        do[step]()
    if ended is None:
        do[steps[-1]]()
    else:
        with pytest.raises(ended):
            do[steps[-1]]()
    assert bool(guests.peers(0.0)) == bool(Guests(tmp_path).peers(0.0)) == left, "in memory and on the disk"


def test_who_takes_a_token_back_too_late_is_told_who_is_in(tmp_path: Path) -> None:
    guests = Guests(tmp_path)
    guests.add(msgspec.structs.replace(ONE, used_by="its key", node="n1", admitted=True), 0.0)
    with pytest.raises(Conflict, match="node n1 is in with it; stackpad node rm n1"):
        guests.remove("a")
