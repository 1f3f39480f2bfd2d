"""What the doctor says of a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from stackpad.cli.clusterchecks import cluster
from stackpad.cli.facts import Facts, Level, Unknown
from stackpad.cli.reports import ClusterReport, NodeReport, Status, StoreReport

POOLS = ({"base": "10.192.0.64/26", "size": 26},)


def facts(
    report: ClusterReport | Unknown | None, pools: frozenset[str] | Unknown = frozenset({"10.192.0.64/26"})
) -> Facts:
    return Facts(Status(), (), "", "", {}, frozenset(), cluster=report, engine_pools=pools)


def report(**changes: Any) -> ClusterReport:
    values: dict[str, Any] = {"member": True, "store": StoreReport(connected=True), "pools": POOLS}
    return ClusterReport(**{**values, **changes})


@pytest.mark.parametrize("there", [None, Unknown("older"), ClusterReport()])
def test_without_a_cluster_nothing_is_said(there: ClusterReport | Unknown | None) -> None:
    assert not list(cluster(facts(there)))


def test_all_well() -> None:
    nodes = (NodeReport(name="me", self=True), NodeReport(name="b", alive=True, round_trip=0.001, endpoint="192.0.2.2:1"))
    found = list(cluster(facts(report(nodes=nodes))))
    assert [(check.name, check.level) for check in found] == [
        ("store", Level.OK),
        ("node b", Level.OK),
        ("address pools", Level.OK),
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
    assert check.remedy or name == "cluster"


def test_pools_that_nobody_tells_are_skipped() -> None:
    checks = list(cluster(facts(report(), Unknown("no engine"))))
    assert checks[-1].level is Level.SKIPPED
