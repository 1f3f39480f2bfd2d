"""Which step stops a connection."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stackpad.cli.explain import explain, grid
from stackpad.cli.reports import ClusterReport, EndpointReport, NetworkReport, NodeReport, ServiceReport

WEB = EndpointReport(id="e1", container="web", addresses=("10.192.0.66",))
SHOP = NetworkReport(id="1" * 64, name="shop", environment="shop", bridge="sp-1", mtu=1420, endpoints=(WEB,))
OTHER = NetworkReport(
    id="2" * 64,
    name="other",
    environment="other",
    endpoints=(EndpointReport(id="e2", container="job", addresses=("10.192.0.130",)),),
)
POSTGRES = ServiceReport(
    environment="shop", names=("postgres", "db"), container="postgres", node="worker", addresses=("10.192.64.66",)
)
ALIEN = ServiceReport(
    environment="other", names=("redis",), container="redis", node="worker", addresses=("10.192.64.130",)
)
WORKER = NodeReport(
    id="w", name="worker", alive=True, endpoint="192.0.2.2:51820", handshake=3.0, round_trip=0.001, mtu=1420
)


def ask(who: str, whom: str, **changes: Any) -> list[str]:
    node = msgspec.structs.replace(WORKER, **changes)
    services = [msgspec.structs.replace(one, alive=node.alive) for one in (POSTGRES, ALIEN)]
    steps = explain(who, whom, [SHOP, OTHER], services, ClusterReport(member=True, nodes=(node,)))
    assert grid(steps).rows
    return [f"{step.name} {'ok' if step.ok else 'stops'}" for step in steps]


@pytest.mark.parametrize("whom", ["postgres", "db", "Postgres", "postgres.shop", "10.192.64.66"])
def test_the_whole_way_to_another_node(whom: str) -> None:
    kind = "address" if whom[0] == "1" else "name"
    assert ask("web", whom) == [
        "from ok", f"{kind} ok", "environment ok", "sender ok", "tunnel ok", "receiver ok", "to ok",
    ]  # fmt: skip


def test_on_one_node_there_is_no_tunnel() -> None:
    assert ask("job", "job")[-2:] == ["way ok", "to ok"]


@pytest.mark.parametrize(
    ("who", "whom", "changes", "last"),
    [
        ("nobody", "postgres", {}, "from stops"),
        ("web", "nothing", {}, "name stops"),
        ("web", "10.9.9.9", {}, "address stops"),
        ("web", "redis", {}, "environment stops"),
        ("web", "job", {}, "environment stops"),
        ("web", "postgres", {"alive": False}, "name stops"),
    ],
)
def test_the_step_that_stops_is_the_last(who: str, whom: str, changes: dict[str, Any], last: str) -> None:
    assert ask(who, whom, **changes)[-1] == last


def test_a_tunnel_that_sleeps_is_none_that_fails() -> None:
    assert "tunnel ok" in ask("web", "postgres", handshake=None)


def test_a_living_node_that_does_not_answer_stops_at_the_tunnel() -> None:
    assert ask("web", "postgres", round_trip=None)[-1] == "tunnel stops"
