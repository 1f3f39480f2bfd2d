"""From containers to the table of hosts: who is served where, and who is not."""

from __future__ import annotations

from ingress.ledger import Claim, Ledger
from ingress.routes import State, Table, WebContainer, table
from stackpad.labels import WebRequest, Wire

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
) -> WebContainer:
    request = WebRequest("acme", project, environment, service, 80, path, wire, domains)
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


def test_claims_of_nobody_are_dropped() -> None:
    before = Table(ledger=Ledger({"gone.example": Claim("acme/x/production", 1.0, {"": "web"})}))
    assert made(container("a"), before=before).claims.keys() == {HOST}
