"""The clock of the day jumps under an ingress that runs: nobody who is served notices, and names change hands as before.

Of the ingress alone: Caddy, as every program in Go, keeps the machine's clock.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import aiohttp

from tests import clock
from tests.bench.engine import host
from tests.bench.site import Site, site
from tests.clock import HOUR, Adjustable
from tests.load import Load, browser

pytestmark = clock.needed

DOMAIN = "www.example.org"


async def told(there: Site, path: str, body: object = None) -> Any:
    """What the ingress answers on its socket."""
    connector = aiohttp.UnixConnector(str(there.home / "ingress.sock"))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.request("GET" if body is None else "POST", f"http://ingress{path}", data=json.dumps(body)) as answer,
    ):
        return json.loads(await answer.read())


async def comes_to(there: Site, name: str, status: int) -> None:
    """Return when somebody who asks anew for a host's page is answered so; a refused handshake is 0."""
    found = -1
    for _ in range(600):
        async with browser(keep=False) as session:
            try:
                async with session.get(f"https://{name}:{there.https}/") as answer:
                    found = answer.status
            except aiohttp.ClientError:
                found = 0
        if found == status:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{name}: {found}, not {status}")


async def test_the_clock_of_the_day_jumps(binary: str, tmp_path: Path) -> None:
    times = Adjustable.made(tmp_path)
    (tmp_path / "site").mkdir()
    async with site(tmp_path / "site", binary, times) as there:
        await there.hold(1)
        (made,) = there.engine.add([1], domains=DOMAIN)
        there.engine.tell(made, "start")
        await comes_to(there, host(1), 200)
        await told(there, "/domain/allow", {"domain": DOMAIN})
        await comes_to(there, DOMAIN, 200)
        before = await told(there, "/domains")
        names = {one["domain"] for one in before}
        assert names == {DOMAIN, host(0), host(1)}
        load = Load(f"https://{DOMAIN}:{there.https}/")
        async with load.going_on():
            for number, ahead in enumerate((HOUR, -HOUR, 0), 2):
                failed = len(load.failures)
                times.set(ahead)
                await load.some_more()
                assert load.failures[failed:] == [], "it is the jump alone so far"
                (made,) = there.engine.add([number])
                there.engine.tell(made, "start")
                await comes_to(there, host(number), 200)  # Caddy has asked whether to have a certificate for it
                routes = (await told(there, "/routes"))["routes"]
                (since,) = [one["since"] for one in routes if one["host"] == host(number)]
                assert abs(since - ahead - time.time()) < HOUR / 4, "it has jumped"
                there.engine.remove([made])
                await comes_to(there, host(number), 404)
                await load.some_more()
                after = [one for one in await told(there, "/domains") if one["domain"] in names]
                assert after == before, "claims and proofs are as they were"
        # A connection that is made just as Caddy's configuration changes may be reset; see the limits in docs/ingress.md.
        assert [one for one in load.failures if "ConnectionResetError(104" not in one] == []
        assert {status for status, _ in load.seen} == {200}
        assert (await told(there, "/routes"))["problems"] == []
