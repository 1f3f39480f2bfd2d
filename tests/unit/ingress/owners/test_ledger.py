"""The ledger as a value: two of them become one, proofs and the operator's word change it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.owners import ledger as book
from ingress.owners.ledger import Claim, How, Ledger, Proof, Released, Ruling, merge
from stackpad.errors import Conflict, InvalidRequest, NotFound
from tests.clock import HOUR

A, B = "acme/a/production", "acme/b/production"
HOST = "www.example.org"
DNS, HTTP = Proof(50.0, How.DNS), Proof(60.0, How.HTTP)


def of(claim: Claim | None = None, ruling: Ruling | None = None, released: Released | None = None) -> Ledger:
    """A ledger about one host."""
    return Ledger({HOST: claim} if claim else {}, {HOST: ruling} if ruling else {}, {HOST: released} if released else {})


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        # The older claim wins, whoever's it is.
        (of(Claim(A, 1.0)), of(Claim(B, 2.0)), of(Claim(A, 1.0))),
        (of(Claim(A, 1.0, proof=HTTP)), of(Claim(B, 2.0, proof=DNS)), of(Claim(A, 1.0, proof=HTTP))),
        # Who has only asked first does not win over who has proved it.
        (of(Claim(A, 1.0)), of(Claim(B, 2.0, proof=DNS)), of(Claim(B, 2.0, proof=DNS))),
        # One owner's: the older one's services, all nodes, and the proof is kept.
        (
            of(Claim(A, 2.0, {"": "new", "/api": "api"}, DNS, ("n2",))),
            of(Claim(A, 1.0, {"": "web"}, None, ("", "n1"))),
            of(Claim(A, 1.0, {"": "web", "/api": "api"}, DNS, ("", "n1", "n2"))),
        ),
        (of(Claim(A, 1.0, proof=HTTP)), of(Claim(A, 1.0, proof=DNS)), of(Claim(A, 1.0, proof=DNS))),
        # With a service goes its network; that of another service at the same path is not the one that stays.
        (
            of(Claim(A, 1.0, {"": "web", "/api": "api"}, networks={"": "front"})),
            of(Claim(A, 2.0, {"": "new", "/api": "api"}, networks={"": "other", "/api": "back"})),
            of(Claim(A, 1.0, {"": "web", "/api": "api"}, networks={"": "front", "/api": "back"})),
        ),
        # Since when a path's network has nobody there goes with that network.
        (
            of(Claim(A, 1.0, {"": "web", "/api": "api"}, networks={"": "front", "/api": "back"}, left={"": 3.0})),
            of(
                Claim(
                    A,
                    2.0,
                    {"": "web", "/api": "api"},
                    networks={"": "other", "/api": "back"},
                    left={"": 9.0, "/api": 4.0},
                )
            ),
            of(
                Claim(
                    A,
                    1.0,
                    {"": "web", "/api": "api"},
                    networks={"": "front", "/api": "back"},
                    left={"": 3.0, "/api": 4.0},
                )
            ),
        ),
        # What was released does not come back from a copy, and what came after it stays.
        (of(Claim(A, 1.0, proof=DNS)), of(released=Released(A, 3.0)), of(released=Released(A, 3.0))),
        (
            of(Claim(A, 1.0, proof=DNS)),
            of(Claim(B, 3.0), released=Released(A, 3.0)),
            of(Claim(B, 3.0), released=Released(A, 3.0)),
        ),
        (of(Claim(A, 4.0)), of(released=Released(A, 3.0)), of(Claim(A, 4.0), released=Released(A, 3.0))),
        # The operator's later word stands, unless the name was released after it.
        (of(ruling=Ruling(True, A, 1.0)), of(ruling=Ruling(False, "", 2.0)), of(ruling=Ruling(False, "", 2.0))),
        (of(ruling=Ruling(True, A, 2.0)), of(ruling=Ruling(False, "", 2.0)), of(ruling=Ruling(True, A, 2.0))),
        (
            of(ruling=Ruling(True, A, 1.0)),
            of(released=Released(A, 2.0, by_hand=True)),
            of(released=Released(A, 2.0, by_hand=True)),
        ),
        # Who was allowed a name and has been away for long is allowed it still.
        (
            of(ruling=Ruling(True, A, 1.0)),
            of(released=Released(A, 2.0)),
            of(ruling=Ruling(True, A, 1.0), released=Released(A, 2.0)),
        ),
        (
            of(Claim(A, 9.0), Ruling(True, A, 1.0)),
            of(Claim(B, 2.0, proof=DNS)),
            of(Claim(A, 9.0), Ruling(True, A, 1.0)),
        ),
    ],
)
def test_two_ledgers_become_one(one: Ledger, other: Ledger, expected: Ledger) -> None:
    if one.rulings and other.rulings and one.rulings[HOST].at == other.rulings[HOST].at:
        # In the same moment: what is forbidden stays forbidden.
        expected = of(ruling=next(r for side in (one, other) if not (r := side.rulings[HOST]).allowed))
    assert merge(one, other) == expected
    assert merge(other, one) == expected


TIMES = st.integers(0, 4).map(float)
OWNERS = st.sampled_from([A, B])
CLAIMS = st.builds(
    Claim,
    OWNERS,
    TIMES,
    st.dictionaries(st.sampled_from(["", "/a"]), st.sampled_from(["web", "api"]), max_size=2),
    st.none() | st.builds(Proof, TIMES, st.sampled_from(How)),
    st.sets(st.sampled_from(["", "n1"])).map(lambda nodes: tuple(sorted(nodes))),
    st.none() | TIMES,
    st.dictionaries(st.sampled_from(["", "/a"]), st.sampled_from(["n", "m"]), max_size=2),
    st.dictionaries(st.sampled_from(["", "/a"]), TIMES, max_size=2),
)
HOSTS = st.sampled_from(["a.example", "b.example"])
LEDGERS = st.builds(
    Ledger,
    st.dictionaries(HOSTS, CLAIMS),
    st.dictionaries(HOSTS, st.builds(Ruling, st.booleans(), OWNERS, TIMES)),
    st.dictionaries(HOSTS, st.builds(Released, OWNERS, TIMES, st.booleans())),
)


@given(LEDGERS, LEDGERS)
def test_it_does_not_matter_which_is_named_first(one: Ledger, other: Ledger) -> None:
    both = merge(one, other)
    assert both == merge(other, one)
    assert merge(both, both) == both
    for host, claim in both.claims.items():
        assert any(side.claims.get(host, claim).owner == claim.owner for side in (one, other))


def test_a_proof_makes_the_claim_and_the_second_is_too_late() -> None:
    asked_first = of(Claim(A, 1.0, {"": "web"}))
    proved = book.prove(asked_first, HOST, B, DNS)
    assert proved.claims[HOST] == Claim(B, 50.0, {}, DNS, ())
    assert book.prove(proved, HOST, A, HTTP) is proved
    assert book.prove(asked_first, HOST, A, DNS).claims[HOST] == Claim(A, 1.0, {"": "web"}, DNS)
    assert book.prove(of(ruling=Ruling(False, "", 1.0)), HOST, A, DNS).claims == {}
    assert book.prove(of(ruling=Ruling(True, B, 1.0)), HOST, A, DNS).claims == {}
    assert book.prove(of(ruling=Ruling(True, A, 1.0)), HOST, A, DNS).claims[HOST].proof == DNS


def test_the_operators_word() -> None:
    start = of(Claim(A, 1.0, {"": "web"}))
    allowed = book.allow(start, HOST, A, 9.0)
    assert allowed.claims[HOST] == Claim(A, 1.0, {"": "web"}, Proof(9.0, How.OPERATOR))
    assert allowed.rulings[HOST] == Ruling(True, A, 9.0)
    with pytest.raises(Conflict, match=f"belongs to {A} \\(operator\\); end that first with stackpad domain release"):
        book.allow(allowed, HOST, B, 10.0)
    forbidden = book.forbid(allowed, HOST, 11.0)
    assert forbidden.claims[HOST].proof is None
    assert forbidden.rulings[HOST] == Ruling(False, "", 11.0)
    assert book.allow(forbidden, HOST, B, 12.0).rulings[HOST] == Ruling(True, B, 12.0)
    released = book.release(forbidden, HOST, 13.0)
    assert released == of(released=Released(A, 13.0, by_hand=True))
    with pytest.raises(NotFound, match="is claimed by nobody; stackpad domain ls"):
        book.release(released, HOST, 14.0)
    assert book.release(of(ruling=Ruling(True, B, 1.0)), HOST, 2.0) == of(released=Released(B, 2.0, by_hand=True))


def test_the_operators_later_word_stands_though_the_clock_was_set_back() -> None:
    """What another node has, or the store, is the ledger as it was before the last word."""
    ahead, now = 1000.0 + HOUR, 1000.0
    start = of(Claim(A, ahead, {"": "web"}))
    allowed = book.allow(start, HOST, A, ahead)
    forbidden = book.forbid(allowed, HOST, now)
    assert not merge(forbidden, allowed).rulings[HOST].allowed
    again = book.allow(forbidden, HOST, B, now)
    assert merge(again, forbidden).rulings[HOST].owner == B
    released = book.release(again, HOST, now)
    assert merge(released, again) == released
    assert released.released[HOST].voids(start.claims[HOST])
    once_more = book.allow(released, HOST, A, now)
    assert merge(once_more, released).rulings[HOST].owner == A


@pytest.mark.parametrize("owner", [A, B])
def test_a_proof_of_after_a_release_is_not_lost_though_the_clock_was_set_back(owner: str) -> None:
    ended = book.release(of(Claim(A, 1.0)), HOST, 1000.0 + HOUR)
    proved = book.prove(ended, HOST, owner, Proof(1000.0, How.DNS))
    for other in (ended, proved):
        assert merge(proved, other).claims[HOST].proof == Proof(1000.0, How.DNS)


def test_marks_of_what_was_released_are_kept_for_a_while_and_not_without_end() -> None:
    few = {"a.example": Released(A, 100.0), "b.example": Released(A, 100.0 + book.REMEMBERED)}
    assert book.remembered(few, 100.0) is few
    assert book.remembered(few, 101.0 + book.REMEMBERED).keys() == {"b.example"}
    many = {f"h{n:05}.example": Released(A, float(n)) for n in range(book.MOST_REMEMBERED + 5)}
    assert book.remembered(many, 0.0).keys() == set(list(many)[5:])


def test_names_that_nobody_asks_for_are_not_kept_without_end() -> None:
    platform = Proof(1.0, How.PLATFORM)
    claims = {
        "asked.example": Claim(A, 1.0, {"": "web"}, platform),
        "old.example": Claim(A, 1.0, {}, DNS, (), 5.0),
        "new.example": Claim(A, 1.0, {}, DNS, (), 6.0),
        "platform.example": Claim(A, 1.0, {}, platform, (), 7.0),
    }
    assert book.kept(claims, 3) is claims
    assert book.kept(claims, 2).keys() == {"asked.example", "old.example", "new.example"}
    assert book.kept(claims, 1).keys() == {"asked.example", "new.example"}


def test_marks_end_claims_of_before_only() -> None:
    mark = Released(A, 5.0)
    assert mark.voids(Claim(B, 4.0))
    assert mark.voids(Claim(A, 5.0))
    assert not mark.voids(Claim(B, 5.0))
    assert not mark.voids(replace(Claim(A, 5.0), since=5.1))


@pytest.mark.parametrize("text", ["acme/my-app/production", " ACME/My-App/production"])
def test_an_owner_is_three_words(text: str) -> None:
    assert book.owner(text) == "acme/my-app/production"


@pytest.mark.parametrize("text", ["", "acme", "acme/my-app", "a/b/c/d", "a//c", "a/{b}/c", "a/b/-c", "a/b/c\n d"])
def test_what_is_no_owner(text: str) -> None:
    with pytest.raises(InvalidRequest, match="write organisation, project and environment"):
        book.owner(text)
