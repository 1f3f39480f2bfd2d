"""All that Caddy is told for a table with one of each, word for word.

A change of what is told is a change of these files, and is read as one.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ingress import caddyconfig
from ingress.routes import State
from stackpad.labels import Wire
from tests.unit.ingress.test_routes import container, made

GOLDEN = Path(__file__).parents[2] / "golden"

TABLE = made(
    container("plain", project="blog", address="10.192.0.2"),
    container("down", project="old", state=State.DOWN, address=None),
    container("six", project="six", address="fd00::2"),
    container("one", address="10.192.0.3", domains=("www.example.org",)),
    container("two", address="10.192.0.4", domains=("www.example.org",)),
    container("api", service="api", path="/api", address="10.192.0.5"),
    container("grpc", project="grpc", wire=Wire.H2C, address="10.192.0.6"),
    container("only", project="paths", path="/only", state=State.UNHEALTHY),
)


@pytest.mark.parametrize("keep_streams", [False, True])
def test_what_caddy_is_told(keep_streams: bool) -> None:
    told = json.dumps(caddyconfig.route(TABLE, keep_streams=keep_streams), indent=1)
    file = GOLDEN / f"caddy-{'current' if keep_streams else 'old'}.json"
    assert told + "\n" == file.read_text()
