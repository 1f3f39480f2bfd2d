"""Echoes, asked of a real kernel."""

from __future__ import annotations

import pytest

from plugin.tunnel.roundtrip import echo_request, is_reply, round_trips

pytestmark = pytest.mark.usefixtures("netns")

HEADER = bytes([0x45]) + bytes(19)


async def test_who_answers_has_a_time_and_who_does_not_has_none() -> None:
    found = await round_trips(["127.0.0.1", "127.0.0.2", "192.0.2.9"])
    assert set(found) == {"127.0.0.1", "127.0.0.2"}
    assert all(0 < taken < 1 for taken in found.values())


async def test_nobody_to_ask_is_no_trouble() -> None:
    assert await round_trips([]) == {}


@pytest.mark.parametrize(
    "packet",
    [b"", b"\x45", HEADER, HEADER + echo_request(7, 1), HEADER + bytes([0, 0, 0, 0, 0, 8, 0, 1])],
    ids=["nothing", "a byte", "no payload", "the request itself", "somebody else's answer"],
)
def test_only_the_answer_is_the_answer(packet: bytes) -> None:
    assert not is_reply(packet, 7, 1)
    assert is_reply(HEADER + bytes([0, 0, 0, 0, 0, 7, 0, 1]), 7, 1)
