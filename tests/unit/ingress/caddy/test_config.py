"""What Caddy is told, and where it is put in a configuration that may have things of its own."""

from __future__ import annotations

import json

import pytest

from ingress.caddy import config, passing, survey
from ingress.caddy.pages import page
from ingress.routes import State, Table
from tests.unit.ingress.test_routes import container, made


def test_a_plain_host_is_a_line_of_the_table_and_in_no_host_matcher() -> None:
    owned = config.route(made(container("a")), keep_streams=False)
    text = json.dumps(owned)
    assert '{"input": "shop.acme.stackpad.test", "outputs": ["10.0.0.2:80"]}' in text
    assert '"host"' not in text, "Caddy would manage a certificate for each host in a matcher"


def test_replicas_have_a_route_of_their_own_and_none_is_lost_for_what_a_visitor_did() -> None:
    owned = config.route(made(container("a"), container("b", address="10.0.0.3")), keep_streams=True)
    special = owned["handle"][-1]["routes"][0]["handle"][0]["routes"]
    (tried,) = special[0]["handle"]
    first, again = tried["routes"][0]["handle"][0], tried["errors"]["routes"][0]["handle"][0]
    for proxy in (first, again):
        assert [upstream["dial"] for upstream in proxy["upstreams"]] == ["10.0.0.2:80", "10.0.0.3:80"]
        assert not {"try_duration", "try_interval"} & proxy["load_balancing"].keys(), "a pause a change would end"
        assert proxy["stream_close_delay"] == passing.DRAIN
    assert ("health_checks" in first, "retries" in first["load_balancing"]) == (True, False)
    assert ("health_checks" in again, again["load_balancing"]["retries"]) == (False, 5)


def test_no_passive_health_checks_where_all_hosts_share_an_upstream() -> None:
    owned = config.route(made(container("a")), keep_streams=False)
    shared = owned["handle"][-1]["routes"][-1]["handle"][0]
    assert shared["upstreams"] == [{"dial": "{sp_up}"}]
    assert "health_checks" not in shared


@pytest.mark.parametrize(("count", "kept"), [(config.FEW, False), (config.FEW + 1, True)])
def test_among_many_hosts_a_visits_is_looked_for_once(count: int, kept: bool) -> None:
    """Each look walks the list; among a few that costs less than a variable for each visit."""
    owned = config.route(made(*(container(f"c{n}", project=f"p{n}") for n in range(count))), keep_streams=False)
    nobody, served = owned["handle"][-1]["routes"]
    where = "http.vars.sp_up" if kept else "sp_up"
    assert served["handle"][0]["upstreams"] == [{"dial": f"{{{where}}}"}]
    assert nobody["match"] == [{"vars": {"sp_up" if kept else "{sp_up}": [""]}}]
    assert ({"handler": "vars", "sp_up": "{sp_up}"} in owned["handle"]) is kept


@pytest.mark.parametrize("hosts", [made(), made(container("a", state=State.DOWN, address=None))], ids=["none", "down"])
def test_what_caddy_is_asked_to_know_is_always_there(hosts: Table) -> None:
    """Or it would be thought to know it, and every host be refused later."""
    assert "stream_close_delay" in json.dumps(config.route(hosts, keep_streams=True))


def test_the_generation_follows_from_the_content() -> None:
    one, same, other = (
        config.generation(config.route(made(container("a", address=address)), keep_streams=False))
        for address in ("10.0.0.2", "10.0.0.2", "10.0.0.3")
    )
    assert one == same != other


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({}, ("apps", {"http": {"servers": {"x": 1}}})),
        ({"apps": {}}, ("apps/http", {"servers": {"x": 1}})),
        ({"apps": {"http": {"http_port": 80}}}, ("apps/http/servers", {"x": 1})),
        ({"apps": {"http": {"servers": {"own": 2}}}}, ("apps/http/servers/x", 1)),
        (None, ("apps", {"http": {"servers": {"x": 1}}})),
    ],
)
def test_only_what_is_missing_is_put(tree: object, expected: tuple[str, object]) -> None:
    assert survey.missing(tree, ("apps", "http", "servers", "x"), 1) == expected


@pytest.mark.parametrize(
    ("listen", "found"), [([":443"], "own"), (["127.0.0.1:443"], "own"), ([":8443"], None), ([":80", ":443"], "own")]
)
def test_the_operators_server_is_found_by_its_port(listen: list[str], found: str | None) -> None:
    assert survey.find_server({"apps": {"http": {"servers": {"own": {"listen": listen}}}}}, 443) == found


@pytest.mark.parametrize("status", [404, 502, 503, 504])
def test_pages_hold_nothing_that_caddy_would_replace(status: int) -> None:
    assert "{" not in page(status)
    assert f"Status {status}" in page(status)


def test_certificates_are_had_on_demand_for_named_subjects_only() -> None:
    internal = config.policy(["a.example"], tls="internal", email="", ca="", ca_root="")
    assert internal == {
        "@id": "stackpad-tls",
        "subjects": ["a.example"],
        "on_demand": True,
        "issuers": [{"module": "internal"}],
    }
    acme = config.policy([], tls="acme", email="me@example.org", ca="https://ca.example/dir", ca_root="/ca.pem")
    assert acme["issuers"] == [
        {
            "module": "acme",
            "email": "me@example.org",
            "ca": "https://ca.example/dir",
            "trusted_roots_pem_files": ["/ca.pem"],
        }
    ]
