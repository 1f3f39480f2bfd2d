"""Carving and allocation, by tables."""

from __future__ import annotations

import ipaddress

import pytest

from plugin.ranges import addresses
from stackpad.errors import Conflict, Exhausted, InvalidRequest

net = ipaddress.ip_network
ip = ipaddress.ip_address


@pytest.mark.parametrize(
    ("blocks", "prefix", "taken", "after", "expected"),
    [
        (["10.0.0.0/24"], 26, [], None, "10.0.0.0/26"),
        (["10.0.0.0/24"], 26, ["10.0.0.0/26"], None, "10.0.0.64/26"),
        (["10.0.0.0/24"], 26, ["10.0.0.128/25"], None, "10.0.0.0/26"),
        (["10.0.0.0/24"], 26, ["10.0.0.5/32", "10.0.0.64/27"], None, "10.0.0.128/26"),
        (["10.0.0.0/24"], 26, ["fd00::/8", "192.168.0.0/16"], None, "10.0.0.0/26"),
        (["10.0.0.0/24"], 24, [], None, "10.0.0.0/24"),
        (["10.0.0.0/24"], 26, [], "10.0.0.64/26", "10.0.0.128/26"),
        (["10.0.0.0/24"], 26, [], "10.0.0.192/26", "10.0.0.0/26"),
        (["10.0.0.0/24"], 26, ["10.0.0.128/26"], "10.0.0.64/26", "10.0.0.192/26"),
        (["10.0.0.0/24"], 26, [], "10.0.0.0/30", "10.0.0.64/26"),
        (["10.0.0.0/24"], 26, [], "172.16.0.0/12", "10.0.0.0/26"),
        (["10.0.0.0/26", "10.1.0.0/26"], 26, ["10.0.0.0/26"], None, "10.1.0.0/26"),
        (["10.0.0.0/25", "10.0.0.128/25"], 26, [], "10.0.0.64/26", "10.0.0.128/26"),
        (["10.0.0.0/25", "10.0.0.128/25"], 26, ["10.0.0.128/25"], "10.0.0.64/26", "10.0.0.0/26"),
        (["10.0.0.0/28", "10.1.0.0/24"], 26, [], None, "10.1.0.0/26"),
        (["255.255.255.0/24"], 25, ["255.255.255.0/25"], "255.255.255.0/25", "255.255.255.128/25"),
        (["255.255.255.0/24"], 25, ["255.255.255.128/25"], "255.255.255.128/25", "255.255.255.0/25"),
        (["fd00::/48"], 64, ["fd00::/64"], None, "fd00:0:0:1::/64"),
    ],
)
def test_carve(blocks: list[str], prefix: int, taken: list[str], after: str | None, expected: str) -> None:
    found = addresses.carve(map(net, blocks), prefix, [*map(net, taken)], None if after is None else net(after))
    assert found == net(expected)


@pytest.mark.parametrize(
    ("blocks", "taken"),
    [(["10.0.0.0/25"], ["10.0.0.0/25"]), (["10.0.0.0/25"], ["10.0.0.0/8"]), (["10.0.0.0/27"], []), ([], [])],
)
def test_carve_says_when_there_is_no_room(blocks: list[str], taken: list[str]) -> None:
    with pytest.raises(Exhausted, match=r"no /26 is free in .*; remove networks"):
        addresses.carve(map(net, blocks), 26, [*map(net, taken)])


def test_no_room_is_said_in_a_line() -> None:
    """However many blocks there are, adjacent ones are one range to whoever reads it."""
    whole = net("10.192.0.0/10")
    with pytest.raises(Exhausted, match=r"in 10\.192\.0\.0/10;"):
        addresses.carve(whole.subnets(new_prefix=18), 26, [whole])


