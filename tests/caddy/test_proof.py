"""A domain is proved over HTTP through a real Caddy: where our answer comes from, and what stays as it was beside it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from ingress.caddy import config
from ingress.caddy.adapter import Caddy
from ingress.owners.ledger import How
from ingress.proving.lookups import Lookups
from ingress.proving.ownership import Ownership
from ingress.routes import Table, WebContainer
from ingress.settings import Settings
from ingress.tables import table as table_of
from ingress.web import asked
from tests.caddy.test_coexistence import ANSWER, OWN, operators, restart, without_ours
from tests.caddy.workshop import BASE, HOST, CaddyProcess, Shop, container, eventually, free_port, serving, upstream
from tests.nameserver import Zone, nameserver

DOMAIN = "www.example.test"
PATH = f"/.well-known/stackpad/{'0' * 32}"
PLAIN = [{"handler": "static_response", "status_code": "200", "body": "plain HTTP, the operator's"}]


@dataclass
class World:
    """Caddy, the whole of who owns what, and DNS; all but the engine."""

    caddy: CaddyProcess
    adapter: Caddy
    place: Shop
    ownership: Ownership
    zone: Zone
    settings: Settings
    made: Table = field(default_factory=Table)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, *containers: WebContainer) -> None:
        """The table for these, and Caddy as it should be; once more if a proof comes meanwhile."""
        self.changed.clear()
        ownership = self.ownership
        self.made = table_of(containers, ownership.ledger, base_domain=BASE, now=time.time(), believe=ownership.believes)
        ownership.decide(self.made)
        assert not (await self.adapter.apply(self.made)).rejected

    async def proved(self, *containers: WebContainer) -> None:
        """Wait for a proof, and have Caddy serve what it makes of ``containers``."""
        await asyncio.wait_for(self.changed.wait(), 60)
        await self.serve(*containers)

    def knows(self, host: str) -> bool:
        """Whether a certificate may be had."""
        return host in {one.host for one in self.made.hosts}


@contextlib.asynccontextmanager
async def world(binary: str, home: Path, *, methods: tuple[How, ...] = (How.HTTP,)) -> AsyncIterator[World]:
    """Caddy runs with an empty configuration; the domain points to loopback, as all of this does."""
    settings = Settings(
        BASE,
        tls="internal",
        caddy_admin=home / "admin.sock",
        ask_port=free_port(),
        http_port=free_port(),
        https_port=free_port(),
        state_dir=home / "state",
        domain_proof=frozenset(methods),
    )
    caddy = CaddyProcess(binary, home, settings)
    adapter = Caddy(settings)
    async with contextlib.AsyncExitStack() as stack:
        zone = await stack.enter_async_context(nameserver({DOMAIN: {"A": ["127.0.0.1"]}}))
        worlds: list[World] = []
        lookups = Lookups([zone.server], settings.http_port, lambda _: True)
        ownership = Ownership(settings, lambda: worlds[0].changed.set(), lookups, adapter.operators)
        worlds.append(World(caddy, adapter, Shop(caddy, settings, adapter), ownership, zone, settings))
        await stack.enter_async_context(serving(asked(worlds[0].knows, ownership.answer), settings.ask_port))
        await caddy.start()
        stack.callback(caddy.stop)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        running = tasks.create_task(ownership.run())
        try:
            yield worlds[0]
        finally:
            running.cancel()


async def test_a_domain_that_points_here_is_served_after_its_proof(binary: str, tmp_path: Path) -> None:
    async with upstream("tenant") as port, world(binary, tmp_path) as there:
        here = container(port=port, domains=(DOMAIN,))
        there.zone.records.clear()
        await there.serve(here)
        assert await there.place.visit(HOST) == (200, "tenant")
        assert await there.place.status(DOMAIN) == 0, "no certificate is had for what is not proved"
        status, head = await there.place.visit(DOMAIN, "/a?b", scheme="http", headers=True)
        assert (status, f"https://{DOMAIN}" in head) == (308, True)
        there.zone.records[DOMAIN] = {"A": ["127.0.0.1"]}
        await there.proved(here)
        assert await there.place.visit(DOMAIN) == (200, "tenant")
        claim = there.ownership.ledger.claims[DOMAIN]
        assert claim.proof is not None
        assert claim.proof.how is How.HTTP
        there.ownership.save()
    async with upstream("tenant") as port, world(binary, tmp_path) as again:
        await again.serve(container(port=port, domains=(DOMAIN,)))
        assert await again.place.visit(DOMAIN) == (200, "tenant"), "also after a restart"


async def test_a_domain_that_points_elsewhere_is_not(binary: str, tmp_path: Path) -> None:
    """To another ingress even: what that one answers is not ours."""
    for name in ("theirs", "ours"):
        (tmp_path / name).mkdir()
    async with (
        upstream("tenant") as port,
        world(binary, tmp_path / "theirs") as theirs,
        world(binary, tmp_path / "ours") as ours,
    ):
        here = container(port=port, domains=(DOMAIN,))
        await theirs.serve(here)
        elsewhere = Lookups([ours.zone.server], theirs.settings.http_port, lambda _: True)
        ours.ownership._prover._lookups = elsewhere
        await ours.serve(here)
        answer = await ours.ownership.check(DOMAIN)
        assert answer["proved"] is False
        assert "answers with something else than our number" in answer["checks"][0]["found"]
        assert not ours.changed.is_set()
        assert await ours.place.status(DOMAIN) == 0


async def test_two_who_ask_for_what_points_here_have_proved_nothing(binary: str, tmp_path: Path) -> None:
    async with upstream("tenant") as port, world(binary, tmp_path, methods=(How.DNS, How.HTTP)) as there:
        both = (
            container(port=port, domains=(DOMAIN,)),
            container("b", port=port, project="rival", domains=(DOMAIN,)),
        )
        await there.serve(*both)
        answer = await there.ownership.check(DOMAIN)
        assert {check["how"] for check in answer["checks"]} == {How.DNS}
        assert not answer["proved"]
        (own,) = (check for check in answer["checks"] if check["owner"] == "acme/rival/production")
        there.zone.records[f"_stackpad.{DOMAIN}"] = {"TXT": [own["record"].partition("TXT ")[2]]}
        await there.proved(*both)
        assert there.ownership.ledger.claims[DOMAIN].owner == "acme/rival/production"
        assert await there.place.status(DOMAIN) == 200


async def proof_answered(place: Shop, host: str = HOST) -> bool:
    """Whether our answer is to be had at the host; it is for hosts of ours, which are served by HTTPS otherwise."""
    status, body = await place.visit(host, PATH, scheme="http")
    return status == 200 and len(body) == 64


async def redirected(place: Shop, host: str) -> bool:
    """Whether a visitor is sent on to HTTPS, with path and query."""
    status, head = await place.visit(host, "/a?b=c", scheme="http", headers=True)
    return status == 308 and f"https://{host}" in head and "/a?b=c" in head


async def test_other_requests_are_sent_on_as_before(binary: str, tmp_path: Path) -> None:
    async with upstream("tenant") as port, world(binary, tmp_path) as there:
        await there.serve(container(port=port))
        assert await proof_answered(there.place)
        for host in (HOST, DOMAIN, "other.acme.stackpad.test"):
            assert await redirected(there.place, host)
        assert (await there.place.visit("unknown.example.test", PATH, scheme="http"))[0] == 404
        assert (await there.place.visit(HOST, "/.well-known/stackpad/../x", "--path-as-is", scheme="http"))[0] != 200
        assert (await there.place.visit(HOST, "/.well-known/other", scheme="http"))[0] == 308
        assert (await there.place.visit(HOST, "/.well-known/stackpad/x"))[1] == "tenant", "by HTTPS it is the tenant's"


async def test_beside_an_operators_sites(binary: str, tmp_path: Path) -> None:
    async with upstream("tenant") as port, world(binary, tmp_path) as there:
        await restart(there.place, operators(there.place))
        await there.serve(container(port=port))
        assert await proof_answered(there.place)
        assert await redirected(there.place, HOST)
        assert await redirected(there.place, OWN)
        assert await there.place.visit(OWN) == (200, "the operator's own")


def with_plain_http(place: Shop, routes: list[dict[str, Any]]) -> dict[str, Any]:
    """An operator's configuration with a server of its own on the HTTP port."""
    base = operators(place)
    base["apps"]["http"]["servers"]["plain"] = {"listen": [f":{place.settings.http_port}"], "routes": routes}
    return base


