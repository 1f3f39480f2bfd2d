"""Beside an operator's own configuration, over restarts, reloads and deletions, and with entries Caddy refuses."""

from __future__ import annotations

import asyncio
import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingress.caddy import config, tablelines
from ingress.caddy.adapter import Caddy
from ingress.caddy.adminapi import NotRunning, Rejected
from ingress.routes import Table
from stackpad.errors import Unavailable
from tests.caddy.workshop import HOST, CaddyProcess, Shop, container, eventually, table, upstream

OWN = "own.example.test"
ANSWER = [{"handler": "static_response", "status_code": "200", "body": "the operator's own"}]
BROKEN = [{"handler": "reverse_proxy", "upstreams": [{"dial": "127.0.0.1:1"}]}]


def operators(place: Shop, *, policies: list[dict[str, Any]] | None = None, **tls: Any) -> dict[str, Any]:
    """An operator's configuration: a site on the HTTPS port, and one there that is broken."""
    routes = [
        {"match": [{"host": [OWN]}], "handle": ANSWER, "terminal": True},
        {"match": [{"host": ["broken.example.test"]}], "handle": BROKEN, "terminal": True},
    ]
    http = {
        "http_port": place.settings.http_port,
        "https_port": place.settings.https_port,
        "servers": {"operator": {"listen": [f":{place.settings.https_port}"], "routes": routes}},
    }
    named: dict[str, Any] = {"subjects": [OWN, "broken.example.test"], "issuers": [{"module": "internal"}]}
    return {
        "apps": {
            "http": http,
            "tls": {"automation": {"policies": [named] if policies is None else policies, **tls}},
            "pki": {"certificate_authorities": {"local": {"install_trust": False}}},
        }
    }


def without_ours(tree: Any) -> Any:
    """A configuration without the objects that carry our ids, and without who is asked for certificates."""
    if isinstance(tree, dict):
        kept = {key: value for key, value in tree.items() if key != "on_demand" and not _is_ours(value)}
        return {key: without_ours(value) for key, value in kept.items()}
    if isinstance(tree, list):
        return [without_ours(one) for one in tree if not _is_ours(one)]
    return tree


def _is_ours(one: Any) -> bool:
    return isinstance(one, dict) and str(one.get("@id", "")).startswith("stackpad")


async def restart(place: Shop, base: dict[str, Any], how: int = signal.SIGTERM) -> None:
    """Caddy anew, with an operator's configuration."""
    place.caddy.stop(how)
    await place.caddy.start(base)


async def test_the_operators_configuration_stays_as_it_was(place: Shop) -> None:
    base = operators(place)
    await restart(place, base)
    async with upstream("tenant") as port:
        made = await place.apply(container(port=port, domains=("www.example.test",)))
        assert await place.visit(HOST) == (200, "tenant")
        assert await place.visit("www.example.test") == (200, "tenant")
        assert await place.visit(OWN) == (200, "the operator's own")
        status, page = await place.visit("broken.example.test")
        assert (status, page) == (502, ""), "how the operator's own sites fail is the operator's"
        assert without_ours((await place.caddy.ask("GET", "/config/"))["apps"]) == base["apps"]
        await place.apply(before=made)
        assert without_ours((await place.caddy.ask("GET", "/config/"))["apps"]) == base["apps"]
        assert await place.visit(OWN) == (200, "the operator's own")
        assert OWN not in place.questions


async def test_an_operators_site_without_a_policy_needs_nobodys_permission(place: Shop) -> None:
    """As most Caddyfiles make it: a site, and not a word about TLS."""
    base = operators(place)
    del base["apps"]["tls"]
    # Caddy's default authority is a public one; this makes it its own without a policy for the site.
    base["apps"]["tls"] = {"automation": {"policies": [{"issuers": [{"module": "internal"}]}]}}
    await restart(place, base)
    async with upstream("tenant") as port:
        await place.apply(container(port=port, domains=("www.example.test", OWN, "x.wild.example.test")))
        for host in (HOST, "www.example.test"):
            assert await place.visit(host) == (200, "tenant")
        assert await place.visit(OWN) == (200, "the operator's own"), "also where a tenant claims it"
        assert OWN not in place.questions


