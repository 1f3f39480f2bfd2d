"""What a node where no visitors come in tells of its own containers: what the control node has decided, and no more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from ingress.following.remote import Seen
from ingress.owners import ledger as book
from ingress.owners.deciding import Standing
from ingress.owners.ledger import How, Ledger, Proof
from ingress.routes import Table, WebContainer
from ingress.verdicts import reason, refused
from stackpad import records
from tests.unit.ingress.owners.test_shared import written
from tests.unit.ingress.test_routes import BASE, container
from tests.unit.ingress.test_waiting import DOMAIN, RIVAL, SHOP, made, rival, shop

NODES = {"c": records.Node(owner="c", name="control-1", public_keys=())}


def seen(ledger: Ledger, proofs: bool | None = True, **changes: bool) -> Seen:
    """What a worker is shown when the control node holds ``ledger``."""
    there = {"control": True, **changes}
    ingresses = {"c": records.Ingress(owner="c", proofs=proofs, **there), "w": records.Ingress(owner="w", proofs=True)}
    return Seen("w", False, True, NODES, frozenset("cw"), ingresses, hosts=written(ledger, {}))


def told(there: Seen, *own: WebContainer) -> Table:
    return refused(own, there, base_domain=BASE, now=100.0)


def texts(found: Table) -> dict[str, str]:
    return {problem.name: problem.text for problem in found.problems}


OTHERS = [
    container("other", project="other", domains=("shop.example",)),
    container("wild", project="wild", domains=("*.shop.example",)),
    container("api", service="api", path="/api", since=3.0),
    container("twin", service="twin", since=4.0),
    container("under", project="under", domains=("x.shop.example",), since=5.0),
]


@pytest.mark.parametrize("believe", [True, False])
@pytest.mark.parametrize("own", [("rival",), ("a",), ("twin",), ("under",), ("rival", "a", "twin", "under", "api")])
def test_it_comes_to_what_the_control_node_has_decided(own: tuple[str, ...], believe: bool) -> None:
    everybody = (shop(), rival(), *OTHERS)
    decided = made(*everybody, believe=believe)
    found = told(seen(decided.ledger, not believe), *(one for one in everybody if one.name in own))
    here = {one.name: one for one in everybody if one.name in own}
    assert {(p.name, p.text) for p in found.problems} == {
        (p.name, f"{p.text} (as control-1 says)") for p in decided.problems if p.name in here
    }
    asked = {(one.owner, domain) for one in here.values() for domain in one.request.domains}
    assert {(w.host, w.owner, w.standing) for w in found.waiting} == {
        (w.host, w.owner, w.standing) for w in decided.waiting if (w.owner, w.host) in asked
    }
    assert found.hosts == ()


def proved(*there: WebContainer, owner: str = SHOP) -> Ledger:
    return book.prove(made(*there).ledger, DOMAIN, owner, Proof(5.0, How.DNS))


def test_who_comes_second_is_told_whose_the_domain_is_and_who_says_so() -> None:
    found = told(seen(proved(shop(), rival())), rival())
    text = f"{DOMAIN} belongs to {SHOP}; ask for another name, or remove that one first (as control-1 says)"
    assert texts(found) == {"b": text}
    assert not told(seen(proved(shop(), rival())), shop()).problems


def test_who_is_on_another_network_than_the_one_that_is_served_is_told() -> None:
    first = replace(container("a"), network="blog-production")
    ledger = made(first, believe=True).ledger
    second = replace(container("b", since=2.0), network="blog")
    assert "is served by web on network blog-production" in texts(told(seen(ledger), second))["b"]
    assert not told(seen(ledger), replace(second, network="blog-production")).problems


@pytest.mark.parametrize("names", [(), ("nobody.example",)])
def test_of_what_nobody_has_decided_nothing_is_said(names: Iterable[str]) -> None:
    ledger = Ledger(claims={name: book.Claim(SHOP, 1.0) for name in names})
    found = told(seen(ledger), shop(), rival())
    assert (found.problems, found.waiting) == ((), ())


@pytest.mark.parametrize(("proofs", "changes"), [(None, {}), (True, {"control": False})])
def test_of_proofs_nothing_is_said_while_no_control_node_says_whether_it_wants_any(
    proofs: bool | None, changes: dict[str, bool]
) -> None:
    unproved = seen(made(shop(), rival()).ledger, proofs, **changes)
    assert (told(unproved, rival()).problems, told(unproved, rival()).waiting) == ((), ())
    assert told(seen(proved(shop(), rival()), proofs, **changes), rival()).problems


def test_a_claim_ends_by_the_control_nodes_word_alone() -> None:
    """Its owner's containers are not here, which is no sign that they are gone."""
    found = told(seen(made(container("x"), believe=True).ledger), replace(container("y"), request=OTHERS[0].request))
    assert not found.problems
    held = made(ledger=proved(shop()))
    assert held.claims[DOMAIN].gone is not None
    assert f"{DOMAIN} is kept for {SHOP}, whose containers have gone" in texts(told(seen(held.ledger), rival()))["b"]


def test_a_domain_that_waits_says_why_and_where_more_is_known() -> None:
    ledger = made(shop(), rival()).ledger
    for rulings, standing, words in (
        (ledger, Standing.UNPROVED, "not proved, as control-1 says; see stackpad domain ls there"),
        (book.forbid(ledger, DOMAIN, 9.0), Standing.FORBIDDEN, "it is forbidden, as control-1 says"),
        (book.allow(ledger, DOMAIN, "a/b/c", 9.0), Standing.FORBIDDEN, "it is kept for a/b/c, as control-1 says"),
    ):
        there = seen(rulings)
        (waiting,) = told(there, rival()).waiting
        assert (waiting.host, waiting.owner, waiting.standing) == (DOMAIN, RIVAL, standing)
        assert reason(waiting, there).startswith(words)