@pytest.mark.parametrize(
    ("pool", "within", "taken", "after", "expected"),
    [
        ("10.0.0.0/29", "10.0.0.0/29", [], None, "10.0.0.1"),
        ("10.0.0.0/29", "10.0.0.0/29", ["10.0.0.1", "10.0.0.2"], None, "10.0.0.3"),
        ("10.0.0.0/29", "10.0.0.0/29", [], "10.0.0.3", "10.0.0.4"),
        ("10.0.0.0/29", "10.0.0.0/29", [], "10.0.0.6", "10.0.0.1"),
        ("10.0.0.0/29", "10.0.0.0/29", ["10.0.0.4", "10.0.0.5", "10.0.0.6"], "10.0.0.3", "10.0.0.1"),
        ("10.0.0.0/24", "10.0.0.64/30", [], None, "10.0.0.64"),
        ("10.0.0.0/24", "10.0.0.64/30", [], "10.0.0.9", "10.0.0.64"),
        ("10.0.0.0/24", "10.0.0.64/30", ["10.0.0.64"], "10.0.0.67", "10.0.0.65"),
        ("10.0.0.0/24", "10.0.0.252/30", ["10.0.0.252", "10.0.0.253"], None, "10.0.0.254"),
        ("10.0.0.0/30", "10.0.0.0/30", ["10.0.0.1"], None, "10.0.0.2"),
        ("fd00::/64", "fd00::/64", [], None, "fd00::1"),
        ("fd00::/126", "fd00::/126", ["fd00::1", "fd00::2"], None, "fd00::3"),
        ("fd00::/64", "fd00::/64", ["fd00::1"], "fd00::ffff", "fd00::1:0"),
    ],
)
def test_allocate(pool: str, within: str, taken: list[str], after: str | None, expected: str) -> None:
    found = addresses.allocate(net(pool), net(within), [*map(ip, taken)], None if after is None else ip(after))
    assert found == ip(expected)


def test_allocate_says_how_many_are_in_use() -> None:
    with pytest.raises(Exhausted, match=r"all 2 addresses of 10\.0\.0\.0/30 are in use; remove containers"):
        addresses.allocate(net("10.0.0.0/30"), net("10.0.0.0/30"), [ip("10.0.0.1"), ip("10.0.0.2")])


def test_a_range_of_nothing_but_the_broadcast_address_has_no_host() -> None:
    with pytest.raises(Exhausted, match="no host address"):
        addresses.allocate(net("10.0.0.0/24"), net("10.0.0.255/32"), [])


@pytest.mark.parametrize(
    ("pool", "address"),
    [
        ("10.0.0.0/24", "10.0.0.0"),
        ("10.0.0.0/24", "10.0.0.255"),
        ("10.0.0.0/24", "10.0.1.1"),
        ("10.0.0.0/24", "fd00::1"),
        ("fd00::/64", "fd00::"),
    ],
)
def test_no_address_of_a_host(pool: str, address: str) -> None:
    with pytest.raises(InvalidRequest, match=address):
        addresses.check_host(net(pool), ip(address))


@pytest.mark.parametrize(
    ("pool", "address"),
    [("10.0.0.0/24", "10.0.0.1"), ("10.0.0.0/24", "10.0.0.254"), ("fd00::/64", "fd00::ffff:ffff:ffff:ffff")],
)
def test_an_address_of_a_host(pool: str, address: str) -> None:
    addresses.check_host(net(pool), ip(address))


def test_an_overlap_names_the_other_side() -> None:
    with pytest.raises(Conflict, match=r"range 10\.0\.0\.0/24 overlaps 10\.0\.0\.0/16 of network shop; choose another"):
        addresses.refuse_overlap(
            net("10.0.0.0/24"), [(net("fd00::/8"), "network six"), (net("10.0.0.0/16"), "network shop")]
        )
    addresses.refuse_overlap(net("10.0.0.0/24"), [(net("10.0.1.0/24"), "network next"), (net("::/0"), "network six")])


@pytest.mark.parametrize("text", ["fd00::1%eth0", "fd00::1%x } ; flush ruleset", "fe80::%1"])
def test_a_zone_is_no_part_of_an_address(text: str) -> None:
    """It would make two addresses out of one, and carry any text into the ruleset."""
    with pytest.raises(ValueError, match="zone"):
        addresses.unzoned(text)