async def test_beside_a_policy_of_the_operators_for_all_names(place: Shop) -> None:
    """As a Caddyfile with `local_certs` makes: ours behind it would never be looked at."""
    for_all: dict[str, Any] = {"issuers": [{"module": "internal"}]}
    named: dict[str, Any] = {"subjects": ["taken.example.test"], "issuers": [{"module": "internal"}]}
    await restart(place, operators(place, policies=[named, for_all]))
    async with upstream("tenant") as port:
        made = await place.apply(container(port=port, domains=("taken.example.test",)))
        assert await place.visit(HOST) == (200, "tenant")
        assert await place.visit(OWN) == (200, "the operator's own")
        policies = await place.caddy.ask("GET", "/config/apps/tls/automation/policies")
        assert [policy.get("@id") for policy in policies] == [None, config.POLICY, None]
        assert policies[1]["subjects"] == ["*.*.stackpad.test"]
        made = await place.apply(container(port=port, domains=("www.example.test",)), before=made)
        assert await place.visit("www.example.test") == (200, "tenant")
        assert await place.adapter.in_step()
        # Moved before ours by the operator: ours goes before it again.
        await place.caddy.ask("DELETE", "/config/apps/tls/automation/policies/2")
        await place.caddy.ask("PUT", "/config/apps/tls/automation/policies/0", for_all)
        assert not await place.adapter.in_step()
        await place.apply(container(port=port, project="late"), before=made)
        assert await place.visit("late.acme.stackpad.test") == (200, "tenant")
        assert await place.visit(OWN) == (200, "the operator's own")


async def test_on_demand_settings_without_a_question_get_ours(place: Shop) -> None:
    """Caddy 2.6 would have a certificate for any name at all."""
    limits = {"rate_limit": {"interval": 60_000_000_000, "burst": 1000}}
    try:
        await restart(place, operators(place, on_demand=limits))
    except AssertionError:
        pytest.skip("this Caddy has no such setting any more")
    async with upstream() as port:
        await place.apply(container(port=port))
        assert await place.status("other.acme.stackpad.test") == 0
        assert "other.acme.stackpad.test" in place.questions
        assert await place.status() == 200


async def test_the_operators_own_question_stays(place: Shop) -> None:
    ask = {"ask": "http://127.0.0.1:1/never"}
    await restart(place, operators(place, on_demand=ask))
    async with upstream() as port:
        await place.apply(container(port=port))
        assert (await place.caddy.ask("GET", "/config/apps/tls/automation"))["on_demand"] == ask
        assert await place.adapter.in_step()
        assert await place.status() == 0, "closed where nobody answers"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_restart_with_nothing_is_noticed_and_mended(place: Shop, how: int) -> None:
    async with upstream() as port:
        made = await place.apply(container(port=port))
        assert await place.status() == 200
        place.caddy.stop(how)
        with pytest.raises(NotRunning, match="is Caddy running"):
            await place.adapter.in_step()
        await place.caddy.start()
        assert not await place.adapter.in_step()
        await place.adapter.apply(made)
        assert await place.adapter.in_step()
        assert await place.status() == 200


@pytest.mark.parametrize("what", ["reload", "object", "policy", "permission", "other content"])
async def test_what_somebody_takes_away_is_put_back(place: Shop, what: str) -> None:
    base = operators(place)
    await restart(place, base)
    async with upstream() as port:
        made = await place.apply(container(port=port))
        await place.apply(container(port=port, project="new"), before=made)
        made = await place.apply(container(port=port), before=made)
        assert await place.adapter.in_step()
        match what:
            case "reload":
                await place.caddy.ask("POST", "/load", {"admin": place.caddy.admin, **base})
            case "object":
                await place.caddy.ask("DELETE", "/id/stackpad")
            case "policy":
                await place.caddy.ask("DELETE", "/id/stackpad-tls")
            case "permission":
                # In two steps, since newer Caddies refuse a policy without anybody to ask.
                await place.caddy.ask("DELETE", "/id/stackpad-tls")
                await place.caddy.ask("DELETE", "/config/apps/tls/automation/on_demand")
            case _:
                older = config.route(table(), keep_streams=False)
                await place.caddy.ask("PATCH", "/id/stackpad", older)
        assert not await place.adapter.in_step()
        assert (await place.adapter.apply(made)).writes > 0
        assert await place.adapter.in_step()
        assert await place.status() == 200
        assert await place.visit(OWN) == (200, "the operator's own")


