"""The whole plugin, with a real kernel, etcd and tunnel, while the clock of the day jumps: nothing of it is noticed.

Of the plugin alone: etcd and WireGuard keep the machine's clock, so that what they say is an hour off, too.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests import clock, samples
from tests.clock import HOUR, Adjustable
from tests.fuzz.process import ADMIN, DRIVER, plugin
from tests.fuzz.test_process import begin

_MISSING = [name for name in ("nft", "ip", "etcd", "unshare") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(bool(_MISSING), reason=f"missing: {', '.join(_MISSING)}"),
    clock.needed,
]

OFTEN = "import plugin.app; plugin.app.JANITOR_EVERY = 0.5"
"""What was given away and not taken up is looked for all the time, and has its full grace."""


class Docker:
    """The engine, and a person who looks: calls that have to succeed."""

    def __init__(self, docker: aiohttp.ClientSession, admin: aiohttp.ClientSession) -> None:
        self._docker, self._admin = docker, admin

    async def call(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """A call of the driver."""
        async with self._docker.post(f"http://plugin/{name}", json=body) as answer:
            said = dict(json.loads(await answer.read()))
        assert not said.get("Err"), (name, said)
        return said

    async def see(self, path: str) -> Any:
        """What the plugin says of itself."""
        async with self._admin.get(f"http://plugin/{path}") as answer:
            return json.loads(await answer.read())

    async def token(self) -> float:
        """Until when a token is good that is made now."""
        async with self._admin.post("http://plugin/node/token", json={"lifetime": HOUR}) as answer:
            assert answer.status == 200, await answer.read()
            return float(json.loads(await answer.read())["expires"])

    async def collected(self) -> None:
        """Return when the janitor has been through twice."""

        enough = await self._rounds() + 2
        for _ in range(600):
            if await self._rounds() >= enough:
                return
            await asyncio.sleep(0.1)
        raise AssertionError("the janitor does not come round")

    async def _rounds(self) -> float:
        async with self._admin.get("http://plugin/metrics") as answer:
            (found,) = re.findall(r"^stackpad_janitor_runs_total (\S+)$", await answer.text(), re.MULTILINE)
        return float(found)

    async def reserve(self, number: int) -> None:
        """The first half of what Docker asks for, for a container on a new network."""
        await self.call("IpamDriver.RequestPool", {"Pool": f"10.192.{number}.0/24"})
        await self._address(number, 1, {"RequestAddressType": "com.docker.network.gateway"})

    async def _address(self, number: int, host: int, options: dict[str, str] | None = None) -> None:
        net = f"10.192.{number}"
        body = {"PoolID": f"stackpad/{net}.0/24", "Address": f"{net}.{host}", "Options": options}
        await self.call("IpamDriver.RequestAddress", body)

    async def use(self, number: int) -> None:
        """The second half."""
        await self.call("NetworkDriver.CreateNetwork", samples.create_network(number))
        await self._address(number, 2)
        endpoint = {**samples.create_endpoint(2, f"10.192.{number}.2/24"), **ids(number)}
        await self.call("NetworkDriver.CreateEndpoint", endpoint)
        await self.call("NetworkDriver.Join", {**samples.join(2), **ids(number)})

    async def end(self, number: int) -> None:
        """All of it goes again."""
        for name in ("Leave", "DeleteEndpoint"):
            await self.call(f"NetworkDriver.{name}", ids(number))
        pool = f"stackpad/10.192.{number}.0/24"
        for host in (2, 1):
            await self.call("IpamDriver.ReleaseAddress", {"PoolID": pool, "Address": f"10.192.{number}.{host}"})
        await self.call("IpamDriver.ReleasePool", {"PoolID": pool})
        await self.call("NetworkDriver.DeleteNetwork", ids(number))

    async def is_well(self) -> None:
        """Fail unless everything is as it should be."""
        status, cluster = await self.see("status"), await self.see("cluster")
        assert (status["ready"], status["problems"]) == (True, [])
        assert (cluster["store"]["connected"], cluster["problems"]) == (True, [])
        assert [(node["name"], node["alive"]) for node in cluster["nodes"]] == [("first", True)]


def ids(number: int) -> dict[str, str]:
    """A network and its endpoint."""
    return {"NetworkID": samples.network_id(number), "EndpointID": samples.endpoint_id(number)}


async def test_the_clock_of_the_day_jumps(tmp_path: Path) -> None:
    times = Adjustable.made(tmp_path)
    with plugin(tmp_path, python=times.module("plugin", OFTEN), **times.environment) as process:
        async with process.session(DRIVER) as driver, process.session(ADMIN) as admin:
            docker = Docker(driver, admin)
            await begin(admin)
            await docker.reserve(1)
            await docker.use(1)
            links = process.census().links
            for number, ahead in enumerate((HOUR, -HOUR, 0), 2):
                await docker.reserve(number)
                times.set(ahead)
                assert await docker.token() - HOUR - ahead == pytest.approx(time.time(), abs=HOUR / 4), "it has jumped"
                await docker.collected()
                # What was under way goes on as if nothing had been, and what is new is made and goes.
                await docker.use(number)
                await docker.is_well()
                await docker.end(number)
                await docker.collected()
                assert process.census().links == links
            await docker.end(1)
            assert (await docker.see("status"))["networks"] == 0
        assert process.process.poll() is None, process.words()
    assert process.process.returncode == 0, process.words()
    assert "Traceback" not in process.words()
