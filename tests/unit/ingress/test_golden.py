"""All that Caddy is told for a table with one of each, word for word.

A change of what is told is a change of these files, and is read as one.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ingress.caddy import config
from ingress.routes import State
from ingress.upstreams import stable
from ingress.upstreams.stable import Numbers
from stackpad.labels import Wire
from stackpad.routeoptions import RouteOptions
from tests.unit.ingress.test_routes import container, made

GOLDEN = Path(__file__).parents[2] / "golden"

EVERYTHING = RouteOptions(
    strip=True,
    auth=(("bob", "$2b$04$ekq4YyCSNQvhXlC66UeCD.m0v2NoNXC9WfG8gkjskhpiw7rfIt4EO"),),
    allow=("192.0.2.0/24", "2001:db8::/32"),
    headers=(("X-Frame-Options", "DENY"),),
    body=10_000_000,
    sticky=True,
)
HEADERS = RouteOptions(headers=(("X-Frame-Options", "DENY"),))
HOME = RouteOptions(canonical="home.example")

TABLE = made(
    container("plain", project="blog", address="10.192.0.2"),
    container("down", project="old", state=State.DOWN, address=None),
    container("six", project="six", address="fd00::2"),
    container("one", address="10.192.0.3", domains=("www.example.org",)),
    container("two", address="10.192.0.4", domains=("www.example.org",)),
    container("api", service="api", path="/api", address="10.192.0.5"),
    container("grpc", project="grpc", wire=Wire.H2C, address="10.192.0.6"),
    container("all", project="all", path="/a", address="10.192.0.7", options=EVERYTHING),
    container("also", project="all", path="/a", address="10.192.0.8", options=EVERYTHING),
    container("shut", project="shut", options=RouteOptions(maintenance=True)),
    container("home", project="home", domains=("home.example", "www.home.example"), options=HOME, address="10.192.0.9"),
    container("wide", project="wide", domains=("*.wide.example",), address="10.192.0.10"),
    container("guarded", project="guarded", domains=("*.guarded.example",), options=HEADERS, address="10.192.0.11"),
    container("only", project="paths", path="/only", state=State.UNHEALTHY),
)


READY = stable.services(TABLE)
NUMBERED = stable.shown(
    TABLE,
    stable.allocate(Numbers(), READY).given,
    READY,
    {upstream: "" for ready in READY.values() for upstream in ready},
    {},
    0.0,
    {},
)[0]
"""The same with numbers."""


@pytest.mark.parametrize("keep_streams", [False, True])
def test_what_caddy_is_told(keep_streams: bool) -> None:
    told = json.dumps(config.route(TABLE, keep_streams=keep_streams), indent=1)
    file = GOLDEN / f"caddy-{'current' if keep_streams else 'old'}.json"
    assert told + "\n" == file.read_text()


def test_what_caddy_is_told_with_numbers() -> None:
    told = json.dumps(config.route(NUMBERED, keep_streams=True), indent=1)
    assert told + "\n" == (GOLDEN / "caddy-numbers.json").read_text()


def test_what_caddy_is_told_where_hosts_are_found_by_name() -> None:
    owned = config.route(NUMBERED, keep_streams=True, names="127.0.0.1:9181", grace=True)
    assert json.dumps(owned, indent=1) + "\n" == (GOLDEN / "caddy-srv.json").read_text()
