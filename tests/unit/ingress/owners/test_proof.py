"""Tokens, and what a person is told to do with them."""

from __future__ import annotations

import pytest

from ingress.owners import proof
from ingress.owners.ledger import How
from stackpad.errors import InvalidRequest

SECRET, OTHER = b"s" * 32, b"o" * 32
A, B = "acme/a/production", "acme/b/production"
DOMAIN = "www.example.org"
NONCE = "0123456789abcdef" * 2


def test_a_token_is_one_owners_for_one_domain() -> None:
    token = proof.token(SECRET, A, DOMAIN)
    others = [(OTHER, A, DOMAIN), (SECRET, B, DOMAIN), (SECRET, A, "example.org"), (SECRET, f"{A}www", ".example.org")]
    assert token not in {proof.token(*other) for other in others}
    assert token == proof.token(SECRET, A, DOMAIN)
    assert len(token) == 40


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("stackpad-verify={}", True),
        (" stackpad-verify={} ", True),
        ("stackpad-verify={}x", False),
        ("stackpad-verify=", False),
        ("{}", False),
        ("v=spf1 stackpad-verify={}", False),
        ("\u2603", False),
        ("", False),
    ],
)
def test_a_record_says_it_and_nothing_else(text: str, good: bool) -> None:
    token = proof.token(SECRET, A, DOMAIN)
    assert proof.proves(["v=spf1 -all", text.format(token)], token) is good
    assert not proof.proves([text.format(proof.token(SECRET, B, DOMAIN))], token)


def test_an_answer_is_for_one_number_and_one_domain() -> None:
    answer = proof.answer(SECRET, NONCE, DOMAIN)
    others = [(OTHER, NONCE, DOMAIN), (SECRET, "1" * 32, DOMAIN), (SECRET, NONCE, "example.org")]
    assert answer not in {proof.answer(*other) for other in others}
    assert answer is not None
    assert len(answer) == 64


@pytest.mark.parametrize("nonce", ["", "0", "g" * 32, "0" * 33, "A" * 32, "../x", f"{NONCE}\n"])
def test_what_is_no_number_of_ours_is_not_answered(nonce: str) -> None:
    assert proof.answer(SECRET, nonce, DOMAIN) is None


def test_a_token_is_never_an_answer() -> None:
    """Who can have numbers answered must not come by what another owner has to put into DNS."""
    assert proof.answer(SECRET, NONCE, DOMAIN) != proof.token(SECRET, NONCE, DOMAIN)
    assert not str(proof.answer(SECRET, NONCE, DOMAIN)).startswith(proof.token(SECRET, NONCE, DOMAIN))


def test_wildcards_are_proved_at_the_name_they_are_below() -> None:
    assert proof.record_name("*.example.org") == proof.record_name("example.org") == "_stackpad.example.org"
    assert proof.token(SECRET, A, "*.example.org") != proof.token(SECRET, A, "example.org")


@pytest.mark.parametrize(
    ("methods", "dns_only", "told", "not_told"),
    [
        (proof.METHODS, False, ["TXT", "point www.example.org to", "domain allow"], []),
        (proof.METHODS, True, ["TXT", "domain allow"], ["point"]),
        ([How.DNS], False, ["TXT", "domain allow"], ["point"]),
        ([How.HTTP], False, ["point www.example.org to", "domain allow"], ["TXT"]),
        ([How.HTTP], True, ["have the operator say stackpad domain allow www.example.org"], ["TXT", "point"]),
    ],
)
def test_what_is_to_be_done(methods: list[How], dns_only: bool, told: list[str], not_told: list[str]) -> None:
    text = proof.remedy(DOMAIN, "abc", methods, dns_only=dns_only)
    assert all(words in text for words in told)
    assert not any(words in text for words in not_told)
    if "TXT" in told:
        assert 'create the DNS record _stackpad.www.example.org. TXT "stackpad-verify=abc"' in text


@pytest.mark.parametrize(
    ("text", "name"),
    [("WWW.Example.org.", "www.example.org"), ("*.Example.org", "*.example.org"), (" a.b ", "a.b")],
)
def test_domains_as_operators_write_them(text: str, name: str) -> None:
    assert proof.domain_name(text) == name


@pytest.mark.parametrize("text", ["", "*", "*.", "*.org", "a.*.b", "**.a.b", "{x}.y", "10.0.0.1", "a/b.c"])
def test_what_is_no_domain(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"not a domain name"):
        proof.domain_name(text)
