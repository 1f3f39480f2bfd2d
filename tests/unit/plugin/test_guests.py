"""Tokens given out, on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugin.guests import Guests, Invitation

ONE = Invitation(id="a", digest="d", public_key="k", preshared_key="p", address="10.192.0.2", expires=1000.0)


@pytest.mark.parametrize("damage", [b"", b"{", b'{"a": 1}', b"\xff"])
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
