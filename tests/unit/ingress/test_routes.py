"""From containers to the table of hosts: who is served where, and who is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ingress.owners.deciding import KEPT_NETWORK
from ingress.owners.ledger import Claim, Ledger
from ingress.routes import State, Table, WebContainer
from ingress.tables import table
from stackpad.labels import WebRequest, Wire
from stackpad.routeoptions import NONE, RouteOptions

BASE = "stackpad.test"
HOST = "shop.acme.stackpad.test"


def container(
    name: str,
    *,
    project: str = "shop",
    environment: str = "production",
    service: str = "web",
    path: str = "",
    domains: tuple[str, ...] = (),
    state: State = State.UP,
    address: str | None = "10.0.0.2",
    since: float = 1.0,
    wire: Wire = Wire.HTTP,
    options: RouteOptions = NONE,
) -> WebContainer:
    request = WebRequest("acme", project, environment, service, 80, path, wire, domains, options)
    return WebContainer(name, name, request, address, 80, state, since)


def made(*containers: WebContainer, before: Table | None = None, now: float = 100.0) -> Table:
    """The table, without a thought of proofs; those are in test_ownership."""
    ledger = before.ledger if before else Ledger()
    return table(containers, ledger, base_domain=BASE, now=now, believe=True)


def test_production_and_other_environments_have_their_names() -> None:
    found = made(container("a"), container("b", environment="staging", address="10.0.1.2"))
    assert [(host.host, host.paths[0].upstreams) for host in found.hosts] == [
        ("shop-staging.acme.stackpad.test", ("10.0.1.2:80",)),
        (HOST, ("10.0.0.2:80",)),
    ]


def test_replicas_share_a_host_and_only_those_that_are_up_serve() -> None:
    replicas = [
        container(str(n), address=f"10.0.0.{n}", state=State.UP if n != 3 else State.UNHEALTHY) for n in (4, 2, 3)
    ]
    (host,) = made(*replicas).hosts
    assert host.paths[0].upstreams == ("10.0.0.2:80", "10.0.0.4:80")
    assert host.state is State.UP
    assert host.simple is None


def test_a_host_nobody_is_up_behind_stays_in_the_table() -> None:
    (host,) = made(container("a", state=State.DOWN, address=None)).hosts
    assert (host.state, host.paths[0].upstreams) == (State.DOWN, ())
    assert host.simple is not None


def test_the_first_keeps_a_host_and_the_second_is_told_who_has_it() -> None:
    first = made(container("a", domains=("x.example",)))
    both = made(
        container("thief", project="rival", domains=("x.example",), since=0.0),
        container("a", domains=("x.example",)),
        before=first,
    )
    owners = {host.host: host.owner for host in both.hosts}
    assert owners["x.example"] == "acme/shop/production"
    assert owners["rival.acme.stackpad.test"] == "acme/rival/production"
    (problem,) = both.problems
    assert problem.container == "thief"
    assert "x.example belongs to acme/shop/production" in problem.text
    released = made(container("thief", project="rival", domains=("x.example",)), before=both)
    assert {host.host: host.owner for host in released.hosts}["x.example"] == "acme/rival/production"


def test_of_two_newcomers_the_one_started_earlier_wins_whatever_the_order() -> None:
    early, late = (
        container("e", project="one", domains=("x.example",), since=1),
        container("l", project="two", domains=("x.example",), since=2),
    )
    for order in ([early, late], [late, early]):
        assert made(*order).claims["x.example"].owner == "acme/one/production"


def test_a_stopped_owner_keeps_its_host() -> None:
    first = made(container("a", domains=("x.example",)))
    later = made(
        container("a", domains=("x.example",), state=State.DOWN, address=None),
        container("b", project="rival", domains=("x.example",)),
        before=first,
    )
    assert later.claims["x.example"].owner == "acme/shop/production"
    assert later.claims["x.example"].since == first.claims["x.example"].since


def test_services_of_one_environment_share_a_host_by_path_longest_first() -> None:
    found = made(
        container("web"),
        container("api", service="api", path="/api", address="10.0.0.3"),
        container("v2", service="v2", path="/api/v2", address="10.0.0.4"),
    )
    (host,) = found.hosts
    assert [path.path for path in host.paths] == ["/api/v2", "/api", ""]
    clash = made(container("web"), container("other", service="other", since=2))
    assert "is served by web of the same environment" in clash.problems[0].text


def test_two_projects_whose_names_meet_do_not_share() -> None:
    """`a-b` in production and `a` in `b` have the same host name: the second is told so."""
    found = made(container("x", project="a-b", since=1), container("y", project="a", environment="b", since=2))
    assert [host.owner for host in found.hosts] == ["acme/a-b/production"]
    assert len(found.problems) == 1


def test_grpc_and_ipv6() -> None:
    (host,) = made(container("a", address="fd00::2", wire=Wire.H2C)).hosts
    assert host.paths[0].upstreams == ("[fd00::2]:80",)
    assert host.simple is None


def test_the_table_is_the_same_whatever_the_order_of_containers() -> None:
    some = [container(str(n), project=f"p{n % 3}", address=f"10.0.0.{n + 2}", since=n) for n in range(9)]
    assert made(*some) == made(*reversed(some))


def test_labels_are_the_deployers_word() -> None:
    """Who a container is follows from what it says, not from the network it is on: so with what answers at a path."""
    web = replace(container("web"), network="shop-production")
    login = container("login", service="login", path="/login", address="10.0.9.3", since=3.0)
    found = made(web, replace(login, network="other-production"))
    assert upstreams(found) == {"": ("10.0.0.2:80",), "/login": ("10.0.9.3:80",)}
    assert not found.problems


def upstreams(found: Table) -> dict[str, tuple[str, ...]]:
    """By path, where the visitors of the only host are sent."""
    (host,) = found.hosts
    return {path.path: path.upstreams for path in host.paths}


def on(network: str, number: int, *, joined: str | None = "", node: str = "", **asks: Any) -> WebContainer:
    """A container on a network; ``number`` is when it was made, and its address."""
    made_then = container(f"c{number}", address=f"10.0.0.{number}", since=float(number), **asks)
    return replace(made_then, network=network, joined=joined, node=node)


@pytest.mark.parametrize(
    ("first", "second"),
    [("blog-production", "blog"), ("My-App-Production", "my-app-production"), ("shop-production", "shop-staging")],
)
def test_networks_that_are_kept_apart_do_not_share_visitors(first: str, second: str) -> None:
    """Though project, environment and service of their containers are the same, by names or by labels."""
    own, other = on(first, 1), on(second, 2)
    for order in ([own, other], [other, own]):
        found = made(*order)
        assert upstreams(found) == {"": ("10.0.0.1:80",)}
        (problem,) = found.problems
        assert (problem.name, problem.conflict) == ("c2", True)
        assert problem.text == (
            f"{HOST}/ is served by web on network {first}, and this container is on network {second}, which is kept "
            "apart from it; give one of them another name with the label stackpad.project or stackpad.environment, "
            "or use one network for both"
        )


def test_who_was_first_keeps_a_path_also_when_its_containers_are_made_anew() -> None:
    first = made(on("blog-production", 1), on("blog", 2))
    replaced = made(on("blog-production", 1, state=State.DOWN), on("blog-production", 3), on("blog", 2), before=first)
    after = made(on("blog-production", 3), on("blog", 2), before=replaced)
    assert upstreams(replaced) == upstreams(after) == {"": ("10.0.0.3:80",)}
    assert [problem.name for problem in after.problems] == ["c2"]
    stopped = made(on("blog-production", 3, state=State.DOWN), on("blog", 2), before=after)
    assert upstreams(stopped) == {"": ()}, "a stopped one keeps it, as everywhere"
    gone = made(on("blog", 2), before=stopped)
    assert not gone.hosts
    (problem,) = gone.problems
    assert problem.text == (
        f"{HOST}/ is kept for web on network blog-production, whose containers have gone, for five minutes, and this "
        "container is on network blog, which is kept apart from it; wait, or use one network for both"
    )
    back = made(on("blog", 2), on("blog-production", 4), before=gone, now=101.0)
    assert upstreams(back) == {"": ("10.0.0.4:80",)}
    over = made(on("blog", 2), before=gone, now=100.0 + KEPT_NETWORK)
    assert (upstreams(over), over.problems) == ({"": ("10.0.0.2:80",)}, ())


def test_one_network_is_one_whatever_node_it_is_on_and_however_it_is_called_there() -> None:
    nodes = made(on("shop-production", 1, node="n1"), on("shop-production", 2, node="n2"))
    assert upstreams(nodes) == {"": ("10.0.0.1:80", "10.0.0.2:80")}
    by_option = made(on("shop-production", 1), on("here", 2, joined="shop-production"))
    assert upstreams(by_option) == {"": ("10.0.0.1:80", "10.0.0.2:80")}
    assert not nodes.problems + by_option.problems


@pytest.mark.parametrize("silent_first", [True, False])
def test_who_does_not_say_on_which_network_it_is_is_a_replica(silent_first: bool) -> None:
    """As one of a node that is not upgraded yet; it decides nothing, and keeps what is decided."""
    older = on("here", 1 if silent_first else 3, joined=None)
    found = made(older, on("there", 2, joined="shop"))
    assert set(upstreams(found)[""]) == {older.upstream, "10.0.0.2:80"}
    assert (found.claims[HOST].networks, found.problems) == ({"": "shop"}, ())
    alone = made(older, before=found)
    assert (upstreams(alone), alone.claims[HOST].networks) == ({"": (older.upstream,)}, {"": "shop"})
    twin = made(older, on("other", 4), before=alone)
    assert upstreams(twin) == {"": (older.upstream,)}
    assert [problem.name for problem in twin.problems] == ["c4"]
    (problem,) = made(on("shop", 2), on("here", 3, joined=None, service="app")).problems
    assert problem.text.startswith(f"{HOST}/ is served by web of the same environment")


def test_an_environment_may_be_spread_over_networks_by_paths() -> None:
    web, api = on("front", 1), on("back", 2, service="api", path="/api")
    found = made(web, api, on("back", 3, service="api", path="/api"))
    assert upstreams(found) == {"/api": ("10.0.0.2:80", "10.0.0.3:80"), "": ("10.0.0.1:80",)}
    assert not found.problems


def test_another_service_on_another_network_is_told_all_there_is_to_do() -> None:
    (problem,) = made(on("blog-production", 1), on("blog", 2, service="app")).problems
    assert problem.text.startswith(f"{HOST}/ is served by web on network blog-production, and this container is on ")
    assert problem.text.endswith(", have app at a path of its own with stackpad.path, or use one network for both")


def test_a_ledger_from_before_networks_were_kept_has_the_first_to_come() -> None:
    before = Table(ledger=Ledger({HOST: Claim("acme/shop/production", 1.0, {"": "web"})}))
    found = made(on("blog", 2), on("blog-production", 1), before=before)
    assert upstreams(found) == {"": ("10.0.0.1:80",)}
    assert found.claims[HOST].networks == {"": "blog-production"}


def test_claims_of_nobody_are_dropped() -> None:
    before = Table(ledger=Ledger({"gone.example": Claim("acme/x/production", 1.0, {"": "web"})}))
    assert made(container("a"), before=before).claims.keys() == {HOST}


def owners(found: Table) -> dict[str, str]:
    return {host.host: host.owner.split("/")[1] for host in found.hosts}


def test_a_name_below_somebody_elses_wildcard_is_refused() -> None:
    first = made(container("wide", domains=("*.x.example",)))
    thief = container("t", project="rival", domains=("a.x.example", "x.example", "a.b.x.example"), since=0.0)
    both = made(container("wide", domains=("*.x.example",)), thief, before=first)
    (problem,) = both.problems
    assert (problem.name, "a.x.example lies under *.x.example, which belongs to acme/shop" in problem.text) == ("t", True)
    assert owners(both)["x.example"] == owners(both)["a.b.x.example"] == "rival", "one label deep, and no deeper"
    assert "a.x.example" not in owners(both)
    assert owners(made(thief, before=both))["a.x.example"] == "rival", "free again when the wildcard is"


def test_who_had_a_name_before_somebodys_wildcard_keeps_it() -> None:
    first = made(container("a", domains=("a.x.example",)))
    wide = container("wide", project="rival", domains=("*.x.example",), since=0.0)
    both = made(wide, container("a", domains=("a.x.example",)), before=first)
    assert (owners(both)["a.x.example"], owners(both)["*.x.example"], both.problems) == ("shop", "rival", ())
    other = container("b", service="b", path="/b", domains=("a.x.example",), since=3.0)
    third = made(wide, container("a", domains=("a.x.example",)), other, before=both)
    assert not third.problems, "a further path of a name one has is no new name"
    again = made(wide, container("thief", project="third", domains=("*.x.example",)), before=both)
    assert "*.x.example belongs to acme/rival" in again.problems[0].text


def test_ones_own_names_below_ones_own_wildcard() -> None:
    found = made(container("a", domains=("*.x.example", "a.x.example")), container("b", domains=("b.x.example",)))
    assert set(owners(found).values()) == {"shop"}
    assert not found.problems


@pytest.mark.parametrize("order", [1, -1])
def test_of_a_wildcard_and_a_name_below_it_the_earlier_wins(order: int) -> None:
    early = container("early", project="one", domains=("*.x.example",), since=1.0)
    late = container("late", project="two", domains=("a.x.example",), since=2.0)
    assert [problem.name for problem in made(*[early, late][::order]).problems] == ["late"]


def redirects(found: Table) -> dict[str, str]:
    return {f"{host.host}{path.path}": path.redirect for host in found.hosts for path in host.paths if path.redirect}


def test_all_names_but_the_canonical_one_redirect() -> None:
    options = RouteOptions(canonical="www.x.example")
    found = made(container("a", domains=("x.example", "www.x.example", "*.x.example"), options=options))
    assert redirects(found) == dict.fromkeys((HOST, "x.example", "*.x.example"), "www.x.example")
    assert all(host.simple is not None for host in found.hosts)
    states = {host.host: host.paths[0].answers for host in found.hosts}
    assert (states["x.example"], states["www.x.example"]) == ("redirect", "up")


def test_nobody_is_sent_to_a_name_that_is_somebody_elses() -> None:
    first = made(container("owner", project="rival", domains=("www.x.example",)))
    options = RouteOptions(canonical="www.x.example")
    asking = container("a", domains=("x.example", "www.x.example"), options=options, since=0.0)
    both = made(container("owner", project="rival", domains=("www.x.example",)), asking, before=first)
    assert not redirects(both)
    assert len(both.problems) == 1
    other = container("b", service="b", path="/b", domains=("x.example",), options=options)
    assert not redirects(made(container("a", domains=("www.x.example",)), other)), "nor to one where its path is not"


@pytest.mark.parametrize("first", ["a.example", "b.example"])
def test_two_replicas_that_name_each_others_canonical_name_make_no_loop(first: str) -> None:
    domains = ("a.example", "b.example")
    second = "b.example" if first == "a.example" else "a.example"
    old = container("old", domains=domains, options=RouteOptions(canonical=first), since=1.0)
    new = container("new", domains=domains, options=RouteOptions(canonical=second), since=2.0)
    found = made(new, old)
    assert redirects(found) == {HOST: first, second: first}
    (problem,) = found.problems
    assert (problem.name, "stackpad.canonical" in problem.text) == ("new", True)


@pytest.mark.parametrize("up", [True, False])
def test_the_oldest_that_is_up_decides_and_who_differs_is_told_once(up: bool) -> None:
    secret = RouteOptions(auth=(("bob", "$2y$..."),), body=5)
    found = made(
        container("old", address="10.0.0.2", domains=("x.example",), state=State.UP if up else State.DOWN),
        container("new", address="10.0.0.3", domains=("x.example",), options=secret, since=2.0),
        container("newer", address="10.0.0.4", domains=("x.example",), options=secret, since=3.0),
        container("starting", domains=("x.example",), options=secret, state=State.STARTING, since=4.0),
    )
    expected = ("10.0.0.2:80",) if up else ("10.0.0.3:80", "10.0.0.4:80")
    assert {host.paths[0].upstreams for host in found.hosts} == {expected}
    assert {host.paths[0].options for host in found.hosts} == {NONE if up else secret}
    assert [problem.name for problem in found.problems] == (["new", "newer"] if up else [])
    for problem in found.problems:
        assert "stackpad.auth, stackpad.body than old, the oldest of web that is up" in problem.text
        assert "$2y$" not in problem.text


def test_who_speaks_something_else_than_the_oldest_is_told() -> None:
    found = made(container("old"), container("new", wire=Wire.H2C, since=2.0))
    assert ["stackpad.protocol" in problem.text for problem in found.problems] == [True]


def test_maintenance_is_said_whatever_the_container_does() -> None:
    for state in State:
        (host,) = made(container("a", state=state, options=RouteOptions(maintenance=True))).hosts
        assert (host.paths[0].answers, host.simple is not None) == ("maintenance", True)
        assert "stackpad.maintenance" in str(host.paths[0].reason)
