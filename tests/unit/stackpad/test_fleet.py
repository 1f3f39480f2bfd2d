"""The cluster's tables."""

from __future__ import annotations

import pytest
from msgspec import structs

from stackpad.cli import fleet
from stackpad.cli.render import Grid
from stackpad.cli.reports import ClusterReport, NodeReport, StoreReport

ME = NodeReport(id="m", name="me", self=True, alive=True)
OTHER = NodeReport(
    id="o", name="other", alive=True, endpoint="192.0.2.2:51820", handshake=3.0, round_trip=0.00123, received=10,
    sent=2_000_000, mtu=1320,
)  # fmt: skip


def status(*nodes: NodeReport) -> dict[str, str]:
    report = ClusterReport(member=True, id="c", name="me", nodes=nodes, store=StoreReport(connected=True))
    return {row[0].strip(): row[1] for row in fleet.extended(Grid((), ()), report).rows}


def test_status_tells_of_each_peer_what_is_known() -> None:
    told = status(ME, OTHER)
    assert told["nodes"] == "2, 2 alive"
    assert "me" not in told
    for words in ("alive", "3 s ago", "192.0.2.2:51820", "round trip 1.23 ms", "MTU 1320", "2.0 MB out, 10 B in"):
        assert words in told["other"]


@pytest.mark.parametrize(("alive", "words"), [(True, "no answer through the tunnel"), (False, "gone")])
def test_status_tells_what_does_not_answer(alive: bool, words: str) -> None:
    told = status(ME, NodeReport(id="o", name="other", alive=alive))["other"]
    assert words in told
    assert "round trip" not in told


def test_status_has_nodes_without_a_sign_of_life_among_the_problems() -> None:
    assert "cluster problems" not in status(ME, OTHER, NodeReport(id="j", name="new", joining=True))
    problems = status(ME, NodeReport(id="o", name="other\x1b"))["cluster problems"]
    assert problems.startswith("other\\x1b gives no sign of life")
    assert "stackpad node rm other" in problems


def test_a_node_that_has_just_come_is_not_gone() -> None:
    others = (NodeReport(id="o", joining=True), NodeReport(id="p"))
    grid = fleet.nodes(ClusterReport(member=True, nodes=(ME, *others)))
    assert [row[1] for row in grid.rows] == ["alive", "joining", "gone"]


def test_the_list_of_nodes_names_those_that_are_gone_below_it() -> None:
    others = (OTHER, NodeReport(id="j", name="new", joining=True), NodeReport(id="p", name="lost\x1b"))
    grid = fleet.nodes(ClusterReport(member=True, nodes=(ME, *others), problems=("a key\x1b",)))
    problem, note = grid.notes
    assert problem == "a key\\x1b"
    assert note.startswith("lost\\x1b gives no sign of life")
    assert fleet.nodes(ClusterReport(member=True, nodes=(ME, OTHER))).notes == ()


def test_status_shows_what_new_networks_of_a_member_are_made_from() -> None:
    alone = Grid((), (("MTU", "1500"), ("ranges", "10.192.0.0/10, fd12::/48"), ("repairs", "0")))
    assert fleet.extended(alone, ClusterReport()).rows[:3] == alone.rows
    me = structs.replace(ME, blocks=("10.192.64.0/18", "fd00:0:0:100::/56"))
    told = {row[0]: row[1] for row in fleet.extended(alone, ClusterReport(member=True, nodes=(me, OTHER))).rows}
    assert told["ranges"] == "10.192.64.0/18, fd00:0:0:100::/56 (this node's blocks of the cluster)"
    assert told["MTU"] == "1500"
    told = {row[0]: row[1] for row in fleet.extended(alone, ClusterReport(member=True)).rows}
    assert told["ranges"] == "not known yet: blocks of the cluster"


def test_the_list_of_nodes_has_the_round_trip() -> None:
    grid = fleet.nodes(ClusterReport(member=True, nodes=(ME, OTHER)))
    assert dict(zip(grid.heads, grid.rows[1], strict=True))["ROUND TRIP"] == "1.23 ms"


def test_without_a_cluster_status_says_how_to_begin_one() -> None:
    ((_, words),) = fleet.extended(Grid((), ()), ClusterReport()).rows
    assert "stackpad node init" in words


def test_where_there_should_be_one_status_says_why_there_is_none() -> None:
    ((name, words),) = fleet.extended(Grid((), ()), ClusterReport(problems=("membership.json\x1b cannot be read",))).rows
    assert (name, words) == ("cluster problems", "membership.json\\x1b cannot be read")
