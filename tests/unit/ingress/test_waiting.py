"""Domains that are not served, in the table: for whom, why not, and what their pointing here is worth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ingress.owners import ledger as book
from ingress.owners.deciding import KEPT, KEPT_PLATFORM, Standing
from ingress.owners.ledger import Claim, How, Ledger, Proof, Ruling
from ingress.routes import State, Table, Waiting, WebContainer
from ingress.tables import table
from tests.clock import HOUR
from tests.unit.ingress.test_routes import BASE, HOST, container

SHOP, RIVAL = "acme/shop/production", "acme/rival/production"
DOMAIN = "www.example.org"
DNS = Proof(5.0, How.DNS)


def made(*containers: WebContainer, ledger: Ledger | None = None, **known: Any) -> Table:
    return table(containers, ledger or Ledger(), base_domain=BASE, now=100.0, **known)


def shop(**asks: Any) -> WebContainer:
    return container("a", **{"domains": (DOMAIN,), **asks})


def rival(**asks: Any) -> WebContainer:
    return container("b", project="rival", since=2.0, **{"domains": (DOMAIN,), **asks})


def test_a_domain_waits_for_its_proof_and_the_containers_other_hosts_do_not() -> None:
    found = made(shop())
    assert [host.host for host in found.hosts] == [HOST]
    assert found.waiting == (Waiting(DOMAIN, SHOP, "web", 100.0, Standing.UNPROVED),)
    assert not found.problems
    assert found.claims[DOMAIN] == Claim(SHOP, 100.0, {"": "web"})
    proved = made(shop(), ledger=book.prove(found.ledger, DOMAIN, SHOP, DNS))
    assert [host.host for host in proved.hosts] == [HOST, DOMAIN]
    assert not proved.waiting
    assert proved.claims[DOMAIN] == Claim(SHOP, 100.0, {"": "web"}, DNS)
    assert made(shop(), ledger=proved.ledger).ledger == proved.ledger


@pytest.mark.parametrize("now", [0.0, 99.0, 1e12])
def test_a_clock_that_jumps_takes_nothing_from_anybody(now: float) -> None:
    """Back to 1970, a little back, far ahead: who has a name keeps it, and who asks for it gets nothing by the date."""
    before = made(shop(), believe=True)
    early = replace(rival(), since=-1e9)
    after = table([early, shop()], before.ledger, base_domain=BASE, now=now, believe=True)
    assert after.claims[DOMAIN] == before.claims[DOMAIN]
    assert {host.host: host.owner for host in after.hosts}[DOMAIN] == SHOP


def test_names_change_hands_though_the_clock_was_set_back() -> None:
    """What the others have of it, or the store, ends nothing that has begun since."""
    ahead, now = 1000.0 + HOUR, 1000.0
    proved = book.prove(table([shop()], Ledger(), base_domain=BASE, now=1.0).ledger, DOMAIN, SHOP, DNS)
    gone = table([], proved, base_domain=BASE, now=ahead - KEPT)
    over = table([], gone.ledger, base_domain=BASE, now=ahead)
    assert DOMAIN not in over.claims
    later = table([rival()], over.ledger, base_domain=BASE, now=now)
    rivals = book.prove(later.ledger, DOMAIN, RIVAL, Proof(now, How.DNS))
    kept = table([rival()], book.merge(rivals, over.ledger), base_domain=BASE, now=now)
    assert {host.host: host.owner for host in kept.hosts}[DOMAIN] == RIVAL


def test_a_name_that_is_not_kept_is_free_at_once_though_the_clock_was_set_back() -> None:
    asked = table([shop()], Ledger(), base_domain=BASE, now=1000.0 + HOUR)
    claim = replace(asked.claims[DOMAIN], nodes=(), paths={}, gone=1000.0 + HOUR)
    after = table([rival()], Ledger({DOMAIN: claim}), base_domain=BASE, now=1000.0)
    assert after.claims[DOMAIN].owner == RIVAL


def test_until_somebody_has_proved_it_everybody_may() -> None:
    both = made(rival(), shop())
    assert [(one.owner, one.rivals, one.dns_only) for one in both.waiting] == [
        (SHOP, (RIVAL,), True),
        (RIVAL, (SHOP,), True),
    ]
    assert not both.problems, "nobody has lost yet"
    after = made(rival(), shop(), ledger=book.prove(both.ledger, DOMAIN, RIVAL, DNS))
    assert {host.host: host.owner for host in after.hosts}[DOMAIN] == RIVAL
    (problem,) = after.problems
    assert (problem.name, problem.conflict) == ("a", True)
    assert f"{DOMAIN} belongs to {RIVAL}" in problem.text
    assert not after.waiting


@pytest.mark.parametrize("host", [HOST, DOMAIN])
def test_who_is_just_going_does_not_undo_a_release(host: str) -> None:
    """A container that was asked to stop lingers for some seconds, and would claim its names again."""
    before = made(shop(), believe=True)
    assert before.claims[host].owner == SHOP
    going = shop(state=State.DOWN)
    assert made(going, ledger=before.ledger, believe=True).claims[host] == before.claims[host], "nobody has released it"
    released = made(going, ledger=book.release(before.ledger, host, 50.0), believe=True)
    assert released.claims.keys() == {HOST, DOMAIN} - {host}, "its other name stays its owner's"
    assert host not in {route.host for route in released.hosts}
    again = made(shop(), ledger=released.ledger, believe=True)
    assert again.claims[host].owner == SHOP, "nobody else has asked meanwhile"
    assert made(going, ledger=again.ledger, believe=True).claims[host] == again.claims[host], "a release counts once"


@pytest.mark.parametrize("by_hand", [True, False])
def test_losers_take_over_only_after_a_release_and_a_proof_of_their_own(by_hand: bool) -> None:
    held = made(shop(), rival(), ledger=Ledger({DOMAIN: Claim(SHOP, 1.0, {"": "web"}, DNS)}))
    assert {host.host: host.owner for host in held.hosts}[DOMAIN] == SHOP
    # The containers are made anew, and somebody who has only waited asks alone for a while.
    gone = made(rival(), ledger=held.ledger)
    assert (gone.claims[DOMAIN].owner, gone.waiting) == (SHOP, ())
    (problem,) = gone.problems
    assert problem.conflict
    assert f"kept for {SHOP}" in problem.text
    assert f"stackpad domain release {DOMAIN}" in problem.text
    back = made(shop(), rival(), ledger=gone.ledger)
    assert {host.host: host.owner for host in back.hosts}[DOMAIN] == SHOP, "with nothing to prove again"
    # It ends when the operator says so, or after a long time.
    ledger = book.release(gone.ledger, DOMAIN, 101.0) if by_hand else gone.ledger
    late = 101.0 if by_hand else 100.0 + KEPT
    over = table([rival()], ledger, base_domain=BASE, now=late)
    assert [(one.owner, one.standing) for one in over.waiting] == [(RIVAL, Standing.UNPROVED)]
    assert over.waiting[0].dns_only, "the domain still points here, for the one who had it"
    assert DOMAIN not in {host.host for host in over.hosts}
    again = table([shop(), rival()], over.ledger, base_domain=BASE, now=late)
    assert again.claims[DOMAIN].proof is None, "a proof ends with its claim"
    assert book.merge(held.ledger, over.ledger).claims[DOMAIN].owner == RIVAL, "an old copy does not undo it"


def test_a_name_that_two_owners_have_is_kept_too() -> None:
    """``shop`` in ``staging`` and ``shop-staging`` in production are called the same."""
    name = "shop-staging.acme.stackpad.test"
    staging = container("a", environment="staging")
    lurker = container("b", project="shop-staging", since=2.0)
    both = made(staging, lurker)
    gone = made(lurker, ledger=both.ledger)
    assert name not in {host.host for host in gone.hosts}
    back = made(staging, lurker, ledger=gone.ledger)
    assert {host.host: host.owner for host in back.hosts}[name] == "acme/shop/staging"
    over = table([lurker], gone.ledger, base_domain=BASE, now=100.0 + KEPT_PLATFORM)
    assert {host.host: host.owner for host in over.hosts}[name] == "acme/shop-staging/production"


def test_a_node_that_is_not_heard_releases_nothing() -> None:
    elsewhere = Claim(SHOP, 1.0, {"": "web"}, DNS, ("n2",))
    held = Ledger({DOMAIN: elsewhere, "old.example": elsewhere})
    found = made(rival(), ledger=held)
    assert found.claims[DOMAIN] == held.claims[DOMAIN]
    assert found.claims["old.example"] == held.claims["old.example"]
    assert DOMAIN not in {host.host for host in found.hosts}
    (problem,) = found.problems
    assert f"{DOMAIN} belongs to {SHOP}" in problem.text
    heard = made(rival(), ledger=held, heard=("", "n2"))
    assert heard.claims["old.example"] == replace(elsewhere, paths={}, nodes=(), gone=100.0)
    assert heard.claims[DOMAIN] == heard.claims["old.example"]


def test_containers_of_several_nodes_hold_a_claim_together() -> None:
    both = made(replace(shop(), node="n1"), replace(shop(), id="c", node="n2"), heard=("", "n1", "n2"))
    assert both.claims[DOMAIN].nodes == ("n1", "n2")
    one = made(replace(shop(), node="n1"), ledger=both.ledger, heard=("", "n1"))
    assert one.claims[DOMAIN].nodes == ("n1", "n2")
    heard = made(replace(shop(), node="n1"), ledger=one.ledger, heard=("", "n1", "n2"))
    assert heard.claims[DOMAIN].nodes == ("n1",)


@pytest.mark.parametrize(
    ("holder", "name", "proof", "strict"),
    [
        (RIVAL, "example.org", DNS, True),
        (RIVAL, "*.example.org", DNS, True),
        (RIVAL, "*.example.org", Proof(1.0, How.OPERATOR), True),
        (SHOP, "example.org", DNS, False),
        (RIVAL, "example.org", None, False),
        (RIVAL, "example.net", DNS, False),
        (RIVAL, "a.www.example.org", DNS, False),
        (RIVAL, "xexample.org", DNS, False),
    ],
)
def test_pointing_here_proves_nothing_below_anothers_domain(
    holder: str, name: str, proof: Proof | None, strict: bool
) -> None:
    """Its wildcard record would have any name below it point here."""
    ledger = Ledger({name: Claim(holder, 1.0, {"": "web"}, proof, ("elsewhere",))})
    (one,) = (one for one in made(shop(), ledger=ledger).waiting if one.host == DOMAIN)
    assert one.dns_only is strict


@pytest.mark.parametrize(
    ("name", "strict"),
    [
        ("test.example", True),
        ("example", True),
        ("node-1.test.example", True),
        ("node-1.example.net", True),
        ("ingress.example.net", True),
        ("www.ingress.example.net", False),
        ("xtest.example", False),
        ("www.test.example", False),
    ],
)
def test_pointing_here_does_not_prove_what_is_the_operators(name: str, strict: bool) -> None:
    """What the platform's names are below, and what the nodes themselves are called."""
    asking = container("a", domains=(name,))
    nodes = {"node-1", "ingress.example.net"}
    found = table([asking], Ledger(), base_domain="apps.test.example", now=1.0, nodes=nodes)
    assert [(one.host, one.dns_only) for one in found.waiting] == [(name, strict)]


