"""Changes this node's key pair while its tunnels are in use; the others' part is :mod:`plugin.tunnel.handover`.

The order on disk makes an end at any point harmless: the next key is written before anybody is told of it, and becomes
the node's key on disk before its record says that it is the only one. A node that starts in between uses the key on
disk, and the others find it under one of the two they know.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from plugin import steady
from plugin.cluster.cluster import Cluster
from plugin.store.loop import REMEMBER
from stackpad import records
from stackpad.errors import Conflict, Unavailable

TOLD = 10.0
"""Seconds for the store to take a record, and for the others to answer under the new key."""

KNOWN = REMEMBER + 1.0
"""Seconds between the announcement and the change: every node that lives has the next key on its disk by then."""

_LOOK = 0.05


@dataclass(frozen=True, slots=True)
class Rotated:
    """Names of living nodes that have not been heard under the new key, and how many tokens name the old one."""

    silent: list[str]
    void: int


class Rotation:
    """``stackpad node rotate-key``."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def run(self, say: Callable[[str], None], *, force: bool = False) -> Rotated:
        """Change the key.

        Raises :class:`Conflict` if nodes are away that could not learn of it, unless ``force`` is set: the store is
        behind this node's tunnel, whose new key they would need to reach it. Raises :class:`Unavailable` if the store
        does not take the record; the key has not changed then.
        """
        async with self._cluster.changing:
            membership, keys = self._cluster.member_of(), self._cluster.keys
            self._cluster.connected_store()
            others = [node for node in self._cluster.view.nodes.values() if node.owner != membership.node]
            away = sorted(node.name for node in others if node.owner not in self._cluster.view.alive)
            if away and self._cluster.member is not None and not force:
                raise Conflict(
                    f"{', '.join(away)} would not find this node again: they are away, and the store, in which they "
                    "would read of the new key, is on this node; start them, remove them (stackpad node rm NAME), or use "
                    "--force and let them join again"
                )
            await asyncio.to_thread(keys.prepare)
            await self._published("the next key was not announced, and the current one stays")
            say(f"announced to {len(others) - len(away)} nodes")
            await asyncio.sleep(KNOWN)
            await asyncio.to_thread(keys.commit)
            void = self._cluster.guests.void()
            since = steady.now()
            await self._published("the new key is used as soon as the store answers")
            say(f"the new public key is {keys.public_keys[0]}")
            return Rotated(await self._silent(others, since), void)

    async def _published(self, otherwise: str) -> None:
        """Wait until the store has the keys as they are now."""
        me, wanted = self._cluster.member_of().node, self._cluster.keys.public_keys
        self._cluster.networks_changed()
        try:
            async with asyncio.timeout(TOLD):
                while True:
                    record = self._cluster.view.nodes.get(me)
                    if record is not None and record.public_keys == wanted:
                        return
                    await asyncio.sleep(_LOOK)
        except TimeoutError as error:
            raise Unavailable(f"the store does not take this node's record: {otherwise}") from error

    async def _silent(self, others: list[records.Node], since: float) -> list[str]:
        """The names of those living nodes that do not come to a handshake in time."""
        end = time.monotonic() + TOLD
        while True:
            alive = self._cluster.view.alive
            waited = [node for node in others if node.owner in alive]
            silent = [node.name for node in waited if self._cluster.mesh.last_handshake(node.public_keys[0]) < since]
            if (not silent and not self._cluster.keys.changing) or time.monotonic() > end:
                return sorted(silent)
            await asyncio.sleep(_LOOK)
            self._cluster.mesh.touch()