@pytest.mark.parametrize("kind", ["site", "catch-all", "empty"])
async def test_in_an_operators_own_http_server(binary: str, tmp_path: Path, kind: str) -> None:
    site = {"match": [{"host": ["plain.example.test"]}], "handle": PLAIN, "terminal": True}
    everything = {"handle": PLAIN, "terminal": True}
    routes = {"site": [site], "catch-all": [everything], "empty": []}[kind]
    async with upstream("tenant") as port, world(binary, tmp_path) as there:
        base = with_plain_http(there.place, routes)
        await restart(there.place, base)
        # Which of them wins for an own site, redirect or catch-all, Caddy decides by the certificates it has loaded.
        hosts = (HOST, "plain.example.test", *([OWN] if kind != "catch-all" else []))
        before = [await there.place.visit(host, scheme="http") for host in hosts]
        await there.serve(container(port=port))
        assert await proof_answered(there.place)
        after = [await there.place.visit(host, scheme="http") for host in hosts]
        assert after == before, "every other request has the answer it had"
        tree = await there.caddy.ask("GET", "/config/")
        assert config.PROOF_SERVER not in tree["apps"]["http"]["servers"]
        assert without_ours(tree["apps"]) == base["apps"]
        assert await there.adapter.in_step()
        assert (await there.adapter.apply(there.made)).writes == 0


