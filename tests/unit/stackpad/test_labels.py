"""What a container may say, and what it may not; nothing hostile gets through."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ingress import caddyconfig
from ingress.ledger import Ledger
from ingress.routes import State, WebContainer, table
from stackpad import labels
from stackpad.errors import InvalidRequest
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
        ("stackpad.project", "-a", "part of a host name"),
        ("stackpad.org", "a" * 64, "part of a host name"),
        ("stackpad.protocol", "ftp", "use http or h2c"),
        ("stackpad.path", "api", "not a path"),
        ("stackpad.path", "/a/../b", "not a path"),
        ("stackpad.path", "/{http.request.host}", "not a path"),
        ("stackpad.domains", "*.example.org", "not a domain name"),
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


HOSTILE = st.dictionaries(
    st.sampled_from([*labels.KNOWN, labels.COMPOSE_SERVICE, "stackpad.x", "other"]),
    st.one_of(st.text(), st.sampled_from(["{http.request.uri}", '"}]', "a.example", "/x", "80", "h2c", "acme", "\n"])),
)


@given(HOSTILE, st.text(), st.text())
def test_nothing_hostile_reaches_caddy(given_labels: dict[str, str], name: str, network: str) -> None:
    try:
        request = web(given_labels, name=name, network=network, org="acme", base_domain=BASE)
        host = request.platform_host(BASE)
    except InvalidRequest:
        return
    for text in (host, *request.domains):
        assert PLAIN.fullmatch(text)
    one = WebContainer("id", name, request, "10.0.0.2", request.port or 80, State.UP, 1.0)
    owned = caddyconfig.route(table([one], Ledger(), base_domain=BASE, now=1.0, believe=True), keep_streams=False)
    plain = caddyconfig.route(table([], Ledger(), base_domain=BASE, now=1.0), keep_streams=False)
    braces = json.dumps(owned).replace("{http.request.host}", "").count("{http") - json.dumps(plain).count("{http.error")
    assert braces <= 0 or "{http" not in "".join(given_labels.values())
