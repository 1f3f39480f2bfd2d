"""Wildcards by DNS. No Caddy here has a module for a provider: a refusal is shown with these, and what the policy does
with Caddy's own authority in the place of a public one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ingress.caddy.adapter import Caddy
from ingress.caddy.wildcards import Wildcards
from tests.caddy.authority import authority
from tests.caddy.workshop import HOST, Shop, container, eventually, free_port, shop, upstream

PROVIDER = {"name": "cloudflare", "api_token": "sesame-open"}
ZED = "shop.zed.stackpad.test"
OWN = {"subjects": ["own.example.test"], "issuers": [{"module": "internal"}]}


async def test_a_caddy_without_the_module_is_told_and_has_certificates_on_demand(binary: str, tmp_path: Path) -> None:
    ports = {"http_port": free_port(), "https_port": free_port()}
    async with authority(tmp_path / "pebble", **ports) as made:
        trust = {"acme_ca": made.directory, "acme_ca_root": str(made.signed_by), "acme_dns": PROVIDER}
        async with shop(binary, tmp_path, tls="acme", **trust, **ports) as place, upstream("hello") as port:
            served = await place.apply(container(port=port))
            certificates = place.adapter.certificates
            (problem,) = certificates.problems
            assert "this Caddy has no module for cloudflare" in problem
            assert "sesame" not in str(await place.caddy.ask("GET", "/config/"))
            assert await place.visit(HOST, "/", "--cacert", str(made.root)) == (200, "hello")
            assert made.orders() == 1
            assert await place.adapter.in_step()
            assert (await place.adapter.apply(served)).writes == 0, "what was refused is not tried all the time"
            place.caddy.stop()
            await place.caddy.start()
            before = place.adapter._api.writes
            await place.adapter.apply(served)
            assert len(certificates.problems) == 1, "and by another Caddy, anew"
            assert place.adapter._api.writes - before > 3
            assert await place.visit(HOST, "/", "--cacert", str(made.root)) == (200, "hello")


@pytest.fixture
async def place(binary: str, tmp_path: Path) -> AsyncIterator[Shop]:
    """A shop with wildcards from Caddy's own authority."""
    async with shop(binary, tmp_path) as made:
        made.adapter.certificates._wildcards = Wildcards(made.adapter._api, {"module": "internal"})
        yield made


async def test_an_organisations_hosts_share_a_certificate_and_nobody_is_asked(place: Shop) -> None:
    place.caddy.stop()
    tls = {"automation": {"policies": [OWN]}, "certificates": {"automate": ["own.example.test"]}}
    await place.caddy.start({"apps": {"tls": tls}})

    async def both() -> bool:
        return None not in (await place.issuer(), await place.issuer(ZED), await place.issuer("own.example.test"))

    async with upstream("hello") as port:
        first = container(port=port, domains=("www.example.test",))
        made = await place.apply(first, container("z", port=port, org="zed"))
        await eventually(both, "Caddy to have the wildcards")
        assert await place.visit(HOST) == (200, "hello")
        assert place.questions == []
        assert await place.visit("www.example.test") == (200, "hello")
        assert place.questions == ["www.example.test"], "a domain of one's own is had on demand"
        assert await place.issuer("new.nobody.stackpad.test") is None
        assert await place.adapter.in_step()
        assert (await place.adapter.apply(made)).writes == 0
        # An organisation that leaves takes its wildcard with it, and nothing of the operator's.
        made = await place.apply(first, before=made)
        there = await place.caddy.ask("GET", "/config/apps/tls")
        assert there["certificates"]["automate"] == ["own.example.test", "*.acme.stackpad.test"]
        policies = there["automation"]["policies"]
        assert [one.get("@id") for one in policies] == [None, "stackpad-dns", "stackpad-tls"]
        # Somebody moves it behind the one on demand, or takes it away.
        await place.caddy.ask("DELETE", "/id/stackpad-dns")
        await place.caddy.ask("POST", "/config/apps/tls/automation/policies", policies[1])
        assert not await place.adapter.in_step()
        await place.adapter.apply(made)
        assert await place.adapter.in_step()
        # Without the setting, all of it goes.
        place.adapter.certificates._wildcards = Wildcards(place.adapter._api, None)
        assert not await place.adapter.in_step()
        await place.adapter.apply(made)
        there = await place.caddy.ask("GET", "/config/apps/tls")
        assert there["certificates"]["automate"] == ["own.example.test"]
        assert [one.get("@id") for one in there["automation"]["policies"]] == [None, "stackpad-tls"]
        assert await place.visit(HOST) == (200, "hello")


async def test_a_wildcard_of_the_operators_is_his(place: Shop) -> None:
    theirs = {"subjects": ["*.acme.stackpad.test"], "issuers": [{"module": "internal"}]}
    place.caddy.stop()
    tls = {"automation": {"policies": [theirs]}, "certificates": {"automate": ["*.acme.stackpad.test"]}}
    await place.caddy.start({"apps": {"tls": tls}})
    async with upstream("hello") as port:
        made = await place.apply(container(port=port), container("z", port=port, org="zed"))
        there = await place.caddy.ask("GET", "/config/apps/tls")
        assert there["certificates"]["automate"] == ["*.acme.stackpad.test", "*.zed.stackpad.test"]
        assert there["automation"]["policies"][0] == theirs
        assert await place.adapter.in_step()
        later = Caddy(place.settings)
        later.certificates._wildcards = Wildcards(later._api, {"module": "internal"})
        await later.apply(made)
        assert await place.caddy.ask("GET", "/config/apps/tls") == there, "also to an ingress that has just started"