async def test_one_server_of_the_operators_for_both_ports(binary: str, tmp_path: Path) -> None:
    async with upstream("tenant") as port, world(binary, tmp_path) as there:
        base = operators(there.place)
        base["apps"]["http"]["servers"]["operator"]["listen"].append(f":{there.settings.http_port}")
        await restart(there.place, base)
        await there.serve(container(port=port))
        assert await proof_answered(there.place)
        assert await there.place.visit(HOST, PATH) == (200, "tenant"), "by HTTPS it is the tenant's"

        async def own() -> bool:
            return await there.place.visit(OWN) == (200, "the operator's own")

        # Caddy has its certificate made in the background, after its start.
        await eventually(own, "the operator's own site")


async def test_without_redirects_there_is_nothing_else(binary: str, tmp_path: Path) -> None:
    async with upstream("tenant") as port, world(binary, tmp_path) as there:
        base = operators(there.place)
        base["apps"]["http"]["servers"]["operator"]["automatic_https"] = {"disable_redirects": True}
        await restart(there.place, base)
        await there.serve(container(port=port))
        assert await proof_answered(there.place)
        status, page = await there.place.visit(HOST, scheme="http")
        assert (status, "Nothing here" in page) == (404, True), "not Caddy's empty 200"


async def test_it_listens_where_the_server_for_https_does(binary: str, tmp_path: Path) -> None:
    async with upstream("tenant") as port, world(binary, tmp_path) as there:
        base = operators(there.place)
        base["apps"]["http"]["servers"]["operator"]["listen"] = [f"127.0.0.1:{there.settings.https_port}"]
        await restart(there.place, base)
        await there.serve(container(port=port))
        assert await proof_answered(there.place)
        assert await redirected(there.place, OWN)
        server = await there.caddy.ask("GET", f"/id/{config.PROOF_SERVER}")
        assert server["listen"] == [f"127.0.0.1:{there.settings.http_port}"]


@pytest.mark.parametrize("what", ["route", "server", "reload", "restart"])
async def test_what_somebody_takes_away_is_put_back(binary: str, tmp_path: Path, what: str) -> None:
    async with upstream("tenant") as port, world(binary, tmp_path) as there:
        await there.serve(container(port=port))
        assert await there.adapter.in_step()
        match what:
            case "route":
                await there.caddy.ask("DELETE", f"/id/{config.PROOF}")
            case "server":
                await there.caddy.ask("DELETE", f"/id/{config.PROOF_SERVER}")
            case "reload":
                await there.caddy.ask("POST", "/load", {"admin": there.caddy.admin, **operators(there.place)})
            case _:
                await restart(there.place, with_plain_http(there.place, []))
        assert not await there.adapter.in_step()
        await there.adapter.apply(there.made)
        assert await there.adapter.in_step()
        assert await proof_answered(there.place)


@pytest.mark.parametrize("plain", [False, True])
async def test_it_goes_when_domains_are_not_proved_so_any_more(binary: str, tmp_path: Path, plain: bool) -> None:
    async with upstream("tenant") as port, world(binary, tmp_path) as there:
        base = with_plain_http(there.place, [{"handle": PLAIN}]) if plain else operators(there.place)
        await restart(there.place, base)
        await there.serve(container(port=port))
        strict = Caddy(replace(there.settings, domain_proof=frozenset({How.DNS})))
        assert not (await strict.apply(there.made)).rejected
        assert await strict.in_step()
        tree = await there.caddy.ask("GET", "/config/")
        assert without_ours(tree["apps"]) == base["apps"]
        assert "stackpad-proof" not in str(tree)
        assert "stackpad-http" not in str(tree)
        assert (await strict.apply(there.made)).writes == 0