def test_wildcards_are_proved_by_dns_only() -> None:
    (one,) = made(shop(domains=("*.example.org",))).waiting
    assert (one.host, one.dns_only) == ("*.example.org", True)


def test_the_operators_word() -> None:
    forbidden = made(shop(), rival(), ledger=Ledger(rulings={DOMAIN: Ruling(False, "", 1.0)}))
    assert {one.standing for one in forbidden.waiting} == {Standing.FORBIDDEN}
    kept = made(shop(), ledger=Ledger(rulings={DOMAIN: Ruling(True, RIVAL, 1.0)}))
    assert [(one.standing, one.kept_for) for one in kept.waiting] == [(Standing.FORBIDDEN, RIVAL)]
    came = made(shop(), rival(), ledger=kept.ledger)
    assert {host.host: host.owner for host in came.hosts}[DOMAIN] == RIVAL


def test_a_service_that_finds_its_path_taken_is_a_conflict_too() -> None:
    found = made(container("web"), container("other", service="other", since=2))
    assert [(problem.name, problem.conflict) for problem in found.problems] == [("other", True)]


def test_the_table_is_the_same_whatever_the_order_of_containers() -> None:
    some = [shop(), rival(), container("c", project="third", domains=(DOMAIN, "c.example.org"), since=3.0)]
    assert made(*some) == made(*reversed(some))
