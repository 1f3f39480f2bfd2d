"""What a container may say, and what it may not; nothing hostile gets through."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ingress.caddy import config
from ingress.owners.ledger import Ledger
from ingress.routes import State, WebContainer
from ingress.tables import table
from stackpad import labels
from stackpad.errors import ENOUGH, LONG, InvalidRequest
from stackpad.hosts import host_name
from stackpad.labels import Kind, WebRequest, Wire, web

BASE = "stackpad.test"
PLAIN = re.compile(r"[a-z0-9.-]+")


def read(given: dict[str, str], *, name: str = "web", network: str = "my-app-production") -> WebRequest:
    return web({"stackpad.type": "web", **given}, name=name, network=network, org="acme", base_domain=BASE)


@pytest.mark.parametrize(
    ("network", "host"),
    [
        ("my-app-production", "my-app.acme.stackpad.test"),
        ("my-app-staging", "my-app-staging.acme.stackpad.test"),
        ("blog", "blog.acme.stackpad.test"),
        ("My-App-Production", "my-app.acme.stackpad.test"),
    ],
)
def test_names_follow_from_the_network(network: str, host: str) -> None:
    assert read({}, network=network).platform_host(BASE) == host


def test_labels_come_before_the_network() -> None:
    request = read(
        {
            "stackpad.project": "Shop",
            "stackpad.org": "globex",
            "stackpad.environment": "preview-7",
            "stackpad.port": "8080",
            "stackpad.path": "/api/",
            "stackpad.protocol": "h2c",
            "stackpad.domains": "WWW.Example.org., bücher.example  www.example.org",
        }
    )
    assert request.platform_host(BASE) == "shop-preview-7.globex.stackpad.test"
    assert (request.port, request.path, request.wire) == (8080, "/api", Wire.H2C)
    assert request.domains == ("www.example.org", "xn--bcher-kva.example")


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(InvalidRequest) as caught:
        read({"stackpad.port": "99", "stackpad.path": "a b", "stackpad.domain": "x.example", "stackpad.sticky": "maybe"})
    said = str(caught.value).split("; also: ")
    parts = ("did you mean stackpad.domains?", "is not a path such as /api", "stackpad.sticky='maybe' is neither true")
    assert len(said) == len(parts)
    assert all(words in one for one, words in zip(said, parts, strict=True)), said


def test_what_is_wrong_is_told_up_to_an_end() -> None:
    for label, most in (("port", ENOUGH), ("q" * 40, 2)):
        with pytest.raises(InvalidRequest) as caught:
            read({f"stackpad.{label}{number}": "" for number in range(2000)})
        assert str(caught.value).count("; also: ") == most - 1
        assert len(str(caught.value)) < 3 * LONG


@pytest.mark.parametrize(
    ("given", "name", "service"),
    [
        ({"com.docker.compose.service": "api"}, "shop-api-1", "api"),
        ({}, "web-2", "web"),
        ({}, "web_12", "web"),
        ({}, "web", "web"),
        ({}, "7", "7"),
    ],
)
def test_replicas_are_known_by_their_service(given: dict[str, str], name: str, service: str) -> None:
    assert read(given, name=name).service == service


@pytest.mark.parametrize(
    ("label", "value", "words"),
    [
        ("stackpad.port", "0", "not a port"),
        ("stackpad.port", "٣", "not a port"),
        ("stackpad.port", "80/tcp", "not a port"),
        ("stackpad.project", "a.b", "part of a host name"),
        ("stackpad.project", "My_App", "not at its ends, such as stackpad.project=my-app"),
        ("stackpad.project", "-a", "part of a host name"),
        ("stackpad.org", "a" * 64, "part of a host name"),
        ("stackpad.protocol", "ftp", "use http or h2c"),
        ("stackpad.path", "api", "not a path"),
        ("stackpad.path", "/a/../b", "not a path"),
        ("stackpad.path", "/{http.request.host}", "not a path"),
        ("stackpad.domains", "*.*.example.org", "the whole first label"),
        ("stackpad.domains", "a.*.example.org", "the whole first label"),
        ("stackpad.domains", "*a.example.org", "the whole first label"),
        ("stackpad.domains", "*.org", "not a domain name"),
        ("stackpad.domains", "*", "the whole first label"),
        ("stackpad.domains", "*.acme.stackpad.test", "lies under stackpad.test"),
        ("stackpad.domains", "*.stackpad.test", "lies under stackpad.test"),
        ("stackpad.domains", "example.org:80", "not a domain name"),
        ("stackpad.domains", "localhost", "not a domain name"),
        ("stackpad.domains", "192.0.2.1", "an address"),
        ("stackpad.domains", "{env.HOME}.example.org", "not a domain name"),
        ("stackpad.domains", "x.acme.stackpad.test", "lies under stackpad.test"),
        ("stackpad.domains", "stackpad.test", "lies under stackpad.test"),
        ("stackpad.domains", " ".join(f"d{n}.example" for n in range(51)), "at most 50"),
        ("stackpad.project", "\u212aiosk", "part of a host name"),
        ("stackpad.domain", "x.example", "did you mean stackpad.domains"),
        ("stackpad.zzz", "x", "unknown label"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_value(label: str, value: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(words)):
        read({label: value})


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("shop_production", "'shop_production' for stackpad.project"),
        ("-production", "'' for stackpad.project"),
        ("shop.eu-production", "'shop.eu' for stackpad.project"),
        ("shop-my.stage", "'my.stage' for stackpad.environment"),
        ("a" * 64, "for stackpad.project"),
    ],
)
def test_a_network_whose_name_gives_no_host_is_told_what_to_do(network: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=r"the network's name .* set the label") as caught:
        read({}, network=network)
    assert words in str(caught.value)
    assert read({"stackpad.project": "shop", "stackpad.environment": "x"}, network=network).project == "shop"


@pytest.mark.parametrize("label", labels.ONLY_WEB)
def test_a_web_service_that_does_not_say_that_it_is_one_is_told(label: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(f"{label} is set, but not stackpad.type")):
        labels.check({label: "80"})
    assert labels.check({label: "80", "stackpad.type": "database"}) is Kind.DATABASE


def test_labels_of_others_are_none_of_our_business() -> None:
    assert labels.check({"traefik.enable": "true", "stackpadding": "1"}) is Kind.GENERIC
    assert not labels.concerns({"traefik.enable": "true", "stackpadding": "1"})
    assert labels.concerns({"stackpad.tpye": "web"})
    with pytest.raises(InvalidRequest, match=r"did you mean stackpad\.type"):
        labels.check({"stackpad.tpye": "web"})


def test_ones_own_platform_name_is_no_foreign_domain() -> None:
    assert read({"stackpad.domains": "my-app.acme.stackpad.test"}).domains == ("my-app.acme.stackpad.test",)


def test_a_wildcard_of_ones_own() -> None:
    assert read({"stackpad.domains": "*.Example.org, example.org"}).domains == ("*.example.org", "example.org")
    given = {"stackpad.type": "web", "stackpad.domains": "*.example.org"}
    with pytest.raises(InvalidRequest, match=r"would stand for apps\.example\.org too"):
        web(given, name="web", network="shop", org="acme", base_domain="apps.example.org")


@pytest.mark.parametrize("name", ["my-app.acme.stackpad.test", "www.example.org"])
def test_the_canonical_name_is_one_of_the_containers_own(name: str) -> None:
    domains = {"stackpad.domains": "www.example.org *.example.org"}
    assert read({**domains, "stackpad.canonical": name}).options.canonical == name
    for other in ("example.org", "a.example.org", "other.acme.stackpad.test"):
        with pytest.raises(InvalidRequest, match=r"none of the container's own names; add it to stackpad\.domains"):
            read({**domains, "stackpad.canonical": other})


def test_an_option_that_cannot_be_meant_costs_the_whole_route() -> None:
    with pytest.raises(InvalidRequest, match=r"stackpad\.auth is empty"):
        read({"stackpad.auth": ""})


def test_a_project_and_environment_too_long_for_one_label_are_refused() -> None:
    with pytest.raises(InvalidRequest):
        read({"stackpad.project": "a" * 40, "stackpad.environment": "b" * 40}).platform_host(BASE)


@pytest.mark.parametrize("kind", list(Kind))
def test_kinds(kind: Kind) -> None:
    assert labels.kind({"stackpad.type": kind}) is kind
    assert labels.kind({}) is Kind.GENERIC
    with pytest.raises(InvalidRequest, match="is unknown"):
        labels.kind({"stackpad.type": f"{kind} "})


@given(st.text())
@example("a" * 300)
@example("x..y")
@example("\x00.example")
@example("xn--\udcff.example")
def test_a_host_name_that_passes_is_plain(text: str) -> None:
    try:
        found = host_name(text)
    except InvalidRequest:
        return
    assert PLAIN.fullmatch(found)
    assert len(found) <= 253
    assert host_name(found) == found


GOOD = {
    "stackpad.type": ["web"],
    "stackpad.port": ["80"],
    "stackpad.path": ["", "/x", "/a.b/~c"],
    "stackpad.protocol": ["h2c", "http"],
    "stackpad.domains": ["a.example *.example.org", "*.example.org"],
    "stackpad.canonical": ["a.example"],
    "stackpad.strip": ["true", "false"],
    "stackpad.auth": ["bob:$2b$04$ekq4YyCSNQvhXlC66UeCD.m0v2NoNXC9WfG8gkjskhpiw7rfIt4EO"],
    "stackpad.allow": ["10.0.0.0/8 ::1"],
    "stackpad.headers": ["X-A: b|X-C: $1 \"'<>\\\\", "X-A: http.request.host"],
    "stackpad.body": ["10MB"],
    "stackpad.sticky": ["true"],
    "stackpad.maintenance": ["true", "false"],
}
BAD = ["{http.request.uri}", "{env.HOME}", '"}]', "\n", "X-A: {env.HOME}", "fe80::1%{env.HOME}", "*.{env.HOME}.org", "}{"]
HOSTILE = st.fixed_dictionaries(
    {},
    optional={
        label: st.one_of(
            *(st.sampled_from(GOOD[label]) for _ in range(8) if label in GOOD), st.sampled_from(BAD), st.text()
        )
        for label in (*labels.KNOWN, labels.COMPOSE_SERVICE, "stackpad.x", "other")
    },
)

OURS = re.compile(
    r"\{(http\.request\.(host|port|uri)|http\.vars\.sp_(below|(wild_)?(up|number))|http\.error\.(status_code|message)"
    r"|sp_parent|sp_(wild_)?(up|number|state|to))\}"
)
"""Every placeholder that we use."""


def texts(node: object) -> Iterator[str]:
    """All keys and texts in a configuration."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield key
            yield from texts(value)
    elif isinstance(node, list):
        for one in node:
            yield from texts(one)
    elif isinstance(node, str):
        yield node


