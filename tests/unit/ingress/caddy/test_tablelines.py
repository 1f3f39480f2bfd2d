"""Which list a host is in, and that what is known of it already says the same as what is made anew."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ingress.caddy import config, tablelines
from ingress.caddy.tablelines import Line, List
from ingress.routes import HostRoute, PathRoute, State, Table
from stackpad.labels import Wire
from stackpad.routeoptions import RouteOptions
from tests.unit.ingress.test_golden import NUMBERED, TABLE

OWNER = "acme/shop/production"


def host(name: str = "shop.example", *, dial: str = "", path: str = "", **more: object) -> HostRoute:
    state = State.UP if dial else State.DOWN
    only = PathRoute(path, "web", (dial,) if dial else (), Wire.HTTP, state)
    return HostRoute(name, OWNER, 1.0, (replace(only, **more),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "line"),
    [
        (host(dial="10.0.0.2:80"), Line(List.UP, {"up": "10.0.0.2:80"})),
        (host(dial="169.254.53.{sp_turn}:20000"), Line(List.NUMBER, {"number": "169.254.53.{sp_turn}:20000"})),
        (host(), Line(List.STATE, {"state": "down"})),
        (host(redirect="x.example"), Line(List.STATE, {"state": "redirect", "to": "x.example"})),
        (
            host(dial="10.0.0.2:80", options=RouteOptions(maintenance=True)),
            Line(List.STATE, {"state": "maintenance"}),
        ),
        (host(dial="10.0.0.2:80", path="/api"), None),
        (host(dial="10.0.0.2:80", wire=Wire.H2C), None),
        (host(dial="10.0.0.2:80", options=RouteOptions(body=5)), None),
    ],
)
def test_each_host_is_in_one_list_or_has_a_route(one: HostRoute, line: Line | None) -> None:
    assert tablelines.known([one], logs=False, last={}) == {id(one): (one, line)}


@pytest.mark.parametrize("log", [None, True])
@pytest.mark.parametrize("table", [TABLE, NUMBERED])
def test_what_is_known_of_most_hosts_changes_nothing(table: Table, log: bool | None) -> None:
    logs = log is not None
    before = replace(table, hosts=(host("other.example", dial="10.0.0.9:80"), *table.hosts[1:]))
    last = tablelines.known(before.hosts, logs, {})
    known = tablelines.known(table.hosts, logs, last)
    assert known.keys() == {id(one) for one in table.hosts}
    assert known[id(table.hosts[1])] is last[id(table.hosts[1])]
    told = [config.route(table, keep_streams=True, log=log, lines=lines) for lines in (None, known)]
    assert told[0] == told[1]


def test_another_host_of_the_same_name_is_not_taken_for_the_one_that_was() -> None:
    last = tablelines.known([host(dial="10.0.0.2:80")], False, {})
    (found,) = tablelines.known([host()], False, last).values()
    assert found[1] == Line(List.STATE, {"state": "down"})


@pytest.mark.parametrize(
    ("hosts", "lists"),
    [
        ([], [List.UP, List.STATE]),
        ([host()], [List.UP, List.STATE]),
        ([host(dial="169.254.53.{sp_turn}:20000")], [List.NUMBER, List.STATE]),
        ([host(dial="10.0.0.2:80"), host("b.example", dial="169.254.53.{sp_turn}:20000")], list(List)),
    ],
)
def test_lists_that_nobody_is_in_are_left_out(hosts: list[HostRoute], lists: list[List]) -> None:
    tables = tablelines.tables("{x}", "sp_", tablelines.known(hosts, False, {}), logs=False)
    assert list(tables) == lists
    assert sum(len(one["mappings"]) for maps in tables.values() for one in maps) == len(hosts)
