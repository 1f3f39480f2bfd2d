"""What is shown beforehand is what a real Caddy has afterwards, word for word."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ingress.caddy.adapter import Caddy
from ingress.caddy.plannedapi import PlannedApi
from ingress.caddy.rehearsal import rehearse
from ingress.routes import State
from stackpad.routeoptions import RouteOptions
from tests.caddy.workshop import Shop, container, eventually, table

HASH = "$2b$04$ekq4YyCSNQvhXlC66UeCD.m0v2NoNXC9WfG8gkjskhpiw7rfIt4EO"


def operators(place: Shop) -> dict[str, Any]:
    """A site and a policy of the operator's, on the same ports."""
    site = {"match": [{"host": ["own.example"]}], "handle": [{"handler": "static_response", "body": "own"}]}
    server = {"listen": [f":{place.settings.https_port}"], "routes": [site]}
    internal = {"subjects": ["own.example"], "issuers": [{"module": "internal"}]}
    ports = {"http_port": place.settings.http_port, "https_port": place.settings.https_port}
    # Or each change would take seconds to install a root certificate.
    quick = {"certificate_authorities": {"local": {"install_trust": False}}}
    tls = {"automation": {"policies": [internal]}}
    return {"apps": {"http": {**ports, "servers": {"site": server}}, "tls": tls, "pki": quick}}


@pytest.mark.parametrize("beside", [False, True])
async def test_the_plan_is_what_happens(place: Shop, beside: bool) -> None:
    if beside:
        place.caddy.stop()
        await place.caddy.start(operators(place))
    options = RouteOptions(auth=(("bob", HASH),))
    changes = (
        [container(port=8001)],
        [container(port=8001), container("b-1", port=8002, project="b", domains=("www.b.example",), options=options)],
        [container(port=8001, state=State.DOWN)],
    )
    for containers in changes:
        wanted = table(*containers)
        before = await place.caddy.ask("GET", "/config/")
        plan = await rehearse(place.adapter, wanted)
        assert await place.caddy.ask("GET", "/config/") == before, "only looked"
        api = PlannedApi(before, place.adapter.lacks)
        await place.adapter.rehearsal(api).apply(wanted)
        applied = await place.adapter.apply(wanted)
        found = await place.caddy.ask("GET", "/config/")
        if not place.adapter.lacks or containers is not changes[0]:
            assert found == api.planned
            assert plan.writes == applied.writes
        assert plan.diff
        assert HASH not in plan.diff
        assert "own.example" not in "".join(line for line in plan.diff.splitlines() if line[0] in "+-")
        assert (await rehearse(place.adapter, wanted)).diff == ""


async def test_who_comes_new_finds_that_nothing_is_to_be_done(place: Shop) -> None:
    made = table(container(port=8001))
    await place.adapter.apply(made)
    assert (await rehearse(Caddy(place.settings), made)).diff == ""
    plan = await rehearse(Caddy(place.settings), table(container(port=8002)))
    changed = [line.strip() for line in plan.diff.splitlines()[2:] if line[0] in "+-"]
    assert len(changed) == 4, "an upstream and the generation, whatever the order of the rest"


async def test_what_somebody_took_away_is_shown_as_what_comes_back(place: Shop) -> None:
    made = table(container(port=8001))
    await place.adapter.apply(made)
    place.caddy.stop()
    await place.caddy.start()
    plan = await rehearse(place.adapter, made)
    added = [line for line in plan.diff.splitlines() if line.startswith("+") and "stackpad" in line]
    assert any('"@id": "stackpad"' in line for line in added)
    assert ("stream_close_delay" in plan.diff) is not bool(place.adapter.lacks)
    assert await place.adapter.generation() is None

    async def back() -> bool:
        await place.adapter.apply(replace(made))
        return await place.adapter.in_step()

    await eventually(back, "what was planned to be there")
    assert (await rehearse(place.adapter, made)).diff == ""
