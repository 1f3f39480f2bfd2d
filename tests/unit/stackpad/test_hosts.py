"""The grammar of host names, case by case."""

from __future__ import annotations

import pytest

from stackpad.errors import InvalidRequest
from stackpad.hosts import above, covered, domain_name, host_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("example.org", "example.org"),
        (" Example.ORG ", "example.org"),
        ("example.org.", "example.org"),
        ("a-b.c--d.example", "a-b.c--d.example"),
        ("1.example", "1.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
        ("a。example", "a.example"),
        (".".join(["a" * 63] * 3 + ["b" * 61]), ".".join(["a" * 63] * 3 + ["b" * 61])),
    ],
)
def test_one_form_for_all_ways_to_write_a_name(text: str, name: str) -> None:
    assert host_name(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "..", "localhost", "example..org", ".example.org", "example.org..", "-a.example", "a-.example",
        "a_b.example", "*.example.org", "*", "a.*.example", "{host}.example", "a}.example", "example.org:443",
        "[::1]", "::1", "fd00::1.example", "http://example.org", "example.org/path", "a b.example", "a\tb.example",
        "a\nb.example", "a\x00.example", "a\u200b\u200b.example\u0000", "user@example.org", "ex%61mple.org",
        "a" * 64 + ".example", ".".join(["a" * 63] * 4), "a.example?" , "xn--.example", "xn--zzzzzzzzz.example",
        "ü" * 300 + ".example", "\ud800.example",
    ],
)  # fmt: skip
def test_what_is_no_name_is_refused_with_its_value(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"is not a domain name|is an address") as caught:
        host_name(text)
    assert ascii(text)[:20] in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["192.0.2.1", "1.2", "127.1", "example.1", "0x7f.1", "1.2.3.4."])
def test_addresses_are_no_names(text: str) -> None:
    with pytest.raises(InvalidRequest, match="is an address"):
        host_name(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("*.example.org", "*.example.org"),
        (" *.Bücher.example. ", "*.xn--bcher-kva.example"),
        ("www.example.org", "www.example.org"),
        ("*." + ".".join(["a" * 63] * 3 + ["b" * 59]), "*." + ".".join(["a" * 63] * 3 + ["b" * 59])),
    ],
)
def test_a_wildcard_is_a_whole_first_label(text: str, name: str) -> None:
    assert domain_name(text) == name == domain_name(name)


@pytest.mark.parametrize(
    "text",
    ["*", "*.", "*.org", "*.*.example.org", "**.example.org", "a*.example.org", "*a.example.org", "a.*.example.org",
     "\uff0a.example.org", "*.192.0.2.1", "*.{env.HOME}.org", "*.." , ". *.example.org",
     "*." + ".".join(["a" * 63] * 3 + ["b" * 60])],
)  # fmt: skip
def test_what_is_no_wildcard_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        domain_name(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("name", "is_covered"),
    [
        ("exact.example", True),
        ("a.wild.example", True),
        ("a.b.wild.example", False),
        ("wild.example", False),
        ("*.wild.example", False),
        (".wild.example", False),
        ("", False),
        ("example", False),
        ("a.exact.example", False),
    ],
)
def test_names_that_a_set_covers(name: str, is_covered: bool) -> None:
    assert covered(name, {"exact.example", "*.wild.example"}) is is_covered


def test_the_wildcard_above_a_name() -> None:
    assert above("a.b.example") == "*.b.example"
    assert above("*.b.example") == "", "one that is a wildcard is below none"
