"""Which step stops a connection."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stackpad.cli.explain import Step, explain, grid
from stackpad.cli.fleet import services
from stackpad.cli.reports import ClusterReport, EndpointReport, NetworkReport, NodeReport, PartReport, ServiceReport
from stackpad.metadata import METADATA6, METADATA_AND_DNS

WEB = EndpointReport(id="e1", container="web", addresses=("10.192.0.66",))
SHOP = NetworkReport(
    id="1" * 64, name="shop", environment="shop", bridge="sp-1", mtu=1420, endpoints=(WEB,), remote=("10.192.64.64/26",),
    parts=(
        PartReport(node="m", subnets=("10.192.0.64/26",)), PartReport(node="w", subnets=("10.192.64.64/26",)),
    ),
)  # fmt: skip
ME = NodeReport(id="m", name="me", self=True, alive=True, blocks=("10.192.0.0/18",))
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
    steps = steps_of(who, whom, WORKER, **changes)
    return [f"{step.name} {'ok' if step.ok else 'stops'}" for step in steps]


def steps_of(
    who: str, whom: str, worker: NodeReport, shop: NetworkReport = SHOP, me: NodeReport = ME, **changes: Any
) -> list[Step]:
    node = msgspec.structs.replace(worker, **changes)
    services = [msgspec.structs.replace(one, alive=node.alive) for one in (POSTGRES, ALIEN)]
    steps = explain(who, whom, [shop, OTHER], services, ClusterReport(member=True, node="m", nodes=(me, node)))
    assert grid(steps).rows
    return steps


@pytest.mark.parametrize("whom", ["postgres", "db", "Postgres", "postgres.shop", "10.192.64.66"])
def test_the_whole_way_to_another_node(whom: str) -> None:
    kind = "address" if whom[0] == "1" else "name"
    assert ask("web", whom) == [
        "from ok", f"{kind} ok", "environment ok", "sender ok", "admitted ok", "tunnel ok", "receiver ok", "to ok",
    ]  # fmt: skip


def test_on_one_node_there_is_no_tunnel() -> None:
    assert ask("job", "job")[-2:] == ["way ok", "to ok"]


@pytest.mark.parametrize(
    ("who", "whom", "changes", "last"),
    [
        ("nobody", "postgres", {}, "from stops"),
        ("web", "nothing", {}, "name stops"),
        ("web", "10.192.64.67", {}, "address stops"),
        ("web", "127.0.0.1", {}, "address stops"),
        ("web", "nothing.shop", {}, "name stops"),
        ("web", "redis", {}, "environment stops"),
        ("web", "job", {}, "environment stops"),
        ("web", "postgres", {"alive": False}, "name stops"),
    ],
)
def test_the_step_that_stops_is_the_last(who: str, whom: str, changes: dict[str, Any], last: str) -> None:
    assert ask(who, whom, **changes)[-1] == last


def test_a_missing_name_is_not_sought_in_another_environment() -> None:
    """Whose database it is that has the name there, nobody is told to connect to it."""
    step = steps_of("web", "redis", WORKER)[-1]
    assert step.text == "nobody in shop has the name redis; what has it is in other, which is kept apart"
    assert "connect" not in step.remedy
    assert "connect" in steps_of("web", "10.192.64.130", WORKER)[-1].remedy


def way_out(whom: str, *networks: NetworkReport, node: tuple[str, ...] = ()) -> Step:
    (_, *_, step) = explain("web", whom, networks or [SHOP], [POSTGRES], ClusterReport(), node)
    return step


@pytest.mark.parametrize("whom", ["1.1.1.1", "10.9.9.9", "example.org"])
def test_the_outside_is_answered_by_the_networks_egress(whom: str) -> None:
    """What gets there does not stop, and what does not is told by which option."""
    assert way_out(whom).ok
    assert "shop lets its containers out" in way_out(whom).text
    closed, internal = (msgspec.structs.replace(SHOP, **change) for change in ({"egress": False}, {"internal": True}))
    for shut, words in ((closed, "shop has stackpad.egress=false"), (internal, "shop is internal")):
        step = way_out(whom, shut)
        assert (step.name, step.ok) == ("way out", False)
        assert words in step.text
        assert step.remedy
    other = msgspec.structs.replace(OTHER, endpoints=(WEB,))
    assert way_out(whom, internal, other).ok, "the network with a way out is the one that is used"
    assert "Docker's choice" in way_out(whom, closed, other).text


@pytest.mark.parametrize(
    ("whom", "ok", "words"),
    [
        ("192.0.2.10", True, "this node's own"),
        ("169.254.53.53", True, "DNS (53)"),
        ("10.192.0.65", True, "the gateway of its network"),
        ("169.254.169.254", False, "cloud metadata"),
        ("100.100.100.200", False, "cloud metadata"),
        ("192.0.0.192", False, "cloud metadata"),
        *((address, False, "cloud metadata") for address in METADATA6),
        (METADATA_AND_DNS, True, "DNS (53) is reached there, and nothing else"),
        ("2001:db8::1", False, "no IPv6 address"),
    ],
)
def test_addresses_outside_that_are_not_like_others(whom: str, ok: bool, words: str) -> None:
    step = way_out(whom, msgspec.structs.replace(SHOP, gateways=("10.192.0.65",)), node=("192.0.2.10",))
    assert step.ok is ok
    assert words in step.text


@pytest.mark.parametrize("whom", ["postgres", "10.192.64.66"])
def test_what_this_node_reaches_in_no_way_stops_at_its_name(whom: str) -> None:
    there = msgspec.structs.replace(POSTGRES, reached=False)
    *_, step = explain("web", whom, [SHOP], [there], ClusterReport(member=True, node="m", nodes=(ME, WORKER)))
    assert not step.ok
    assert step.text == f"{whom} is 10.192.64.66 on worker, in a range that is not reached from here"
    assert "stackpad status" in step.remedy
    beside = msgspec.structs.replace(POSTGRES, addresses=("10.192.64.67",))
    steps = explain("web", "db", [SHOP], [there, beside], ClusterReport(member=True, node="m", nodes=(ME, WORKER)))
    assert steps[-1].ok, "another replica is"
    assert "10.192.64.67" in steps[-1].text


def test_services_say_which_of_them_are_not_reached() -> None:
    away = msgspec.structs.replace(POSTGRES, reached=False)
    gone = msgspec.structs.replace(away, alive=False)
    shown = [row[2] for row in services([POSTGRES, away, gone]).rows]
    assert shown == ["worker", "worker (not reached from here)", "worker (gone)"]


def test_a_container_whose_name_is_not_known_yet_is_no_wrong_name() -> None:
    """Its endpoint comes with the engine's call, its name a moment later with the engine's event."""
    fresh = EndpointReport(id="abcdef0123456789")
    started = msgspec.structs.replace(SHOP, endpoints=(WEB, fresh))
    (step,) = steps_of("late", "postgres", WORKER, shop=started)
    assert not step.ok
    assert step.remedy == (
        "there are: abcdef012345, job, web; one has just started and its name is not known yet: ask again in a second"
    )
    (step,) = steps_of("late", "postgres", WORKER)
    assert step.remedy == "there are: job, web"


def test_a_tunnel_that_sleeps_is_none_that_fails() -> None:
    assert "tunnel ok" in ask("web", "postgres", handshake=None)


def test_a_living_node_that_does_not_answer_stops_at_the_tunnel() -> None:
    assert ask("web", "postgres", round_trip=None)[-1] == "tunnel stops"


@pytest.mark.parametrize(
    ("network", "me", "name", "words"),
    [
        ({"remote": ()}, {}, "admitted", "10.192.64.64/26, which worker has published but does not hold"),
        ({"remote": (), "parts": SHOP.parts[:1] if SHOP.parts else ()}, {}, "admitted", "admits no range"),
        ({"remote": ("10.192.64.128/26",), "parts": ()}, {}, "admitted", "admits 10.192.64.128/26 for this network, not"),
        ({"parts": SHOP.parts[1:] if SHOP.parts else ()}, {}, "receiver", "has not published the range of 10.192.0.66"),
        ({}, {"blocks": ("10.192.128.0/18",)}, "receiver", "10.192.0.64/26 is published but not held by this node"),
        ({}, {"blocks": ("10.192.0.64/27",)}, "receiver", "not held"),
        ({"parts": SHOP.parts[:1] if SHOP.parts else ()}, {}, "receiver", "worker has not published its part"),
    ],
)
def test_rules_are_looked_at_on_both_sides(network: dict[str, Any], me: dict[str, Any], name: str, words: str) -> None:
    shop, here = msgspec.structs.replace(SHOP, **network), msgspec.structs.replace(ME, **me)
    last = steps_of("web", "postgres", WORKER, shop, here)[-1]
    assert (last.name, last.ok) == (name, False)
    assert words in last.text
    assert last.remedy


@pytest.mark.parametrize("me", [{"ranges": ("10.192.0.64/26",), "blocks": ()}, {}])
def test_a_range_may_be_claimed_or_lie_in_a_block(me: dict[str, Any]) -> None:
    assert steps_of("web", "postgres", WORKER, SHOP, msgspec.structs.replace(ME, **me))[-1].name == "to"


def test_one_family_that_gets_through_is_enough() -> None:
    web = msgspec.structs.replace(WEB, addresses=("fd00::66", "10.192.0.66"))
    steps = steps_of("web", "postgres", WORKER, msgspec.structs.replace(SHOP, endpoints=(web,)))
    assert steps[-1].name == "to"


def test_an_older_plugin_says_less_and_nothing_is_made_up() -> None:
    steps = {
        step.name: step
        for step in steps_of("web", "postgres", WORKER, msgspec.structs.replace(SHOP, remote=None, parts=None))
    }
    assert "does not say" in steps["admitted"].text
    assert "not known" in steps["receiver"].text