async def test_a_caddy_that_takes_nothing_there_serves_all_the_same(binary: str, tmp_path: Path) -> None:
    """Somebody else has the port, and the operator knows and has no redirects."""
    async with upstream("tenant") as port, world(binary, tmp_path) as there:
        base = operators(there.place)
        base["apps"]["http"]["servers"]["operator"]["automatic_https"] = {"disable_redirects": True}
        base["apps"]["http"]["servers"]["stackpad-http"] = {"listen": [f"127.0.0.1:{free_port()}"], "routes": []}
        await restart(there.place, base)
        await there.serve(container(port=port))
        assert await there.place.visit(HOST) == (200, "tenant")
        assert await there.adapter.in_step(), "what was refused is not tried all the time"
        assert (await there.adapter.apply(there.made)).writes == 0
        await restart(there.place, operators(there.place))
        await there.adapter.apply(there.made)
        assert await proof_answered(there.place), "another Caddy may take it"


async def test_who_claims_an_operators_own_site_gets_nothing_by_it(binary: str, tmp_path: Path) -> None:
    """It does point here. Whether Caddy redirects it before our route hangs on what certificates it has loaded."""
    async with upstream("tenant") as port, world(binary, tmp_path) as there:
        await restart(there.place, operators(there.place))
        there.zone.records[OWN] = {"A": ["127.0.0.1"]}
        here = container(port=port, domains=(OWN,))
        await there.serve(here)
        assert await there.place.visit(OWN) == (200, str(ANSWER[0]["body"]))
        answer = await there.ownership.check(OWN)
        assert not answer["proved"], answer
        there.ownership.allow(OWN, "acme/shop/production")
        await there.serve(here)
        assert OWN in {host.host for host in there.made.hosts}
        assert await there.place.visit(OWN) == (200, str(ANSWER[0]["body"]))


@pytest.mark.parametrize("whose", ["a site's", "a policy's", "the machine's", "nobody's"])
async def test_what_points_here_for_the_operator_is_nobody_elses(binary: str, tmp_path: Path, whose: str) -> None:
    """The name of his own machine, and those that his Caddy has something for, on whatever port."""
    async with upstream("tenant") as port, world(binary, tmp_path) as there:
        base = operators(there.place)
        if whose == "a site's":
            site = {"match": [{"host": [DOMAIN]}], "handle": PLAIN, "terminal": True}
            base["apps"]["http"]["servers"]["other"] = {"listen": [f"127.0.0.1:{free_port()}"], "routes": [site]}
            base["apps"]["http"]["servers"]["other"]["automatic_https"] = {"disable": True}
        elif whose == "a policy's":
            policies = base["apps"].setdefault("tls", {}).setdefault("automation", {}).setdefault("policies", [])
            policies.append({"subjects": ["*.example.test"], "issuers": [{"module": "internal"}]})
        elif whose == "the machine's":
            there.zone.records["1.0.0.127.in-addr.arpa"] = {"PTR": [f"{DOMAIN}."]}
        await restart(there.place, base)
        await there.serve(container(port=port))
        here = container(port=port, domains=(DOMAIN,))
        await there.serve(here)
        answer = await there.ownership.check(DOMAIN)
        assert answer["proved"] is (whose == "nobody's"), answer
        assert "points here" in answer["checks"][0]["found"]


async def test_a_proof_is_found_while_caddy_starts_late(binary: str, tmp_path: Path) -> None:
    async with upstream("tenant") as port, world(binary, tmp_path) as there:
        there.caddy.stop()
        here = container(port=port, domains=(DOMAIN,))
        made = table_of([here], there.ownership.ledger, base_domain=BASE, now=1.0)
        there.ownership.decide(made)

        async def told() -> bool:
            return any("does not answer at port" in str(one["reason"]) for one in there.ownership.domains())

        await eventually(told, "the first attempt to fail")
        await there.caddy.start()
        await there.serve(here)
        await there.proved(here)
        assert await there.place.visit(DOMAIN) == (200, "tenant")
