"""What a name means, for whom; and the table of names from the cluster's records."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.resolver import table
from plugin.resolver.table import Own
from plugin.resolver.zone import Environment, Found, Replica, Unknown, View, look_back, look_up
from plugin.store.mesh import View as ClusterView
from stackpad import records

ME, OTHER, DEAD = "node-a", "node-b", "node-c"


def replica(container: str, *addresses: str, ports: tuple[tuple[int, str], ...] = (), local: bool = False) -> Replica:
    return Replica(container, tuple(map(ipaddress.ip_address, addresses)), ports, local)


DB = replica("db-1", "10.1.0.2", "fd00::2", ports=((5432, "tcp"), (53, "udp")))
WEB = replica("web-1", "10.1.0.3")
WEB_HERE = replica("web-2", "10.2.0.3", local=True)
SHOP = Environment(
    "Shop-Production",
    {"db": (DB,), "db-1": (DB,), "web": (WEB, WEB_HERE), "a.dotted_name": (WEB,)},
    frozenset({"worker"}),
    {DB.addresses[0]: "db-1", DB.addresses[1]: "db-1"},
)
BLOG = Environment("dev", {"db": (WEB,), "cms": (WEB,)})


@pytest.mark.parametrize(
    ("name", "means"),
    [
        ("db", (DB,)),
        ("db.shop-production", (DB,)),
        ("web", (WEB_HERE,)),  # local replicas, if there are any
        ("a.dotted_name", (WEB,)),
        ("a.dotted_name.shop-production", (WEB,)),
        ("_postgres._tcp.db", (DB,)),
        ("_5432._tcp.db.shop-production", (DB,)),
        ("cms.dev", (WEB,)),
        ("worker", Unknown.GONE),  # its node is not alive
        ("worker.shop-production", Unknown.GONE),
        ("nobody.shop-production", Unknown.GONE),
        ("nobody", Unknown.FORWARD),
        ("nobody.dev", Unknown.FORWARD),  # could be on the internet
        ("shop-production", Unknown.FORWARD),
        ("db.other-production", Unknown.FORWARD),
        ("db.shop-production.example.org", Unknown.FORWARD),
        ("example.org", Unknown.FORWARD),
        ("", Unknown.FORWARD),
    ],
)
def test_meaning(name: str, means: tuple[Replica, ...] | Unknown) -> None:
    found = look_up(name, (SHOP, BLOG))
    assert (found.replicas if isinstance(found, Found) else found) == means


def test_a_container_in_two_environments_finds_the_first_and_the_named() -> None:
    first, named = look_up("db", (SHOP, BLOG)), look_up("db.dev", (SHOP, BLOG))
    assert isinstance(first, Found)
    assert isinstance(named, Found)
    assert (first.environment, named.environment) == (SHOP, BLOG)


@pytest.mark.parametrize("name", ["db", "db.shop-production", "worker", "nobody", "nobody.shop-production"])
def test_strangers_and_others_know_nothing(name: str) -> None:
    assert look_up(name, ()) is Unknown.FORWARD
    assert look_up(name.replace("db", "web"), (Environment("blog-test"),)) is Unknown.FORWARD


@pytest.mark.parametrize(
    ("name", "ports"),
    [
        ("db", {5432, 53}),
        ("_anything._tcp.db", {5432}),
        ("_5432._tcp.db", {5432}),
        ("_5432._udp.db", set()),
        ("_dns._udp.db", {53}),
        ("_1._tcp.db", set()),
    ],
)
def test_services(name: str, ports: set[int]) -> None:
    found = look_up(name, (SHOP,))
    assert isinstance(found, Found)
    assert {port for _, port in found.services()} == ports


def test_nothing_leaves_internal_environments() -> None:
    closed = Environment("closed-test", internal=True)
    assert look_up("example.org", (closed,)) is Unknown.GONE
    assert look_up("example.org", (closed, SHOP)) is Unknown.FORWARD
    assert look_back(ipaddress.ip_address("192.0.2.1"), (closed,)) is Unknown.GONE


def test_addresses_back_to_names() -> None:
    assert look_back(DB.addresses[1], (BLOG, SHOP)) == "db-1.Shop-Production"
    assert look_back(DB.addresses[1], (BLOG,)) is Unknown.FORWARD


def endpoint(
    number: int, environment: str, owner: str, *names: str, container: str = "", ports: tuple[str, ...] = ()
) -> records.Endpoint:
    return records.Endpoint(
        owner=owner,
        id=f"e{number}",
        network="n",
        environment=environment,
        names=names or (f"c{number}",),
        addresses=(f"10.9.{number // 250}.{number % 250}", f"fd00::{number + 1:x}"),
        ports=ports,
        container=container or f"c{number}",
    )


def cluster(*endpoints: records.Endpoint, alive: tuple[str, ...] = (OTHER,)) -> ClusterView:
    return ClusterView(endpoints={there.id: there for there in endpoints}, alive=frozenset(alive))


def own(number: int, environment: str, *, container: str = "", internal: bool = False) -> Own:
    return Own(container or f"c{number}", environment, (f"10.9.{number // 250}.{number % 250}",), internal)


def test_only_environments_with_a_container_here() -> None:
    made = table.view(cluster(endpoint(1, "shop", ME), endpoint(2, "blog", OTHER)), ME, [own(1, "shop")])
    assert set(made.environments) == {"shop"}
    assert made.clients == {"10.9.0.1": ("shop",)}


def test_the_dead_are_hidden_and_this_node_never_is() -> None:
    there = cluster(endpoint(1, "shop", ME, "web"), endpoint(2, "shop", DEAD, "web", "db"))
    shop = table.view(there, ME, [own(1, "shop")]).environments["shop"]
    assert set(shop.names) == {"web"}
    assert shop.hidden == {"db"}
    assert set(shop.reverse) == set(map(ipaddress.ip_address, ("10.9.0.1", "fd00::2")))


def test_a_container_of_two_networks_is_in_both_environments() -> None:
    made = table.view(cluster(), ME, [own(1, "shop", container="x"), own(2, "blog", container="x")])
    assert made.clients == {"10.9.0.1": ("shop", "blog"), "10.9.0.2": ("shop", "blog")}
    assert [environment.name for environment in made.of("10.9.0.2")] == ["shop", "blog"]
    assert made.of("10.9.0.3") == ()


def test_an_environment_is_internal_if_all_its_networks_are() -> None:
    made = table.view(cluster(), ME, [own(1, "a", internal=True), own(2, "b", internal=True), own(3, "b")])
    assert (made.environments["a"].internal, made.environments["b"].internal) == (True, False)


@pytest.mark.parametrize(
    ("text", "port"),
    [("5432/tcp", (5432, "tcp")), ("53/udp", (53, "udp"))]
    + [(bad, None) for bad in ("0/tcp", "65536/tcp", "x/tcp", "80", "80/sctp", "²/tcp", f"{'9' * 5000}/tcp", "/tcp", "")],
)
def test_declared_ports(text: str, port: tuple[int, str] | None) -> None:
    shop = table.view(cluster(endpoint(1, "shop", ME, "web", ports=(text,))), ME, [own(1, "shop")]).environments["shop"]
    assert shop.names["web"][0].ports == ((port,) if port else ())


def test_a_container_whose_name_is_none_in_dns_goes_by_another() -> None:
    there = cluster(endpoint(1, "shop", ME, "web", container="a..b"))
    shop = table.view(there, ME, [own(1, "shop")]).environments["shop"]
    assert shop.reverse[ipaddress.ip_address("10.9.0.1")] == "web"


def test_what_is_not_touched_is_taken_over() -> None:
    before = table.view(cluster(endpoint(1, "a", ME), endpoint(2, "b", ME)), ME, [own(1, "a"), own(2, "b")])
    now = cluster(endpoint(1, "a", ME, "new"), endpoint(2, "b", ME))
    after = table.view(now, ME, [own(1, "a"), own(2, "b")], before, {"a"})
    assert set(after.environments["a"].names) == {"new"}
    assert after.environments["b"] is before.environments["b"]
    closed = table.view(now, ME, [own(2, "b", internal=True)], after)
    assert set(closed.environments) == {"b"}
    assert closed.environments["b"].internal


NAMES = st.sampled_from(["web", "db", "web.blog", "a.b"])
ENVIRONMENTS = st.sampled_from(["shop", "blog", "dev-1"])
NODES = st.sampled_from([ME, OTHER, DEAD])
ENDPOINTS = st.lists(st.tuples(ENVIRONMENTS, NODES, NAMES, NAMES), max_size=8)
ALIVE = st.sets(NODES)


def _records(drawn: list[tuple[str, str, str, str]], alive: set[str]) -> ClusterView:
    there = [endpoint(number, environment, node, *names) for number, (environment, node, *names) in enumerate(drawn)]
    return cluster(*there, alive=tuple(alive))


def _own(drawn: list[tuple[str, str, str, str]]) -> list[Own]:
    return [own(number, environment) for number, (environment, node, *_) in enumerate(drawn) if node == ME]


def _plain(view: View) -> object:
    return view.clients, {
        name: (there.names, there.hidden, there.reverse, there.internal) for name, there in view.environments.items()
    }


@given(ENDPOINTS, ALIVE, ENDPOINTS, ALIVE)
def test_step_by_step_is_the_same_as_anew(
    first: list[tuple[str, str, str, str]], alive: set[str], second: list[tuple[str, str, str, str]], later: set[str]
) -> None:
    before, now = _records(first, alive), _records(second, later)
    changed = {there.environment for view in (before, now) for there in view.endpoints.values()}
    changed -= {
        name
        for name in set(changed)
        if [e for e in before.endpoints.values() if e.environment == name]
        == [e for e in now.endpoints.values() if e.environment == name]
    }
    changed |= table.of_nodes(now, before.alive ^ now.alive)
    stepwise = table.view(now, ME, _own(second), table.view(before, ME, _own(first)), changed)
    assert _plain(stepwise) == _plain(table.view(now, ME, _own(second)))


@given(ENDPOINTS, ALIVE, NAMES, st.sampled_from(["", ".shop", ".blog", ".dev-1"]))
def test_nobody_is_told_of_another_environment(
    drawn: list[tuple[str, str, str, str]], alive: set[str], name: str, suffix: str
) -> None:
    there = _records(drawn, alive)
    view = table.view(there, ME, _own(drawn))
    of_address = {address: e.environment for e in there.endpoints.values() for address in e.addresses}
    for client, environments in view.clients.items():
        found = look_up(name + suffix, view.of(client))
        if isinstance(found, Found):
            told = {of_address[str(ip)] for version in (4, 6) for ip in found.addresses(version)}
            assert told <= set(environments)
            assert told
        for address, environment in of_address.items():
            back = look_back(ipaddress.ip_address(address), view.of(client))
            assert isinstance(back, Unknown) or environment in environments
