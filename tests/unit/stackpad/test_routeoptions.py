"""What a label of a route's may say, and what it may not: a table of each."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stackpad import routeoptions
from stackpad.errors import InvalidRequest
from stackpad.routeoptions import NONE, RouteOptions, read

HASH = "$2y$10$SoJTa4Lz0GwpSqELQ5eloehpopfXMweXDoHarvkSsTGGEeuWBW2Zy"
OTHER = "$2b$04$ekq4YyCSNQvhXlC66UeCD.m0v2NoNXC9WfG8gkjskhpiw7rfIt4EO"


@pytest.mark.parametrize(
    ("label", "text", "value"),
    [
        ("canonical", "WWW.Example.org.", "www.example.org"),
        ("sticky", "true", True),
        ("sticky", "false", False),
        ("maintenance", "true", True),
        ("auth", f"bob:{HASH}", (("bob", HASH),)),
        ("auth", f" bob:{HASH},\n al@x.org:{OTHER} ", (("al@x.org", OTHER), ("bob", HASH))),
        ("allow", "192.0.2.7", ("192.0.2.7/32",)),
        ("allow", "2001:DB8::/32,192.0.2.0/24 192.0.2.0/255.255.255.0", ("192.0.2.0/24", "2001:db8::/32")),
        ("allow", "::ffff:192.0.2.1", ("192.0.2.1/32",)),
        ("allow", "::ffff:192.0.2.0/120", ("192.0.2.0/24",)),
        ("allow", "0.0.0.0/0 ::/0", ("0.0.0.0/0", "::/0")),
        ("headers", "X-Frame-Options: DENY", (("X-Frame-Options", "DENY"),)),
        ("headers", "X-B:2|X-A : a: b ;\r\n\n", (("X-A", "a: b ;"), ("X-B", "2"))),
        ("headers", "Content-Security-Policy: default-src 'self'; x \"y\" $1 \\ ~", None),
        ("body", "1", 1),
        ("body", "10MB", 10_000_000),
        ("body", "512k", 524_288),
        ("body", "512 KiB", 524_288),
        ("body", "2g", 2 * 1024**3),
        ("body", "5b", 5),
        ("body", "1024GiB", 2**40),
    ],
)
def test_what_a_label_means(label: str, text: str, value: Any) -> None:
    found = getattr(read({f"stackpad.{label}": text}), label)
    assert found == value if value is not None else found


@pytest.mark.parametrize(
    ("label", "text", "words"),
    [
        ("canonical", "", "is not a domain name"),
        ("canonical", "*.example.org", "is not a domain name"),
        ("canonical", "{http.request.host}", "is not a domain name"),
        ("canonical", "https://example.org", "is not a domain name"),
        ("canonical", "example.org/path", "is not a domain name"),
        ("sticky", "", "neither true nor false"),
        ("sticky", "True", "neither true nor false"),
        ("maintenance", "yes", "neither true nor false"),
        ("strip", "1", "neither true nor false"),
        ("strip", "true", "stackpad.path=/api"),
        ("auth", "", "stackpad.auth is empty"),
        ("auth", " , ", "stackpad.auth is empty"),
        ("auth", "bob", "entry 1 is not user:hash"),
        ("auth", f"bob:{HASH} {HASH}", "entry 2 is not user:hash"),
        ("auth", f":{HASH}", "entry 1 is not user:hash"),
        ("auth", f"b{{x}}:{HASH}", "entry 1 is not user:hash"),
        ("auth", f"böb:{HASH}", "entry 1 is not user:hash"),
        ("auth", f"{'b' * 65}:{HASH}", "entry 1 is not user:hash"),
        ("auth", "bob:hunter2", "what follows user bob is not a bcrypt hash"),
        ("auth", "bob:$apr1$x$hunter2", "write each $ twice in a Compose file"),
        ("auth", f"bob:{HASH}x", "not a bcrypt hash"),
        ("auth", f"bob:{HASH[:-1]}{{", "not a bcrypt hash"),
        ("auth", f"bob:{HASH[:-1]}\u0661", "not a bcrypt hash"),
        ("auth", f"bob:{HASH.replace('$10$', '$11$')}", "has cost 11"),
        ("auth", f"bob:{HASH.replace('$10$', '$31$')}", "use 4 to 10"),
        ("auth", f"bob:{HASH.replace('$10$', '$03$')}", "use 4 to 10"),
        ("auth", f"bob:{HASH} bob:{OTHER}", "names user bob twice"),
        ("auth", " ".join(f"u{n}:{HASH}" for n in range(51)), "at most 50"),
        ("allow", "", "stackpad.allow is empty"),
        ("allow", "localhost", "no address or range"),
        ("allow", "10.0.0.1/8", "write 10.0.0.0/8 for all of it"),
        ("allow", "2001:db8::1/32", "write 2001:db8::/32 for all of it"),
        ("allow", "10.0.0.0/33", "no address or range"),
        ("allow", "010.0.0.1", "no address or range"),
        ("allow", "192.0.2.1-192.0.2.9", "no address or range"),
        ("allow", "fe80::1%eth0", "no address or range"),
        ("allow", "fe80::1%{env.HOME}", "no address or range"),
        ("allow", "fe80::%{env.HOME}/64", "no address or range"),
        ("allow", "{env.HOME}", "no address or range"),
        ("allow", "\u0661\u0662.0.0.1", "no address or range"),
        ("allow", " ".join(f"10.0.{n}.0" for n in range(201)), "at most 200"),
        ("headers", "", "stackpad.headers is empty"),
        ("headers", "|\n|", "stackpad.headers is empty"),
        ("headers", "X-Frame-Options", "not a header such as"),
        ("headers", "X Frame: y", "not a header such as"),
        ("headers", ":status: 200", "not a header such as"),
        ("headers", "X-{env.HOME}: y", "not a header such as"),
        ("headers", "X-A: ", "not one to 2048 printable"),
        ("headers", "X-A: {env.HOME}", "without braces"),
        ("headers", "X-A: }", "without braces"),
        ("headers", "X-A: a\rX-B: b", "printable"),
        ("headers", "X-A: a\x00", "printable"),
        ("headers", "X-A: é", "printable"),
        ("headers", f"X-A: {'a' * 2049}", "printable"),
        ("headers", "X-A: 1|x-a: 2", "names x-a twice"),
        ("headers", "|".join(f"X-{n}: 1" for n in range(21)), "at most 20"),
        ("headers", "Content-Length: 0", "the proxy's own to set"),
        ("headers", "transfer-encoding: chunked", "the proxy's own to set"),
        ("headers", "Connection: close", "the proxy's own to set"),
        ("headers", "Upgrade: h2c", "the proxy's own to set"),
        ("headers", "Sec-WebSocket-Accept: x", "the proxy's own to set"),
        ("headers", "Set-Cookie: a=b", "set it in the service"),
        ("body", "", "not a size such as"),
        ("body", "0", "not a size such as"),
        ("body", "10 apples", "not a size such as"),
        ("body", "-1", "not a size such as"),
        ("body", "1.5MB", "not a size such as"),
        ("body", "1TB", "not a size such as"),
        ("body", "1025g", "not a size such as"),
        ("body", "9" * 13 + "g", "not a size such as"),
        ("body", "1\u212a", "not a size such as"),
        ("body", "\u0661", "not a size such as"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_told(label: str, text: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(words)) as caught:
        read({f"stackpad.{label}": text})
    assert f"stackpad.{label}" in str(caught.value) or label == "canonical"
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("text", ["hunter2", "bob:hunter2", "bob hunter2", "bob:$2y$10$hunter2", "{x}:hunter2"])
def test_what_may_be_a_password_is_not_repeated(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read({routeoptions.AUTH: text})
    assert "hunter2" not in str(caught.value)
    assert "htpasswd" in str(caught.value)


@pytest.mark.parametrize("label", routeoptions.KNOWN)
def test_no_label_is_longer_than_can_be_read(label: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{label} has 16385 characters"):
        read({label: " " * 16385})


def test_no_label_is_no_option() -> None:
    assert read({"stackpad.path": "/api", "other": "x"}) == NONE == RouteOptions()
    assert read({"stackpad.path": "/api", "stackpad.strip": "true"}).strip


def test_differences_are_named_by_label_and_secrets_are_not_shown() -> None:
    one = read({"stackpad.auth": f"bob:{HASH}", "stackpad.body": "1k"})
    two = read({"stackpad.auth": f"bob:{OTHER}", "stackpad.body": "1024", "stackpad.sticky": "true"})
    assert one.differences(two) == ("stackpad.auth", "stackpad.sticky")
    assert one.labels == ("stackpad.auth", "stackpad.body")
    assert HASH not in repr(one)


PIECES = st.sampled_from(
    [
        "{",
        "}",
        "{env.HOME}",
        "\n",
        "|",
        ":",
        "X-A",
        "$2y$10$",
        HASH,
        "bob:",
        ",",
        " ",
        "10.0.0.0/8",
        "::1",
        "\x00",
        "é",
        "1k",
    ]
)


@given(st.dictionaries(st.sampled_from(routeoptions.KNOWN), st.one_of(st.text(), st.lists(PIECES).map("".join))))
@example({routeoptions.HEADERS: "X-A: a\x85b"})
def test_whatever_passes_is_plain(labels: dict[str, str]) -> None:
    try:
        found = read(labels)
    except InvalidRequest:
        return
    texts = [found.canonical, *found.allow, *(text for pair in (*found.auth, *found.headers) for text in pair)]
    for text in texts:
        assert text.isascii()
        assert text.isprintable()
        assert not {"{", "}"} & set(text)
