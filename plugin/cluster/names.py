"""Keeps the resolver's view in step with the cluster's records and this node's containers.

A change is taken over at the end of the same turn of the event loop, many at once as one, and only the environments it
is about are made anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping

import structlog

from plugin.cluster.cluster import Cluster
from plugin.kernel.tunnel import resolvers
from plugin.model import IPNet
from plugin.resolver import table
from plugin.resolver.forwarder import Forwarder
from plugin.resolver.server import Resolver
from plugin.resolver.zone import View
from plugin.state import State
from plugin.store.mesh import View as ClusterView
from stackpad.errors import Unavailable

AGAIN = 10.0
"""Seconds until the resolver's address is tried again, where somebody else has it."""


class Names:
    """The resolver of this node.

    In no cluster it knows no names, and passes all on, but for containers that have no outside: the engine asks it until
    it has read a ``daemon.json`` without it.
    """

    def __init__(self, cluster: Cluster, state: State, forwarder: Forwarder) -> None:
        self.resolver = Resolver(sorted(map(str, resolvers())), forwarder)
        self.problem = ""
        self._cluster, self._state = cluster, state
        self._scheduled = False
        self._view: View | None = None
        self._alive: frozenset[str] = frozenset()
        self._unreached: Mapping[str, frozenset[IPNet]] = {}
        self._changed: set[str] = set()
        self._log = structlog.get_logger("resolver")

    def touch(self, environments: Iterable[str] = ()) -> None:
        """The cluster's records of ``environments`` have changed, or which nodes live, or this node's containers."""
        self._changed.update(environments)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._update)

    async def run(self) -> None:
        """Serve until cancelled."""
        self.touch()
        while True:
            try:
                await self.resolver.run()
            except* Unavailable as group:
                reason = "; ".join(map(str, group.exceptions))
                if reason != self.problem:
                    self._log.error("no names of other nodes are served", reason=reason)
                self.problem = reason
            await asyncio.sleep(AGAIN)

    def _update(self) -> None:
        self._scheduled = False
        membership = self._cluster.membership
        if membership is None:
            self._view, self._alive, self._unreached = None, frozenset(), {}
            self.resolver.update(table.view(ClusterView(), "", self._own()))
        else:
            cluster = self._cluster.view
            unreached, before = self._cluster.unreached, self._unreached
            others = {node for node in {**unreached, **before} if unreached.get(node) != before.get(node)}
            changed = self._changed | table.of_nodes(cluster, others | (cluster.alive ^ self._alive))
            self._view = table.view(cluster, membership.node, self._own(), self._view, changed, unreached)
            self._alive, self._unreached = cluster.alive, unreached
            self.resolver.update(self._view)
        self._changed = set()

    def _own(self) -> Iterator[table.Own]:
        attached = self._cluster.attachments.by_endpoint
        for endpoint in self._state.endpoints.values():
            network = self._state.networks.get(endpoint.network_id)
            if network is None or not endpoint.sandbox or endpoint.left:
                continue
            attachment = attached.get(endpoint.id)
            # Before the engine has named the container it may ask already; until then it is known by its endpoint.
            container = attachment.container if attachment is not None else endpoint.id
            addresses = tuple(map(str, endpoint.addresses))
            yield table.Own(container, network.environment, addresses, network.internal)
