"""A node with the real driver, state, reconciler and kernel in the test's namespace, and containers in their own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from plugin.docker import protocol
from plugin.docker.driver import NetworkDriver
from plugin.docker.ipam import Ipam
from plugin.docker.ports import PortReservations
from plugin.kernel.reconciler import Reconciler
from plugin.kernel.writer import Kernel
from plugin.settings import Settings
from plugin.state import State
from tests import samples
from tests.netns import PROC, Namespace, ip


@dataclass
class Node:
    """The plugin at work, and the containers it serves."""

    state: State
    reconciler: Reconciler
    driver: NetworkDriver
    containers: list[Namespace] = field(default_factory=list)

    async def network(self, number: int, **changes: Any) -> None:
        """Network ``number`` with an IPv4 and an IPv6 range."""
        body = samples.create_network(number) | {
            "IPv6Data": [{"Pool": f"fd00:{number}::/64", "Gateway": f"fd00:{number}::1/64"}]
        }
        await self.driver.create_network(msgspec.convert(body | changes, protocol.CreateNetwork))

    async def endpoint(self, number: int, net: int) -> dict[str, Any]:
        """An endpoint at host number ``number`` of network ``net``, joined; returns the answer to ``Join``."""
        body = samples.create_endpoint(number, f"10.192.{net}.{number}/24", net=net)
        body["Interface"]["AddressIPv6"] = f"fd00:{net}::{number}/64"
        await self.driver.create_endpoint(msgspec.convert(body, protocol.CreateEndpoint))
        return await self.driver.join(msgspec.convert(samples.join(number, net=net), protocol.Join))

    async def container(self, number: int, net: int) -> Namespace:
        """A container at host number ``number`` of network ``net``, set up as the engine does it."""
        answer = await self.endpoint(number, net)
        container = Namespace()
        self.containers.append(container)
        ip("link", "set", answer["InterfaceName"]["SrcName"], "netns", container.path, "name", "eth0")
        container.run("ip", "addr", "add", f"10.192.{net}.{number}/24", "dev", "eth0")
        container.run("ip", "addr", "add", f"fd00:{net}::{number}/64", "dev", "eth0", "nodad")
        container.run("ip", "link", "set", "eth0", "up")
        container.run("ip", "route", "add", "default", "via", answer["Gateway"])
        return container


@contextlib.asynccontextmanager
async def node(directory: Path) -> AsyncIterator[Node]:
    """A node whose state is in ``directory``; again with the same directory, it is the same node after a restart."""
    async with State(directory / "net.db") as state, Kernel(run=directory, proc=PROC) as kernel:
        reconciler = Reconciler(state, kernel)
        ipam = Ipam(state, Settings(), kernel.routes)
        made = Node(state, reconciler, NetworkDriver(state, ipam, PortReservations(), reconciler, kernel.routes))
        try:
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(reconciler.run())
                await reconciler.ready.wait()
                yield made
                running.cancel()
        finally:
            for container in made.containers:
                container.close()
