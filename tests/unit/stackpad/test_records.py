"""Records in the store: what survives, what is refused."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackpad import records
from stackpad.errors import InvalidRequest


def test_fields_of_a_newer_version_survive_a_change_by_an_older_one() -> None:
    before = b'{"owner":"a","schema":7,"net":"10.0.0.0/18","block":true,"colour":"green","generation":1,"freed":0}'
    read = records.decode(before, records.Range)
    after = msgspec.json.decode(records.encode(msgspec.structs.replace(read, freed=5.0), before))
    assert (after["colour"], after["freed"], after["schema"]) == ("green", 5.0, 7)


@given(st.binary(max_size=80))
def test_whatever_was_there_before_is_no_obstacle(before: bytes) -> None:
    record = records.Alive(owner="a", since=1.0)
    assert records.decode(records.encode(record, before), records.Alive).owner == "a"


def test_writing_twice_is_writing_the_same() -> None:
    record = records.Network(owner="a", id="x", environment="shop", subnets=("10.0.0.0/26",))
    once = records.encode(record)
    assert records.encode(record, once) == once


@pytest.mark.parametrize("part", ["", "a/b", "a\nb", "\x00"])
def test_a_key_stays_in_its_place(part: str) -> None:
    with pytest.raises(InvalidRequest, match="part of a key"):
        records.key(records.NODES, part)


@pytest.mark.parametrize("text", ["192.0.2.1:51820", "[2001:db8::1]:1", "192.0.2.1:65535"])
def test_endpoints(text: str) -> None:
    assert records.join_endpoint(*records.split_endpoint(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "192.0.2.1", "host:1", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:x", ":1", "fe80::1%x:1", "192.0.2.1:+1"],
)
def test_endpoints_that_are_none(text: str) -> None:
    with pytest.raises(InvalidRequest, match="address with a port"):
        records.split_endpoint(text)


@pytest.mark.parametrize(
    "record",
    [
        records.Node(owner="a", name="a", public_keys=("x",)),
        records.Node(owner="a", name="a", public_keys=(), mesh4="nowhere"),
        records.Node(owner="a", name="a", public_keys=(), endpoints=("host:1",)),
        records.Node(owner="a", name="a", public_keys=(), mesh6="fd00::1%x }\nadd rule inet stackpad evil accept\n#"),
        records.Node(owner="a", name="a", public_keys=(), endpoints=("[fe80::1%eth0]:51820",)),
        records.Range(owner="a", net="fd00::%x/64"),
        records.Network(owner="a", id="x", environment="e", subnets=("fd00::%x/64",)),
        records.Endpoint(owner="a", id="x", network="n", environment="e", names=(), addresses=("fe80::1%x",)),
        records.Cluster(owner="a", id="c", range4="10.0.0.0/8", range6="fd00::%x/48", block_prefix=18, network_prefix=26),
        records.Range(owner="a", net="10.0.0.1/18"),
        records.Network(owner="a", id="x", environment="e", subnets=("x",)),
        records.Endpoint(owner="a", id="x", network="n", environment="e", names=(), addresses=("10.0.0.256",)),
    ],
)
def test_values_that_cannot_be_are_refused(record: records.Record) -> None:
    with pytest.raises(InvalidRequest):
        records.check(record)


def test_a_spoilt_record_stops_nobody() -> None:
    whole = records.Range(owner="a", net="10.0.0.0/18")
    spoilt = [b"", b"{}", b'{"owner":"a","net":"everything"}', b"[1]"]
    assert records.readable([*spoilt, records.encode(whole)], records.Range) == [whole]


def test_a_range_has_one_key() -> None:
    assert records.range_key("10.192.0.0/18") == f"{records.RANGES}10.192.0.0-18"
    assert records.range_key("FD00:0::/56") == f"{records.RANGES}fd00::-56"


@pytest.mark.parametrize(
    "record",
    [
        records.Node(owner="n", name="a\x1b[2Jb", public_keys=()),
        records.Node(owner="n", name="a", public_keys=(), version="1\r2"),
        records.Network(owner="n", id="x", environment="shop\n", subnets=()),
        records.Endpoint(owner="n", id="e", network="x", environment="shop", names=("web", "\x07"), addresses=()),
    ],
)
def test_a_name_that_a_terminal_would_obey_is_none(record: records.Record) -> None:
    with pytest.raises(InvalidRequest, match="characters that cannot be shown") as caught:
        records.check(record)
    assert str(caught.value).isprintable()


def test_what_a_record_says_is_not_repeated_without_end() -> None:
    with pytest.raises(InvalidRequest) as caught:
        records.check(records.Range(owner="n", net="x" * 100_000))
    assert len(str(caught.value)) < 500
