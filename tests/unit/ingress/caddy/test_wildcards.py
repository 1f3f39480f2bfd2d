"""Wildcards by DNS: for whom, what Caddy is told word for word, and what is told where it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingress.caddy import config, survey
from ingress.caddy import wildcards as module
from ingress.caddy.adminapi import AdminApi
from ingress.caddy.wildcards import Wildcards
from ingress.routes import HostRoute, Table, WebContainer
from tests.unit.ingress.test_routes import container, made

BASE = "stackpad.test"
PROVIDER = {"name": "cloudflare", "api_token": "sesame-open", "zone": {"id": "zone-17"}}
ISSUER = config.authority(email="me@a.example", ca="https://ca.example/dir", ca_root="/r", dns=PROVIDER)


def of(org: str, one: WebContainer) -> WebContainer:
    return replace(one, request=replace(one.request, org=org))


TABLE = made(
    container("a", domains=("www.example.org",)),
    container("b", project="blog"),
    of("zed", container("c", project="other")),
)


def wildcards() -> Wildcards:
    return Wildcards(AdminApi(Path("/nowhere")), ISSUER)


def test_each_organisation_has_one() -> None:
    assert module.organisations(TABLE, BASE) == ["*.acme.stackpad.test", "*.zed.stackpad.test"]
    assert wildcards().wanted(TABLE, BASE, {"*.zed.stackpad.test"}) == ["*.acme.stackpad.test"]
    assert Wildcards(AdminApi(Path("/nowhere")), None).wanted(TABLE, BASE, ()) == []


def test_those_who_came_first_have_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ORGANISATIONS", 2)
    first: HostRoute = TABLE.hosts[0]
    hosts = [replace(first, host=f"x.{org}.{BASE}", since=since) for org, since in (("b", 2.0), ("c", 1.0), ("a", 3.0))]
    table = Table((*hosts, replace(hosts[2], host=f"y.c.{BASE}", since=9.0)))
    assert module.organisations(table, BASE) == [f"*.b.{BASE}", f"*.c.{BASE}"]


def test_what_caddy_is_told() -> None:
    assert wildcards()._policy(["*.acme.stackpad.test"]) == {
        "@id": "stackpad-dns",
        "subjects": ["*.acme.stackpad.test"],
        "issuers": [
            {
                "module": "acme",
                "email": "me@a.example",
                "ca": "https://ca.example/dir",
                "trusted_roots_pem_files": ["/r"],
                "challenges": {"dns": {"provider": PROVIDER}},
            }
        ],
    }


POLICY = wildcards()._policy(["*.acme.stackpad.test"])
OURS = {"@id": "stackpad-tls", "subjects": ["*.*.stackpad.test"]}
OPERATORS: dict[str, Any] = {"subjects": ["own.example"]}


@pytest.mark.parametrize(
    ("policies", "automate", "subjects", "fits"),
    [
        ([], [], [], True),
        ([OPERATORS, POLICY, OURS], ["own.example", "*.acme.stackpad.test"], ["*.acme.stackpad.test"], True),
        ([POLICY, OURS], [], ["*.acme.stackpad.test"], False),
        ([OURS, POLICY], ["*.acme.stackpad.test"], ["*.acme.stackpad.test"], False),
        ([{}, POLICY, OURS], ["*.acme.stackpad.test"], ["*.acme.stackpad.test"], False),
        ([{**POLICY, "issuers": []}, OURS], ["*.acme.stackpad.test"], ["*.acme.stackpad.test"], False),
        ([POLICY, OURS], ["*.acme.stackpad.test"], [], False),
        ([OURS], ["*.acme.stackpad.test"], [], True),
    ],
)
def test_whether_caddy_has_it(policies: list[Any], automate: list[str], subjects: list[str], fits: bool) -> None:
    tls = {"automation": {"policies": policies}, "certificates": {"automate": automate}}
    assert wildcards().fits(tls, subjects) is fits
    assert wildcards().fits(None, []) is True


def test_a_policy_of_ours_is_not_taken_for_the_operators() -> None:
    tree = {"apps": {"tls": {"automation": {"policies": [POLICY, OURS, OPERATORS]}}}}
    assert survey.taken(tree) == {"own.example"}


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (
            "loading module 'cloudflare': unknown module: dns.providers.cloudflare",
            "this Caddy has no module for cloudflare",
        ),
        ("API token 'sesame-open' of zone-17 appears invalid", "API token '…' of … appears invalid"),
    ],
)
def test_a_refusal_is_told_without_the_secret(reason: str, words: str) -> None:
    told = wildcards()._words(f"loading new config: {reason}")
    assert words in told
    assert "sesame" not in told