async def test_nothing_is_written_when_nothing_changes(place: Shop) -> None:
    async with upstream() as port:
        made = await place.apply(container(port=port))
        assert (await place.adapter.apply(made)).writes == 0
        fresh = Caddy(place.settings)
        assert (await fresh.apply(made)).writes <= 1, "an ingress started anew tries once what Caddy can do"
        assert (await fresh.apply(made)).writes == 0
        assert await place.status() == 200


async def test_one_refused_entry_costs_the_others_nothing(place: Shop) -> None:
    async with upstream("good") as port:
        plain = table(*(container(f"c{n}", port=port, project=f"p{n}") for n in range(5)))
        place.known |= {host.host for host in plain.hosts}
        # Nothing a label can say is refused by Caddy; one line twice is, and that has to be put in by hand.
        twin = replace(plain.hosts[3], owner="twin")
        mixed = Table((*plain.hosts, twin))
        applied = await place.adapter.apply(mixed)
        assert applied.rejected.keys() == {twin.host}
        assert "duplicate" in applied.rejected[twin.host]
        for host in plain.hosts:
            assert await place.visit(host.host) == (200, "good")
        again = await place.adapter.apply(mixed)
        assert (again.rejected, again.writes) == (applied.rejected, 0), "what was refused is not tried all the time"
        fresh = Caddy(place.settings)
        fresh._lines = lines = tablelines.known(mixed.hosts, False, {})
        assert (await fresh.apply(mixed)).rejected.keys() == {twin.host}, "also by an ingress that has just started"
        assert all(fresh._lines[key] is line for key, line in lines.items()), "no line is made anew in the search for it"
        assert await fresh.in_step()
        more = table(*(container(f"c{n}", port=port, project=f"p{n}") for n in range(6)))
        place.known |= {host.host for host in more.hosts}
        assert not (await fresh.apply(more)).rejected
        assert await place.visit("p5.acme.stackpad.test") == (200, "good")


async def test_a_configuration_without_a_place_for_ours_is_told_and_left_alone(place: Shop) -> None:
    base = operators(place)
    base["apps"]["http"]["servers"]["stackpad"] = {"listen": [f"127.0.0.1:{place.settings.https_port + 1}"]}
    del base["apps"]["http"]["servers"]["operator"]
    await restart(place, base)
    async with upstream() as port:
        with pytest.raises(Rejected):
            await place.adapter.apply(table(container(port=port)))
    there = await place.caddy.ask("GET", "/config/apps/http/servers")
    assert there == base["apps"]["http"]["servers"]


async def test_a_socket_where_no_caddy_is(tmp_path: Path, place: Shop) -> None:
    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        writer.close()

    path = tmp_path / "other.sock"
    server = await asyncio.start_unix_server(babble, path)
    async with server:
        with pytest.raises(Unavailable, match="is no Caddy"):
            await Caddy(replace(place.settings, caddy_admin=path)).apply(Table())


async def test_two_caddies_are_two_worlds(binary: str, place: Shop, tmp_path: Path) -> None:
    """What one Caddy could do says nothing of the next one at the same socket: it is found out anew."""
    async with upstream() as port:
        made = await place.apply(container(port=port))
        learnt = place.adapter._keep_streams
        place.adapter._keep_streams = not learnt
        place.caddy.stop()
        await place.caddy.start()
        assert not (await place.adapter.apply(made)).rejected
        assert place.adapter._keep_streams is learnt


def test_without_ours_tells_what_is_ours() -> None:
    tree = {"a": [{"@id": "stackpad"}, {"@id": "own"}], "on_demand": 1, "server": {"@id": "stackpad-http"}}
    assert without_ours(tree) == {"a": [{"@id": "own"}]}


async def test_a_caddy_that_starts_later_than_we_do(binary: str, tmp_path: Path, place: Shop) -> None:
    home = tmp_path / "late"
    home.mkdir()
    settings = replace(place.settings, caddy_admin=home / "admin.sock")
    late, adapter = CaddyProcess(binary, home, settings), Caddy(settings)
    place.caddy.stop()
    with pytest.raises(Unavailable, match="is Caddy running"):
        await adapter.apply(table())
    await late.start()
    try:
        assert (await adapter.apply(table())).writes
        config = json.dumps(await late.ask("GET", "/config/"))
        assert '"stackpad-gen"' in config
    finally:
        late.stop()
    await eventually(adapter_gone(adapter), "the adapter to notice")


def adapter_gone(adapter: Caddy) -> Any:
    async def gone() -> bool:
        try:
            return not await adapter.in_step()
        except Unavailable:
            return True

    return gone
