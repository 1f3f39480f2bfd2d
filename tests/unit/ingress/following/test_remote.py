"""What nodes tell each other of their web containers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from ingress.following.remote import Others, Seen, seen, word
from ingress.routes import Problem, State, WebContainer
from stackpad import labels, records

BASE = "stackpad.test"
LABELS = {"stackpad.type": "web", "stackpad.port": "8080", "stackpad.domains": "shop.example"}


def container(**changes: Any) -> WebContainer:
    made = WebContainer(
        id="c1",
        name="web-1",
        request=labels.web(LABELS, name="web-1", network="shop-production", org="acme", base_domain=BASE),
        address="10.192.64.7",
        port=8080,
        state=State.UP,
        since=5.0,
        network="shop-production",
        labels=tuple(sorted(LABELS.items())),
    )
    return replace(made, **changes)


def stored(node: str, *told: records.Web) -> dict[str, bytes]:
    return {
        records.key(records.WEB, node, one.id): records.encode(msgspec.structs.replace(one, owner=node)) for one in told
    }


def cluster(values: dict[str, bytes], *alive: str, subnet: str = "10.192.64.0/26") -> Seen:
    network = records.Network(owner="b", id="n1", environment="shop-production", subnets=(subnet,))
    values[records.key(records.NETWORKS, "b", "n1")] = records.encode(network)
    for name in ("a", "b"):
        values[records.key(records.NODES, name)] = records.encode(
            records.Node(owner=name, name=f"n-{name}", public_keys=())
        )
    for name in alive:
        values[records.key(records.ALIVE, name)] = b"{}"
    return seen(values, node="a", control=True, connected=True)


def never(address: str, port: int) -> bool:
    """Nobody of a silent node answers."""
    return False


def test_what_one_node_says_the_other_hears() -> None:
    there = cluster(stored("b", *word([container()], [], org="acme")), "a", "b")
    (heard,), problems = Others(BASE).read(there, never)
    assert problems == []
    assert heard == replace(container(), checked=True, node="b")


def test_which_network_it_is_on_is_heard_as_the_plugins_have_it() -> None:
    there = cluster(stored("b", *word([container(joined="shop")], [], org="acme")), "a", "b")
    (heard,), _ = Others(BASE).read(there, never)
    assert (heard.network, heard.apart) == ("shop-production", "shop")


def test_of_a_node_that_does_not_say_which_environment_it_is_not_known() -> None:
    """An older plugin, or ingress, leaves the field out; who says that there is none has an empty one."""
    (said,) = word([container()], [], org="acme")
    assert said.environment == ""
    older = {
        key: msgspec.json.encode({k: v for k, v in msgspec.json.decode(value).items() if k != "environment"})
        for key, value in stored("b", said).items()
    }
    (heard,), _ = Others(BASE).read(cluster(older, "a", "b"), never)
    assert (heard.joined, heard.apart) == (None, None)
    (again,) = word([heard], [], org="acme")
    assert again.environment is None


def test_a_nodes_own_records_are_not_heard_twice() -> None:
    assert Others(BASE).read(cluster(stored("a", *word([container()], [], org="acme")), "a"), never) == ([], [])


def test_a_dead_nodes_containers_are_down_and_come_back_with_it() -> None:
    values, others = stored("b", *word([container()], [], org="acme")), Others(BASE)
    (down,), _ = others.read(cluster(dict(values), "a"), never)
    assert (down.state, down.reason) == (State.DOWN, "its node n-b gives no sign of life")
    (back,), _ = others.read(cluster(dict(values), "a", "b"), never)
    assert back.state is State.UP


def test_what_answers_on_a_silent_node_is_served_on() -> None:
    there = [container(), container(id="c2", address="10.192.64.8"), container(id="c3", state=State.STARTING)]
    others, values = Others(BASE), stored("b", *word(there, [], org="acme"))
    found, _ = others.read(cluster(values, "a"), lambda address, port: (address, port) == ("10.192.64.7", 8080))
    assert {one.id: one.state for one in found} == {"c1": State.UP, "c2": State.DOWN, "c3": State.DOWN}
    assert found[0].reason == "its node n-b gives no sign of life, but it answers"
    assert others.silent == {"b": [("10.192.64.7", 8080), ("10.192.64.8", 8080)]}
    others.read(cluster(values, "a", "b"), never)
    assert not others.silent


def test_what_is_not_a_silent_nodes_own_is_not_even_tried() -> None:
    others, values = Others(BASE), stored("b", *word([container(address="10.192.0.7")], [], org="acme"))
    (found,), _ = others.read(cluster(values, "a"), lambda address, port: True)
    assert found.state is State.DOWN
    assert not others.silent


@pytest.mark.parametrize(
    ("address", "subnet"),
    [
        ("10.192.64.7", "10.192.64.64/26"),
        ("10.192.0.7", "10.192.64.0/26"),
        ("127.0.0.1", "10.192.64.0/26"),
        ("127.0.0.1", "127.0.0.0/8"),
        ("::1", "::/0"),
        ("169.254.169.254", "169.254.0.0/16"),
        ("", "10.192.64.0/26"),
    ],
)
def test_a_node_sends_nobody_to_what_is_not_its_own(address: str, subnet: str) -> None:
    there = cluster(stored("b", *word([container(address=address)], [], org="acme")), "a", "b", subnet=subnet)
    (heard,), _ = Others(BASE).read(there, never)
    assert (heard.state, heard.reason) == (State.DOWN, "its address is in no network of its node")


def test_a_node_sends_nobody_to_containers_of_this_one() -> None:
    there = cluster(stored("b", *word([container()], [], org="acme")), "a", "b")
    mine = records.Network(owner="a", id="n9", environment="mine", subnets=("10.192.64.0/26",))
    there = replace(there, networks={**there.networks, records.key(records.NETWORKS, "a", "n9"): records.encode(mine)})
    (heard,), _ = Others(BASE).read(there, never)
    assert heard.state is State.DOWN


def test_a_network_in_another_nodes_place_is_nobodys() -> None:
    values = stored("b", *word([container()], [], org="acme"))
    there = cluster(values, "a", "b", subnet="10.192.128.0/26")
    network = records.Network(owner="b", id="n2", environment="e", subnets=("10.192.64.0/26",))
    there = replace(there, networks={**there.networks, records.key(records.NETWORKS, "a", "n2"): records.encode(network)})
    (heard,), _ = Others(BASE).read(there, never)
    assert heard.state is State.DOWN


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"labels": {**LABELS, "stackpad.port": "0"}}, "is not a port"),
        ({"labels": {**LABELS, "stackpad.domains": "a.stackpad.test"}}, "lies under stackpad.test"),
        ({"labels": {**LABELS, "stackpad.domains": "{http.request.uri}"}}, "is not a domain name"),
        ({"org": "Org.x"}, "cannot be part of a host name"),
        ({"state": "mad"}, "is not a valid State"),
        ({"state": "refused", "reason": "no such label"}, "no such label"),
    ],
)
def test_what_a_node_says_is_read_as_strictly_as_a_container(changes: dict[str, Any], text: str) -> None:
    (told,) = word([container()], [], org="acme")
    found, problems = Others(BASE).read(cluster(stored("b", msgspec.structs.replace(told, **changes)), "a", "b"), never)
    assert found == []
    assert [problem.name for problem in problems] == ["web-1"]
    assert text in problems[0].text


def test_a_record_in_another_nodes_place_is_nobodys() -> None:
    (told,) = word([container()], [], org="acme")
    values = {records.key(records.WEB, "b", "c1"): records.encode(msgspec.structs.replace(told, owner="a"))}
    assert Others(BASE).read(cluster(values, "a", "b"), never) == ([], [])


def test_problems_are_told_as_well() -> None:
    (told,) = word([], [Problem("c2", "bad", "stackpad.port='x' is not a port")], org="acme")
    assert (told.state, told.reason, told.labels) == ("refused", "stackpad.port='x' is not a port", {})


@pytest.mark.parametrize(
    ("alive", "ingress", "heard"),
    [
        (True, records.Ingress(owner="b", complete=True), {"b"}),
        (False, records.Ingress(owner="b", complete=True), set()),
        (True, records.Ingress(owner="b", complete=False), set()),
        (True, records.Ingress(owner="b", complete=True, stale=True), set()),
        (True, None, set()),
    ],
)
def test_only_a_node_that_lives_and_has_listed_everything_is_heard(
    alive: bool, ingress: records.Ingress | None, heard: set[str]
) -> None:
    values = {} if ingress is None else {records.key(records.INGRESSES, "b"): records.encode(ingress)}
    there = cluster(values, "a", *(["b"] if alive else []))
    assert there.heard([], own=True) == {"", "a"} | heard
    assert there.heard([], own=False) == heard
    assert there.heard(["b", "removed"], own=False) == heard | {"removed"}, "who is no member any more has nothing left"
    assert Seen().heard(["b"], own=True) == {""}, "what is not known is not gone"


def test_a_record_that_no_key_can_have_costs_the_others_nothing() -> None:
    (good,) = word([container()], [], org="acme")
    values = stored("b", good)
    for owner, name in (("", ""), ("b", "x/y"), ("b", "\x1b[2J")):
        values[f"{records.WEB}b/odd-{name!r}"] = records.encode(msgspec.structs.replace(good, owner=owner, id=name))
    found, problems = Others(BASE).read(cluster(values, "a", "b"), never)
    assert [one.id for one in found] == ["c1"]
    assert problems == []
