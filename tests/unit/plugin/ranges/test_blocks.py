"""Blocks and claims: who may have which range."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.model import IPNet, ip_network
from plugin.ranges import blocks
from stackpad import records
from stackpad.errors import Conflict, Exhausted

WHOLE = ip_network("10.192.0.0/10")
NOW = 1_000_000.0


def held(net: str, owner: str = "other", *, block: bool = True, freed: float = 0.0, network: str = "") -> records.Range:
    return records.Range(owner=owner, net=net, block=block, freed=freed, network=network)


def test_the_first_free_block_is_chosen_behind_those_that_are_held() -> None:
    taken = [held("10.192.0.0/18"), held("10.192.64.0/18", "me")]
    assert blocks.choose_block(WHOLE, 18, taken, now=NOW, owner="me") == ip_network("10.192.128.0/18")
    avoid = ["10.192.130.0/24"]
    assert blocks.choose_block(WHOLE, 18, taken, avoid=avoid, now=NOW, owner="me") == ip_network("10.192.192.0/18")


@pytest.mark.parametrize(
    ("freed", "owner", "chosen"),
    [
        (NOW - blocks.COOL_DOWN - 1, "me", "10.192.0.0/18"),
        (NOW - blocks.COOL_DOWN + 1, "me", "10.192.64.0/18"),
        (NOW - 1, "other", "10.192.0.0/18"),
    ],
)
def test_a_block_given_back_cools_down_for_others(freed: float, owner: str, chosen: str) -> None:
    assert blocks.choose_block(WHOLE, 18, [held("10.192.0.0/18", freed=freed)], now=NOW, owner=owner) == ip_network(
        chosen
    )


def test_a_full_range_says_so() -> None:
    with pytest.raises(Exhausted, match=r"all 2 blocks of /18 in 10\.0\.0\.0/17 .* stackpad node rm"):
        blocks.choose_block(
            ip_network("10.0.0.0/17"), 18, [held("10.0.0.0/18"), held("10.0.64.0/18")], now=NOW, owner="me"
        )


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (held("10.192.0.0/18"), "a block of node worker"),
        (held("10.192.0.0/26", block=False), "a network of node worker"),
        (held("10.192.0.0/26", "me", block=False, network="x"), "a network of this node"),
        (held("10.192.0.0/26", block=False, freed=NOW - 1), "given back a short while ago"),
    ],
)
def test_a_claim_is_refused_with_the_holder_and_the_remedy(record: records.Range, words: str) -> None:
    with pytest.raises(Conflict, match=r"range 10\.192\.0\.0/24 overlaps .*--subnet") as caught:
        blocks.refuse_claim(
            ip_network("10.192.0.0/24"), [record], owner="me", names={"other": "worker"}, now=NOW, network="mine"
        )
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "record",
    [
        held("10.192.0.0/18", "me"),
        held("10.192.0.0/24", "me", block=False, network="mine"),
        held("10.193.0.0/24"),
        held("fd00::/56"),
        held("10.192.0.0/24", block=False, freed=NOW - blocks.COOL_DOWN),
    ],
)
def test_a_claim_that_harms_nobody_is_let_through(record: records.Range) -> None:
    blocks.refuse_claim(ip_network("10.192.0.0/24"), [record], owner="me", names={}, now=NOW, network="mine")


@given(st.sets(st.integers(0, 255), max_size=60), st.integers(12, 20))
def test_a_chosen_block_overlaps_no_held_one(numbers: set[int], prefix: int) -> None:
    taken = [held(f"10.{192 + number // 4}.{64 * (number % 4)}.0/18") for number in numbers]
    try:
        chosen = blocks.choose_block(WHOLE, prefix, taken, now=NOW, owner="me")
    except Exhausted:
        return
    assert not any(ip_network(record.net).overlaps(chosen) for record in taken)
    assert chosen.prefixlen == prefix


def test_a_node_has_the_first_address_and_its_guests_the_next_ones() -> None:
    block = ip_network("10.192.64.0/18")
    assert str(blocks.mesh_address(block)) == "10.192.64.1"
    first = blocks.guest_address(block, [], 26)
    second = blocks.guest_address(block, [first], 26)
    assert (str(first), str(second)) == ("10.192.64.2", "10.192.64.3")
    part = blocks.own_part(block, 26)
    with pytest.raises(Exhausted, match="61 addresses for joining nodes"):
        blocks.guest_address(block, list(part.hosts()), 26)


@pytest.mark.parametrize("block", ["10.192.64.0/18", "fd00:1:2:300::/56", "10.192.0.0/26"])
def test_docker_is_given_all_of_the_block_but_the_nodes_own_part(block: str) -> None:
    whole = ip_network(block)
    own = blocks.own_part(whole, 26)
    nets: list[IPNet] = [ip_network(str(pool["base"])) for pool in blocks.pools([whole], 26)]
    assert sum(net.num_addresses for net in nets) + own.num_addresses == whole.num_addresses
    assert not any(net.overlaps(own) for net in nets)
    assert {pool["size"] for pool in blocks.pools([whole], 26)} <= {26, 64}


def test_a_second_block_is_docker_s_as_a_whole() -> None:
    pools = blocks.pools([ipaddress.IPv4Network("10.192.0.0/18"), ipaddress.IPv4Network("10.192.64.0/18")], 26)
    assert pools[-1] == {"base": "10.192.64.0/18", "size": 26}
