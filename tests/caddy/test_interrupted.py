"""An ingress that ends in the middle of telling Caddy something: what Caddy serves is the old whole or the new whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ingress.caddy.adapter import Caddy
from ingress.routes import Table
from stackpad.errors import Unavailable
from tests.caddy.workshop import HOST, Shop, container, table, upstream
from tests.relay import Relay

MORE = "p0.acme.stackpad.test"


def with_many(port: int, count: int, before: Table | None = None) -> Table:
    """The shop, and so many others."""
    others = (container(f"c{number}", port=port, project=f"p{number}") for number in range(count))
    return table(container(port=port), *others, before=before)


async def told(victim: Caddy, wanted: Table) -> None:
    """As the ingress does; a moment later at the latest it is no more."""
    await victim.apply(wanted)
    await victim.in_step()


async def test_an_ingress_killed_in_mid_write(place: Shop, tmp_path: Path) -> None:
    """What Caddy sees of a death is a connection that ends at some byte; the successor has no memory of it."""
    relay = Relay(tmp_path / "relay.sock", place.settings.caddy_admin)
    victim = Caddy(replace(place.settings, caddy_admin=tmp_path / "relay.sock"))
    try:
        async with upstream("served") as port:
            small, large = with_many(port, 0), with_many(port, 300)
            place.known |= {host.host for host in large.hosts}
            relay.open()
            await victim.apply(small)
            # How many bytes the same change takes.
            before = relay.passed
            await victim.apply(large)
            size = relay.passed - before
            for share in (0.05, 0.5, 0.99, 1.0):
                await Caddy(place.settings).apply(small)
                assert await place.visit(HOST) == (200, "served")
                relay.open()
                relay.limit = relay.passed + int(size * share)
                with pytest.raises(Unavailable):
                    await told(Caddy(replace(place.settings, caddy_admin=tmp_path / "relay.sock")), large)
                assert await place.visit(HOST) == (200, "served"), share
                status, page = await place.visit(MORE)
                assert status in {0, 404} or (status, page) == (200, "served"), share
                successor = Caddy(place.settings)
                assert not (await successor.apply(large)).rejected
                assert await successor.in_step()
                assert await place.visit(HOST) == (200, "served")
                assert await place.visit(MORE) == (200, "served")
    finally:
        relay.cut()
