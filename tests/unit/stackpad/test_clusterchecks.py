"""What the doctor says of a cluster."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plugin.resolver.wire import Answerer
from plugin.resolver.zone import View
from stackpad.cli import examine
from stackpad.cli.clusterchecks import cluster
from stackpad.cli.facts import Facts, Level, Unknown
from stackpad.cli.reports import ClusterReport, NodeReport, Status, StoreReport
from stackpad.errors import Unavailable

OURS = ["169.254.53.53", "fd9c:5acd:5353::53"]
POOLS = ({"base": "10.192.0.64/26", "size": 26},)


def facts(
    report: ClusterReport | Unknown | None, pools: frozenset[str] | Unknown = frozenset({"10.192.0.64/26"})
) -> Facts:
    return Facts(
        Status(), (), "", "", {}, frozenset(), cluster=report, engine_pools=pools,
        daemon_json={"dns": [*OURS, "192.0.2.53"]}, resolver=OURS[0],
    )  # fmt: skip


def report(**changes: Any) -> ClusterReport:
    values: dict[str, Any] = {"member": True, "store": StoreReport(connected=True), "pools": POOLS}
    return ClusterReport(**{**values, **changes})


@pytest.mark.parametrize("there", [None, Unknown("older"), ClusterReport()])
def test_without_a_cluster_nothing_is_said(there: ClusterReport | Unknown | None) -> None:
    assert not list(cluster(replace(facts(there), daemon_json={"dns": ["192.0.2.53"]}, resolvers_away=frozenset(OURS))))


@pytest.mark.parametrize(
    "there", [None, Unknown("no plugin"), ClusterReport(), ClusterReport(problems=("damage",)), "in"]
)
def test_containers_that_are_sent_to_an_address_that_is_not_there(there: ClusterReport | Unknown | str | None) -> None:
    """As after a reboot of a node that has left, or has no plugin any more."""
    found = facts(report() if isinstance(there, str) else there)
    (check,) = [
        check for check in cluster(replace(found, resolvers_away=frozenset(OURS[:1]))) if check.name == "name servers"
    ]
    assert check.level is Level.PROBLEM
    assert f"names {OURS[0]}, which this node has not got" in check.detail
    assert ("daemon.json" in check.remedy) is not isinstance(there, str)


def test_a_node_that_has_left_is_told_before_its_reboot_that_the_engine_still_asks_ours() -> None:
    (check,) = cluster(facts(ClusterReport()))
    assert (check.name, check.level) == ("name servers", Level.WARNING)
    assert "next reboot" in check.detail
    assert "stackpad node join" in check.remedy


def test_which_of_the_addresses_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By what ``ip`` lists; without IPv6 nobody misses the second one."""
    listed = "1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever preferred_lft forever\n"
    monkeypatch.setattr(examine, "_run", lambda *_: listed)
    assert examine._resolvers_away(tmp_path) == {OURS[0]}
    switch = tmp_path / "sys/net/ipv6/conf/lo/disable_ipv6"
    switch.parent.mkdir(parents=True)
    switch.write_text("0\n")
    assert examine._resolvers_away(tmp_path) == set(OURS)
    listed += f"1: lo    inet {OURS[0]}/32 scope global lo\\       valid_lft forever preferred_lft forever\n"
    assert examine._resolvers_away(tmp_path) == {OURS[1]}
    switch.write_text("1\n")
    assert not examine._resolvers_away(tmp_path)


def test_a_node_that_should_be_in_one_says_why_it_is_not() -> None:
    """And is not told to take out of Docker's configuration what belongs there."""
    (check,) = cluster(facts(ClusterReport(problems=("membership.json cannot be read",))))
    assert (check.level, check.detail) == (Level.PROBLEM, "membership.json cannot be read")


def test_all_well() -> None:
    nodes = (NodeReport(name="me", self=True), NodeReport(name="b", alive=True, round_trip=0.001, endpoint="192.0.2.2:1"))
    found = list(cluster(facts(report(nodes=nodes))))
    assert [(check.name, check.level) for check in found] == [
        ("store", Level.OK),
        ("node b", Level.OK),
        ("address pools", Level.OK),
        ("resolver", Level.OK),
        ("name servers", Level.OK),
    ]


