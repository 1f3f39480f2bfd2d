"""Names and addresses follow from a testbed's name and number, and no two testbeds share any."""

from __future__ import annotations

import ipaddress
import re

import pytest

from tests.testbed import plan


def test_nodes_are_named_and_numbered_from_one() -> None:
    made = plan.make("demo", 3, 2, "debian12")
    assert [node.name for node in made.nodes] == ["n1", "n2"]
    assert [node.netns for node in made.nodes] == ["stackpad-demo-n1", "stackpad-demo-n2"]
    assert [node.address for node in made.nodes] == ["10.89.3.1", "10.89.3.2"]
    assert [node.address6 for node in made.nodes] == ["fd89:3::1", "fd89:3::2"]


def test_one_engine_is_for_all_nodes() -> None:
    assert [node.engine for node in plan.make("a", 1, 3, "forky").nodes] == ["forky"] * 3


def test_a_list_of_engines_is_one_for_each_node() -> None:
    assert [node.engine for node in plan.make("a", 1, 2, "forky,debian12").nodes] == ["forky", "debian12"]


@pytest.mark.parametrize(
    ("name", "count", "engines", "told"),
    [
        ("", 1, "forky", "testbed name ''"),
        ("Upper", 1, "forky", "testbed name 'Upper'"),
        ("../etc", 1, "forky", "testbed name '../etc'"),
        ("a" * 17, 1, "forky", "up to 16"),
        ("a", 0, "forky", "0 nodes: use 1 to 100"),
        ("a", 101, "forky", "101 nodes: use 1 to 100"),
        ("a", 1, "sarge", "engine 'sarge' is unknown: there are debian12, trixie, forky, legacy"),
        ("a", 3, "forky,debian12", "2 engines for 3 nodes"),
    ],
)
def test_what_cannot_be_is_refused_by_name(name: str, count: int, engines: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        plan.make(name, 1, count, engines)


@pytest.mark.parametrize("number", [1, 9, 10, 199])
def test_every_address_is_valid_and_nobody_elses(number: int) -> None:
    made = plan.make("full", number, 100, "debian12")
    four = [ipaddress.IPv4Address(text) for text in (made.gateway, made.machine_address)]
    four += [ipaddress.IPv4Address(node.address) for node in made.nodes]
    six = [ipaddress.IPv6Address(made.gateway6), *(ipaddress.IPv6Address(node.address6) for node in made.nodes)]
    assert len(set(four)) == 102
    assert len(set(six)) == 101
    assert len({ipaddress.ip_network(f"{address}/24", strict=False) for address in four}) == 1
    assert len({ipaddress.ip_network(f"{address}/64", strict=False) for address in six}) == 1


def test_testbeds_share_neither_networks_nor_names() -> None:
    one, two = plan.make("one", 1, 2, "debian12"), plan.make("two", 2, 2, "debian12")
    for field in ("switch", "machine_link", "gateway", "gateway6", "machine_address"):
        assert getattr(one, field) != getattr(two, field)
    assert not {node.netns for node in one.nodes} & {node.netns for node in two.nodes}


def test_names_fit_the_kernel() -> None:
    """An interface's name has 15 bytes at most, a file's (a namespace's) 255."""
    made = plan.make("a" * 16, 199, 100, "debian12")
    assert len(made.machine_link) <= 15
    assert all(len(node.name) <= 15 for node in made.nodes)


@pytest.mark.parametrize(("taken", "free"), [(set(), 1), ({1, 2}, 3), ({2, 3}, 1), (set(range(1, 199)), 199)])
def test_the_lowest_free_number_is_taken(taken: set[int], free: int) -> None:
    assert plan.free_number(taken) == free


def test_no_number_left_is_told() -> None:
    with pytest.raises(ValueError, match="take one down"):
        plan.free_number(range(1, 200))
