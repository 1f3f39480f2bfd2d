"""Tokens: what they carry, and what is refused."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.joining import tokens
from plugin.joining.tokens import Token
from plugin.model import ip_network
from stackpad import records
from stackpad.errors import Conflict, InvalidRequest

KEY = base64.b64encode(bytes(range(32))).decode()
TOKEN = Token(
    id="0a1b2c3d",
    private_key=KEY,
    preshared_key=base64.b64encode(b"p" * 32).decode(),
    address="10.192.0.2",
    gateway_key=base64.b64encode(b"g" * 32).decode(),
    gateway_address="10.192.0.1",
    endpoints=("192.0.2.1:51820", "[2001:db8::1]:51820"),
    expires=1000.0,
)
CLUSTER = records.Cluster(
    owner="n", id="c", range4="10.192.0.0/10", range6="fd00::/48", block_prefix=18, network_prefix=26
)


def test_a_token_comes_back_as_it_was_also_from_several_lines() -> None:
    text = tokens.write(TOKEN)
    assert text.startswith(tokens.PREFIX)
    assert tokens.read(f"  {text[:100]}\n{text[100:]}\n") == TOKEN


def test_a_token_made_before_it_named_the_ranges_is_good() -> None:
    older = msgspec.to_builtins(TOKEN)
    del older["ranges"]
    body = msgspec.msgpack.encode(older)
    text = base64.urlsafe_b64encode(body + hashlib.sha256(body).digest()[:4]).decode().rstrip("=")
    assert tokens.read(tokens.PREFIX + text) == TOKEN


def test_its_keys_are_not_shown() -> None:
    assert KEY not in repr(TOKEN)
    assert TOKEN.preshared_key not in repr(TOKEN)


@given(st.integers(0, 2**32), st.sampled_from("AZaz09-_"))
def test_one_wrong_character_is_noticed(position: int, character: str) -> None:
    text = tokens.write(TOKEN)
    place = len(tokens.PREFIX) + position % (len(text) - len(tokens.PREFIX))
    damaged = text[:place] + character + text[place + 1 :]
    with contextlib.suppress(InvalidRequest):
        assert tokens.read(damaged) == TOKEN, "only bits that carry nothing may differ"


@given(st.text(max_size=200))
def test_anything_else_is_a_sentence(text: str) -> None:
    for candidate in (text, tokens.PREFIX + text):
        with pytest.raises(InvalidRequest, match="token"):
            tokens.read(candidate)


@pytest.mark.parametrize(
    "change",
    [
        {"private_key": "short"},
        {"gateway_key": base64.b64encode(b"x" * 31).decode()},
        {"address": "nowhere"},
        {"gateway_address": "fd00::1"},
        {"endpoints": ("host.example:51820",)},
        {"endpoints": ("192.0.2.1:0",)},
        {"ranges": ("10.192.0.0", "10.0.0.1/8")},
        {"ranges": ("fe80::%x/64",)},
    ],
)
def test_a_token_with_a_wrong_value_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match="damaged"):
        tokens.read(tokens.write(msgspec.structs.replace(TOKEN, **change)))


def test_expiry_and_clock_say_how_far() -> None:
    tokens.refuse_expired(TOKEN, 1000.0)
    with pytest.raises(InvalidRequest, match=r"expired 2 hours ago.*stackpad node token"):
        tokens.refuse_expired(TOKEN, 1000.0 + 7200)
    tokens.refuse_clock(1000.0, 1000.0 + tokens.CLOCK)
    with pytest.raises(InvalidRequest, match=r"3 minutes behind .*timedatectl"):
        tokens.refuse_clock(1000.0, 1180.0)
    with pytest.raises(InvalidRequest, match="ahead of"):
        tokens.refuse_clock(1180.0, 1000.0)


@pytest.mark.parametrize("route", ["10.192.0.0/10", "10.200.0.0/16", "fd00::/64"])
def test_a_route_in_the_clusters_range_is_named(route: str) -> None:
    with pytest.raises(Conflict, match=f"route for {route}.*RANGE"):
        tokens.refuse_overlap([ip_network(route)], CLUSTER.ranges)


@pytest.mark.parametrize("route", ["0.0.0.0/0", "10.0.0.0/8", "192.168.0.0/16", "fd01::/48", "::/0"])
def test_other_routes_are_no_obstacle(route: str) -> None:
    tokens.refuse_overlap([ip_network(route)], CLUSTER.ranges)


@pytest.mark.parametrize(("text", "made"), [("Worker-1", "worker-1"), (" db.internal ", "db.internal")])
def test_names(text: str, made: str) -> None:
    assert tokens.name(text) == made


@pytest.mark.parametrize("text", ["", "-x", "a b", "a/b", "ä", "x" * 64, "a\n"[:1] + "\x00"])
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(InvalidRequest, match="--name"):
        tokens.name(text)


ANSWER = tokens.JoinAnswer(
    node="b",
    name="b",
    cluster=records.Cluster(
        owner="a", id="c", range4="10.192.0.0/10", range6="fd00::/48", block_prefix=18, network_prefix=26
    ),
    secret="",
    mesh4="10.192.64.1",
    mesh6="fd00:0:0:100::1",
    ranges=(records.Range(owner="b", net="10.192.64.0/18", block=True),),
    store=(),
    gateway=records.Node(owner="a", name="a", public_keys=()),
    gateway_ranges=(),
)


@pytest.mark.parametrize(
    "changes",
    [
        {"mesh6": "fd00::1%x }"},
        {"mesh4": "nowhere"},
        {"node": "a/b"},
        {"ranges": (records.Range(owner="b", net="10.0.0.1/8"),)},
        {"gateway": records.Node(owner="a", name="a", public_keys=("short",))},
    ],
)
def test_an_answer_that_cannot_be_meant_is_not_kept(changes: dict[str, Any]) -> None:
    assert tokens.check(ANSWER) is ANSWER
    with pytest.raises(InvalidRequest):
        tokens.check(msgspec.structs.replace(ANSWER, **changes))


def test_a_token_that_is_nested_too_deeply_is_damaged() -> None:
    """Its check sum is right: anybody can make one."""
    body = b"\x81\xa1x" + b"\x91" * 100_000
    packed = base64.urlsafe_b64encode(body + hashlib.sha256(body).digest()[:4]).decode()
    with pytest.raises(InvalidRequest, match="the token is damaged"):
        tokens.read(tokens.PREFIX + packed)
