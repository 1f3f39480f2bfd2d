"""The cluster as tables; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from stackpad.cli.render import NOTHING, Grid, clean, duration
from stackpad.cli.reports import ClusterReport, NodeReport, ServiceReport


def nodes(report: ClusterReport) -> Grid:
    """The nodes, a row each, as seen from this one; those that give no sign of life are named below, too."""
    rows = tuple(
        (
            clean(node.name) + (" (this)" if node.self else ""),
            _state(node),
            clean(node.engine or NOTHING),
            "\n".join(node.mesh) or NOTHING,
            "\n".join(node.blocks) or NOTHING,
            "\n".join(node.ranges) or NOTHING,
            str(node.networks),
            NOTHING if node.self else clean(node.endpoint or "not known"),
            _handshake(node),
            _round_trip(node),
        )
        for node in report.nodes
    )
    heads = ("NODE", "STATE", "ENGINE", "MESH", "BLOCKS", "CLAIMED", "NETWORKS", "REACHED AT", "HANDSHAKE", "ROUND TRIP")
    return Grid(
        heads, rows, tuple(map(clean, troubles(report))), "no nodes known yet; is the store there? stackpad status"
    )


def extended(grid: Grid, report: ClusterReport) -> Grid:
    """The node's status with its cluster."""
    if not report.member:
        told = "\n".join(map(clean, report.problems)) or "none; one begins with stackpad node init"
        return replace(grid, rows=(*grid.rows, ("cluster problems" if report.problems else "cluster", told)))
    alive = sum(node.alive for node in report.nodes)
    store = "answers" if report.store.connected else f"away: {clean(report.store.reason)}; going on with what is known"
    rows = [
        ("cluster", f"{report.id}, this node is {clean(report.name)}{' (control)' if report.control else ''}"),
        ("nodes", f"{len(report.nodes)}, {alive} alive"),
        ("store", store),
        ("WireGuard", report.wireguard + (", behind a NAT" if report.nat else "")),
    ]
    rows += [(f"  {clean(node.name)}", _peer(node)) for node in report.nodes if not node.self]
    if problems := troubles(report):
        rows.append(("cluster problems", "\n".join(map(clean, problems))))
    # Of the ranges that a node has by itself, one in a cluster gives nothing to new networks.
    own = [(name, _carved_from(report) if name == "ranges" else value) for name, value in grid.rows]
    return replace(grid, rows=(*own, *rows))


def _carved_from(report: ClusterReport) -> str:
    """What new networks of this node get their addresses from."""
    blocks = [block for node in report.nodes if node.self for block in node.blocks]
    if not blocks:
        return "not known yet: blocks of the cluster"
    return f"{', '.join(blocks)} (this node's blocks of the cluster)"


def troubles(report: ClusterReport) -> list[str]:
    """What is wrong in the cluster, its nodes that give no sign of life among it, each with what to do."""
    gone = [node.name for node in report.nodes if not (node.alive or node.joining)]
    told = "{0} gives no sign of life: see there with stackpad doctor, or free what it holds: stackpad node rm {0}"
    return [*report.problems, *(told.format(name) for name in gone)]


def services(reports: Iterable[ServiceReport]) -> Grid:
    """The names, a row for each container."""
    rows = tuple(
        (
            clean(report.environment),
            "\n".join(map(clean, report.names)),
            (clean(report.node) or "this node") + _beside(report),
            "\n".join(report.addresses),
            " ".join(report.ports) or NOTHING,
        )
        for report in sorted(reports, key=lambda report: (report.environment, report.names, report.node))
    )
    heads = ("ENVIRONMENT", "NAMES", "NODE", "ADDRESSES", "PORTS")
    return Grid(
        heads, rows, empty="no names; they come with running containers: docker run --network NETWORK --name NAME …"
    )


def _beside(report: ServiceReport) -> str:
    if not report.alive:
        return " (gone)"
    return "" if report.reached else " (not reached from here)"


def tokens(given: Iterable[Mapping[str, Any]], now: float) -> Grid:
    """Tokens that have not expired."""
    rows = tuple(
        (
            str(token["id"]),
            duration(float(token["expires"]) - now),
            f"node {token['used_by']}" if token["used_by"] else "nobody",
        )
        for token in given
    )
    return Grid(("TOKEN", "GOOD FOR", "USED BY"), rows, empty="no tokens; make one with stackpad node token")


def _state(node: NodeReport) -> str:
    return "alive" if node.alive else "joining" if node.joining else "gone"


def _handshake(node: NodeReport) -> str:
    if node.self:
        return NOTHING
    return "none yet" if node.handshake is None else f"{duration(node.handshake)} ago"


def _round_trip(node: NodeReport) -> str:
    return NOTHING if node.round_trip is None else f"{node.round_trip * 1000:.2f} ms"


def _peer(node: NodeReport) -> str:
    parts = [_state(node), f"handshake {_handshake(node)}"]
    if node.endpoint:
        parts.append(f"at {clean(node.endpoint)}")
    if node.alive:
        answers = node.round_trip is not None
        parts.append(f"round trip {_round_trip(node)}" if answers else "no answer through the tunnel")
    if node.mtu:
        parts.append(f"MTU {node.mtu}")
    if node.sent is not None and node.received is not None:
        parts.append(f"{_bytes(node.sent)} out, {_bytes(node.received)} in")
    return ", ".join(parts)


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
