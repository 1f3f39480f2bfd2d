"""How large packets may be in the tunnel: what the path to each peer lets through."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Mapping

from plugin.kernel.writer import Kernel
from plugin.model import IPNet
from plugin.store import mesh
from plugin.store.mesh import MeshPlan
from plugin.wireguard.model import Observed

MEASURE = 30.0
"""Seconds between two looks at the paths' MTUs."""


class Paths:
    """MTUs as last looked up; ``mtus`` has each peer's by its public key, in bytes within the tunnel."""

    def __init__(self, kernel: Kernel) -> None:
        self.mtus: Mapping[str, int] = {}
        self._kernel = kernel
        self._found: dict[str, int] = {}
        self._measured = 0.0

    def moved(self) -> None:
        """Peers are called elsewhere: look again at once."""
        self._measured = 0.0

    async def measure(self, observed: Observed) -> None:
        """Look the paths to all peers up, now and then; raises :class:`stackpad.errors.StackpadError`."""
        if time.monotonic() - self._measured < MEASURE:
            return
        self._measured = time.monotonic()
        endpoints = {
            key: ipaddress.ip_address(state.endpoint[0])
            for key, state in observed.peers.items()
            if state.endpoint is not None
        }
        found = await self._kernel.path_mtus(set(endpoints.values()))
        self._found = {key: mesh.mtu(found[address]) for key, address in endpoints.items() if address in found}

    def by_range(self, plan: MeshPlan, whole: int) -> dict[IPNet, int]:
        """The MTU of each route into the tunnel, ``whole`` where nothing makes it less."""
        self.mtus = {key: min(whole, self._found.get(key, whole), peer.mtu or whole) for key, peer in plan.peers.items()}
        mtus = dict.fromkeys(plan.routes, whole)
        for key, peer in plan.peers.items():
            mtus.update(dict.fromkeys(peer.allowed, self.mtus[key]))
        return mtus