@pytest.mark.parametrize(
    ("changes", "name", "level", "words"),
    [
        ({"store": StoreReport(reason="nobody there")}, "store", Level.PROBLEM, "nobody there"),
        ({"nodes": (NodeReport(name="b"),)}, "node b", Level.PROBLEM, "no sign of life"),
        ({"nodes": (NodeReport(name="b", alive=True),)}, "node b", Level.PROBLEM, "last handshake never"),
        ({"nodes": (NodeReport(name="b", alive=True, handshake=600.0),)}, "node b", Level.PROBLEM, "10 min ago"),
        ({"problems": ("something",)}, "cluster", Level.PROBLEM, "something"),
        ({"pools": ({"base": "10.192.64.64/26", "size": 26},)}, "address pools", Level.WARNING, "not this node's"),
    ],
)
def test_what_is_wrong_has_a_remedy(changes: dict[str, Any], name: str, level: Level, words: str) -> None:
    (check,) = [check for check in cluster(facts(report(**changes))) if check.name == name]
    assert check.level is level
    assert words in check.detail
    assert check.remedy


def test_pools_that_nobody_tells_are_skipped() -> None:
    checks = {check.name: check for check in cluster(facts(report(), Unknown("no engine")))}
    assert checks["address pools"].level is Level.SKIPPED


OTHERS = {"base": "fd00:1:0:101::/64", "size": 64}


@pytest.mark.parametrize(
    ("version", "there", "level"),
    [
        ("28.5.2", frozenset({"10.192.0.64/26"}), Level.WARNING),
        ("28.5.2", frozenset({"10.192.0.64/26", "fd00:1:0:101::/64"}), Level.OK),
        ("20.10.24", frozenset({"10.192.0.64/26"}), Level.OK),
    ],
)
def test_ipv6_pools_where_the_engine_takes_some(version: str, there: frozenset[str], level: Level) -> None:
    found = replace(facts(report(pools6=(OTHERS,)), there), engine_version=version)
    (check,) = [check for check in cluster(found) if check.name == "address pools"]
    assert check.level is level
    assert (str(OTHERS["base"]) in check.detail) is (level is Level.WARNING)


DROPS = "-P INPUT DROP\n-P FORWARD ACCEPT\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n"


@pytest.mark.parametrize(
    ("changes", "name", "level", "words"),
    [
        ({"resolver": Unknown("169.254.53.53 does not answer")}, "resolver", Level.PROBLEM, "does not answer"),
        ({"filters": {"iptables": DROPS}}, "resolver", Level.PROBLEM, "INPUT"),
        ({"filters": {"iptables": DROPS + "-A FORWARD -i sp-+ -j ACCEPT\n"}}, "resolver", Level.PROBLEM, "INPUT"),
        ({"filters": {"iptables": DROPS + "-A INPUT -p udp -m udp --dport 53 -j ACCEPT\n"}}, "resolver", Level.OK, ""),
        ({"filters": {"iptables": DROPS + "-A INPUT -i sp-+ -j ACCEPT\n"}}, "resolver", Level.OK, ""),
        ({"filters": {"iptables": "-P INPUT ACCEPT\n"}}, "resolver", Level.OK, ""),
        ({"daemon_json": {}}, "name servers", Level.PROBLEM, "169.254.53.53"),
        ({"daemon_json": {"dns": "169.254.53.53"}}, "name servers", Level.PROBLEM, "169.254.53.53"),
        ({"daemon_json": {"dns": ["192.0.2.1"]}}, "name servers", Level.PROBLEM, "169.254.53.53"),
        ({"daemon_json": {"dns": [f"192.0.2.{n}" for n in range(3)] + OURS}}, "name servers", Level.PROBLEM, "169.254"),
        ({"daemon_json": {"dns": OURS}}, "name servers", Level.WARNING, "none is left"),
        ({"daemon_json": {"dns": ["169.254.53.53", "192.0.2.1"]}}, "name servers", Level.OK, "192.0.2.1"),
        ({"daemon_json": Unknown("it is not JSON")}, "name servers", Level.SKIPPED, "not JSON"),
    ],
)
def test_names_of_other_nodes(changes: dict[str, Any], name: str, level: Level, words: str) -> None:
    (check,) = [check for check in cluster(replace(facts(report()), **changes)) if check.name == name]
    assert check.level is level
    assert words in check.detail
    assert bool(check.remedy) is (level in {Level.PROBLEM, Level.WARNING})


def test_a_resolver_is_asked_for_what_it_answers_by_itself() -> None:
    """The real one behind a real socket; and a port at which nobody is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        place = listening.getsockname()

        def answer() -> None:
            query, client = listening.recvfrom(512)
            made = Answerer(View()).answer(query, client[0])
            assert isinstance(made, bytes), "it is not forwarded"
            listening.sendto(made, client)

        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(answer)
            assert examine._resolver(place) == "127.0.0.1"
            done.result()
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1 does not answer on UDP port \d+: Connection refused"):
        examine._resolver(place)
