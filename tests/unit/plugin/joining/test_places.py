"""Who is let in, and who is not; and what is claimed for a node that is."""

from __future__ import annotations

import base64
from ipaddress import IPv4Network
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.joining import places, tokens
from plugin.model import ip_network
from plugin.ranges import blocks
from plugin.store.mesh import View
from stackpad import records
from stackpad.errors import Conflict, InvalidRequest

FIRST = records.Node(owner="a", name="first", public_keys=("old", "key"))
NOW = 1e9
CLUSTER = records.Cluster(
    owner="a", id="c", range4="10.192.0.0/10", range6="fd00::/48", block_prefix=18, network_prefix=26
)
HELD = [
    records.Range(owner="a", net="10.192.0.0/18", block=True),
    records.Range(owner="a", net="fd00::/56", block=True),
    records.Range(owner="a", net="10.7.0.0/24", network="n"),
]
ASKED = tokens.JoinRequest(
    token="t",  # noqa: S106 - of a test
    digest="d",
    name="second",
    public_key=base64.b64encode(b"k" * 32).decode(),
    time=NOW,
)


def placed(held: list[records.Range], *own: str, owner: str = "b", former: str = "") -> list[records.Range]:
    nets = [ip_network(text) for text in own]
    return places.ranges(View(nodes={"a": FIRST}), held, owner, nets, CLUSTER, former=former, now=NOW)


def test_a_copy_of_a_node_is_told_apart_from_it() -> None:
    view = View(nodes={"a": FIRST})
    with pytest.raises(Conflict, match="node first has this node's WireGuard key"):
        places.refuse_key(view, "key", "b")
    places.refuse_key(view, "another", "b")
    places.refuse_key(view, "key", "a")
    places.refuse_key(View(nodes={"a": FIRST}, removed=frozenset({"a"})), "key", "b")


@pytest.mark.parametrize(
    ("ranges", "why"),
    [
        (["fd00:3::%x/64"], r"'fd00:3::%x/64' is not an address range"),
        (["0.0.0.0/0"], "0.0.0.0/0 is no size for a network"),
        (["::/0"], "::/0 is no size for a network"),
        (["127.0.0.0/8"], r"127\.0\.0\.0/8, where 127\.0\.0\.0/8 lies or reaches"),
        (["10.1.0.0/24", "\x1b[2J"], r"'\\x1b\[2J' is not an address range"),
        (["10.1.0.0/24"] * 1025, "more than 1024 ranges of networks"),
    ],
)
def test_what_no_network_can_have_is_refused(ranges: list[str], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        places.networks(msgspec.structs.replace(ASKED, ranges=tuple(ranges)))


def test_a_network_that_is_named_twice_is_claimed_once() -> None:
    own = places.networks(msgspec.structs.replace(ASKED, ranges=("10.1.0.0/24", "10.1.0.0/24")))
    assert [record.net for record in placed(HELD, *map(str, own)) if not record.block] == ["10.1.0.0/24"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"mtu": -1}, "an MTU that is none"),
        ({"mtu": 10**300}, "an MTU that is none"),
        ({"public_key": "a2tr"}, "does not have 32 bytes"),
        ({"endpoints": ("[fe80::1%eth0]:1",)}, "is not an address with a port"),
        ({"engine": "\x1b[2J"}, "cannot be shown"),
        ({"name": "a b"}, "'a b' cannot be a node's name"),
    ],
)
def test_a_record_that_others_could_not_read_is_not_written(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        places.node(msgspec.structs.replace(ASKED, **changes), "b", NOW)


def test_a_node_that_asks_again_is_given_what_was_claimed_for_it() -> None:
    first = placed(HELD, "10.1.0.0/24")
    assert [record.net for record in first] == ["10.192.64.0/18", "fd00:0:0:100::/56", "10.1.0.0/24"]
    assert placed(HELD + first, "10.1.0.0/24") == first
    more = placed(HELD + first, "10.2.0.0/24")
    assert {record.net for record in more} == {record.net for record in first} | {"10.2.0.0/24"}
    assert placed(HELD + first, owner="c")[0].net == "10.192.128.0/18", "another one has another block"


def test_a_block_that_a_node_had_before_counts_on() -> None:
    back = records.Range(owner="former", net="10.192.128.0/18", block=True, freed=NOW - 1, generation=4)
    (found,) = (r for r in placed([*HELD, back], "10.192.128.64/26", former="former") if r.net == back.net)
    assert (found.owner, found.generation, found.block) == ("b", 5, True)
    assert "10.192.128.0/18" not in [r.net for r in placed([*HELD, back])], "for others it cools down"


def test_a_network_in_the_way_is_named() -> None:
    with pytest.raises(Conflict, match=r"range 10\.7\.0\.0/16 overlaps 10\.7\.0\.0/24, a network of node first"):
        placed(HELD, "10.7.0.0/16")


def test_no_more_is_claimed_than_the_store_takes_at_once() -> None:
    nets = [str(net) for net in ip_network("172.16.0.0/16").subnets(new_prefix=24)]
    assert len(placed(HELD, *nets[: places.CLAIMS])) == places.CLAIMS + 2
    with pytest.raises(Conflict, match="have 98 ranges outside of its blocks, and 97 can be claimed at once"):
        placed(HELD, *nets[: places.CLAIMS + 1])


def test_the_same_token_is_the_same_node() -> None:
    assert places.node_id("d") == places.node_id("d") != places.node_id("e")
    assert len(places.node_id("d")) == 12


def test_what_is_kept_of_a_node_has_an_end() -> None:
    endpoints = tuple(f"192.0.2.1:{number}" for number in range(1, 4000))
    kept = places.node(msgspec.structs.replace(ASKED, endpoints=endpoints, version="1" * 4000), "b", NOW)
    assert kept.endpoints == endpoints[: places.ENDPOINTS]
    assert len(kept.version) == places.WORDS


def test_what_the_store_has_lost_is_not_free() -> None:
    """A node whose engine hangs has not written its ranges, and a wiped store has nobody's."""
    assert placed(places.known([], HELD))[0].net == "10.192.64.0/18"
    back = msgspec.structs.replace(HELD[0], freed=NOW - blocks.COOL_DOWN - 1)
    assert places.known([back, HELD[1]], HELD, HELD) == [back, *HELD[1:]], "the store's word counts, where there is one"
    assert places.known([], [back]) == []


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(4, 12)), max_size=20), st.integers(0, 255), st.integers(4, 12))
def test_what_is_near_is_what_overlaps(there: list[tuple[int, int]], at: int, size: int) -> None:
    def net(number: int, size: int) -> IPv4Network:
        return IPv4Network((number << 24, size), strict=False)

    held = [records.Range(owner=str(n), net=str(net(*one))) for n, one in enumerate(there)]
    found = places._Near(held).to(net(at, size))
    assert {record.owner for record in found} == {
        record.owner for record in held if IPv4Network(record.net).overlaps(net(at, size))
    }