def braces(node: object) -> bool:
    """Whether a configuration has braces that are neither a placeholder of ours nor in a regular expression of ours."""
    patterns = {match["pattern"] for match in _patterns(node)}
    return any({"{", "}"} & set(OURS.sub("", text)) for text in texts(node) if text not in patterns)


def _patterns(node: object) -> Iterator[dict[str, str]]:
    if isinstance(node, dict):
        if "header_regexp" in node:
            yield from node["header_regexp"].values()
        for value in node.values():
            yield from _patterns(value)
    elif isinstance(node, list):
        for one in node:
            yield from _patterns(one)


@given(HOSTILE, HOSTILE, st.text(), st.one_of(st.text(), st.just("my-app-production")))
@example({label: texts[0] for label, texts in GOOD.items()}, {}, "web", "my-app-production")
@example(
    {label: texts[-1] for label, texts in GOOD.items() if label != "stackpad.canonical"},
    {label: texts[0] for label, texts in GOOD.items()},
    "web",
    "my-app-production",
)
def test_nothing_hostile_reaches_caddy(one: dict[str, str], two: dict[str, str], name: str, network: str) -> None:
    containers = []
    for number, given_labels in enumerate((one, two)):
        try:
            request = web(given_labels, name=name, network=network, org="acme", base_domain=BASE)
            hosts = (request.platform_host(BASE), *request.domains)
        except InvalidRequest:
            continue
        assert all(PLAIN.fullmatch(host.removeprefix("*.")) for host in hosts)
        address = f"10.0.0.{number + 2}"
        containers.append(WebContainer(f"id{number}", name, request, address, request.port or 80, State.UP, 1.0))
    owned = config.route(table(containers, Ledger(), base_domain=BASE, now=1.0, believe=True), keep_streams=False)
    assert not braces(owned)
    assert "host" not in texts(owned), "Caddy would manage a certificate for each host in a matcher"


def test_braces_are_found_where_they_are() -> None:
    assert not braces({"a": "{sp_up}", "header_regexp": {"X": {"pattern": "[0-9]{3}"}}, "b": "[0-9]{3}"})
    for bad in ({"a": "{env.HOME}"}, {"{x}": 1}, {"a": ["}"]}, {"a": "{sp_up"}):
        assert braces(bad)
