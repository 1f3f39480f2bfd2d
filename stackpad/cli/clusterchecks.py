"""What ``stackpad doctor`` concludes about a node's cluster; pure."""

from __future__ import annotations

from collections.abc import Iterator

from stackpad.cli.facts import Check, Facts, Level, Unknown
from stackpad.cli.render import duration
from stackpad.cli.reports import ClusterReport, NodeReport


def cluster(facts: Facts) -> Iterator[Check]:
    """The checks of a node that is in a cluster; none of one that is not."""
    report = facts.cluster
    if report is None or isinstance(report, Unknown) or not report.member:
        return
    yield _store(report)
    for node in report.nodes:
        if not node.self:
            yield _peer(node)
    yield _pools(facts, report)
    for problem in report.problems:
        yield Check("cluster", Level.PROBLEM, problem)


def _store(report: ClusterReport) -> Check:
    if report.store.connected:
        return Check("store", Level.OK, "it answers")
    remedy = "the node that runs it has to be up, with its tunnel; until then what is known goes on, and nobody can join"
    return Check("store", Level.PROBLEM, report.store.reason, remedy)


def _peer(node: NodeReport) -> Check:
    name = f"node {node.name}"
    if not node.alive:
        remedy = f"look at it, or free what it holds: stackpad node rm {node.name}"
        return Check(name, Level.PROBLEM, "it gives no sign of life", remedy)
    if node.round_trip is None:
        since = "never" if node.handshake is None else f"{duration(node.handshake)} ago"
        remedy = f"open UDP at {node.endpoint or 'its address'} in the firewalls between, or set ENDPOINT there"
        detail = f"alive, but it does not answer through the tunnel; last handshake {since}"
        return Check(name, Level.PROBLEM, detail, remedy)
    return Check(name, Level.OK, f"answers at {node.endpoint}, round trip {node.round_trip * 1000:.2f} ms")


def _pools(facts: Facts, report: ClusterReport) -> Check:
    if isinstance(facts.engine_pools, Unknown):
        return Check("address pools", Level.SKIPPED, facts.engine_pools.reason)
    ours = {str(pool["base"]) for pool in report.pools}
    if ours <= facts.engine_pools:
        return Check("address pools", Level.OK, "the engine chooses from this node's own block")
    remedy = (
        "stackpad node init and join write default-address-pools into daemon.json; restart Docker after that. "
        "Or give each network --ipam-driver stackpad"
    )
    return Check(
        "address pools", Level.WARNING, "the engine's are not this node's: two nodes may choose the same", remedy
    )
