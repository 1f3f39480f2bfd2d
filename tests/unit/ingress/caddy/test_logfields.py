"""What the access log costs the configuration, and that tenants' words in it are words."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from ingress.caddy import config, logfields
from tests.unit.ingress.test_golden import NUMBERED, TABLE


def maps(node: Any) -> Iterator[dict[str, Any]]:
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    if isinstance(node, dict) and node.get("handler") == "map":
        yield node
    for one in inner:
        yield from maps(one)


@pytest.mark.parametrize("appends", [True, False])
@pytest.mark.parametrize("table", [TABLE, NUMBERED])
def test_every_line_and_every_route_says_whose_it_is(appends: bool, table: Any) -> None:
    owned = config.route(table, keep_streams=False, log=appends)
    for found in maps(owned):
        assert len(found["defaults"]) == len(found["destinations"])
        assert all(len(mapping["outputs"]) == len(found["destinations"]) for mapping in found["mappings"])
    told = json.dumps(owned)
    for host in table.hosts:
        for path in host.paths:
            assert f'"{host.owner}/{path.service}"' in told
    assert ("log_append" in told) is appends


def test_each_form_is_another_generation() -> None:
    forms = [config.route(TABLE, keep_streams=False, log=log) for log in (None, True, False)]
    for one, other in itertools.combinations(map(config.generation, forms), 2):
        assert one != other


@pytest.mark.parametrize(
    ("service", "said"),
    [
        ("web", "web"),
        ("my_api.v2-x", "my_api.v2-x"),
        ("{env.SECRET}", "_env.SECRET_"),
        ("a/b\nc$1", "a_b_c_1"),
        ("bücher", "b_cher"),
    ],
)
def test_a_service_is_a_word(service: str, said: str) -> None:
    assert logfields.who("acme/shop/production", service) == f"acme/shop/production/{said}"
