"""Options in Caddy's words, where a table or a property says more than a visit."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ingress.caddy import config, options, replies
from ingress.routes import HostRoute, PathRoute, State, Table
from stackpad.labels import Wire
from stackpad.routeoptions import RouteOptions

HASH = "$2b$04$ekq4YyCSNQvhXlC66UeCD.m0v2NoNXC9WfG8gkjskhpiw7rfIt4EO"


@given(st.integers(1, 2**41), st.integers(0, 2**45))
@example(1, 0)
@example(1, 1)
@example(9, 10)
@example(99, 100)
@example(100, 99)
@example(1999, 2000)
def test_numbers_above_another_one_as_an_expression(most: int, number: int) -> None:
    pattern = options.longer_than(most)
    for candidate in (number, most - 1, most, most + 1):
        for text in (str(candidate), f"00{candidate}"):
            assert (re.search(pattern, text) is not None) is (candidate > most), (most, text)
    assert not re.search(pattern, "")


USERS = st.text(st.sampled_from("abcXYZ019._@+-"), min_size=1, max_size=12)


@given(USERS, USERS, st.text())
def test_a_user_comes_to_the_password_and_another_one_does_not(user: str, other: str, password: str) -> None:
    starts = [start.removesuffix("*") for start in options._credentials(user)]

    def header(name: str) -> str:
        return "Basic " + base64.b64encode(f"{name}:{password}".encode(errors="replace")).decode()

    assert any(header(user).startswith(start) for start in starts)
    # One that shares all but the last bits of the last letter may come so far; whoever differs before does not.
    if other[: len(user) - 1] != user[: len(user) - 1]:
        assert not any(header(other).startswith(start) for start in starts)


def route(options: RouteOptions, *, upstreams: tuple[str, ...] = ("10.0.0.2:80",), path: str = "") -> list[Any]:
    made = PathRoute(path, "web", upstreams, Wire.HTTP, State.UP, options=options)
    table = Table((HostRoute("shop.example", "acme/shop/production", 1.0, (made,)),))
    return [handler for there in special(config.route(table, keep_streams=False)) for handler in there["handle"]]


def special(owned: dict[str, Any]) -> list[dict[str, Any]]:
    """The routes of hosts that are no line of the table."""
    first = owned["handle"][-1]["routes"][0]
    return [] if "match" in first else list(first["handle"][0]["routes"])


@pytest.mark.parametrize(
    "options",
    [
        RouteOptions(auth=(("bob", HASH),)),
        RouteOptions(allow=("10.0.0.0/8",)),
        RouteOptions(headers=(("X-A", "b"),)),
        RouteOptions(body=10),
        RouteOptions(sticky=True),
        RouteOptions(strip=True),
    ],
)
def test_no_option_is_lost_on_the_way_into_the_table(options: RouteOptions) -> None:
    assert route(options)
    assert not route(RouteOptions())


def test_what_protects_stands_before_what_passes_on() -> None:
    everything = RouteOptions(auth=(("bob", HASH),), allow=("10.0.0.0/8",), body=10, headers=(("X-A", "b"),), sticky=True)
    (guarded,) = route(everything)
    *guards, last = guarded["routes"]
    first = [guard["handle"][0] for guard in guards]
    assert [one.get("status_code", one["handler"]) for one in first] == ["403", "401", "authentication", "413"]
    assert [guard.get("terminal", False) for guard in guards] == [True, True, False, True]
    names = [handler["handler"] for handler in last["handle"]]
    assert names == ["headers", "request_body", "headers", "subroute"]


def test_a_visitor_with_a_cookie_is_not_sent_past_his_replica_for_what_another_did() -> None:
    replicas = ("10.0.0.2:80", "10.0.0.3:80")
    assert "health_checks" not in json.dumps(route(RouteOptions(sticky=True), upstreams=replicas))
    assert "health_checks" in json.dumps(route(RouteOptions(), upstreams=replicas))


@pytest.mark.parametrize("path", ["", "/api"])
def test_redirects_and_maintenance_cost_a_line_where_a_line_will_do(path: str) -> None:
    closed = PathRoute(path, "web", ("10.0.0.2:80",), Wire.H2C, State.UP, options=RouteOptions(maintenance=True))
    away = PathRoute(path, "web", (), Wire.HTTP, State.DOWN, options=RouteOptions(sticky=True), redirect="x.example")
    for one, line in ((closed, ["maintenance"]), (away, ["redirect", "x.example"])):
        table = Table((HostRoute("shop.example", "acme/shop/production", 1.0, (one,)),))
        owned = config.route(table, keep_streams=False)
        assert [mapping["outputs"] for mapping in owned["handle"][1]["mappings"]] == ([] if path else [line])
        assert bool(special(owned)) is bool(path)


@pytest.mark.parametrize(
    ("taken", "named"),
    [
        (set(), True),
        ({"own.example"}, True),
        ({"www.shop.example"}, False),
        ({"*.shop.example"}, False),
        ({"a.b.shop.example"}, True),
    ],
)
def test_certificates_below_a_wildcard_but_not_an_operators(taken: set[str], named: bool) -> None:
    made = PathRoute("", "web", (), Wire.HTTP, State.DOWN)
    table = Table((HostRoute("*.shop.example", "acme/shop/production", 1.0, (made,)),))
    assert ("*.shop.example" in config.subjects(table, "stackpad.test", taken)) is named


def test_the_last_route_of_errors_takes_all() -> None:
    *_, last = replies.errors()
    assert "match" not in last
