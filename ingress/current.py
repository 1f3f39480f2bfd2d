"""The table of hosts as it is now: made anew from what runs and who owns what, and kept beyond this process's life."""

from __future__ import annotations

import socket
import time

import structlog

from ingress.following.running import Running
from ingress.metrics import Metrics
from ingress.owners import shared
from ingress.owners.deciding import until_free
from ingress.owners.ledger import merge
from ingress.proving.ownership import Ownership
from ingress.routes import Table
from ingress.settings import Settings
from ingress.tables import table


class Current:
    """The last table of hosts, and the ledger in it on disk and in the cluster's store."""

    def __init__(self, settings: Settings, running: Running, ownership: Ownership, metrics: Metrics) -> None:
        self._base_domain = settings.base_domain
        self._running, self._ownership, self._metrics = running, ownership, metrics
        self.again: float | None = None
        """Seconds after which the table is another one, though nothing else has changed."""
        self._hostname = socket.gethostname().lower()
        self.table = Table()
        self.known: frozenset[str] = frozenset(ownership.served)
        """Hosts for which a certificate may be had; before the first table, those that were served before the start."""
        self._log = structlog.get_logger("ingress")

    def make(self) -> None:
        """Make the table anew."""
        seen = self._running.seen
        containers, now = self._running.containers(), time.time()
        before, ledger = self.table, self._ownership.ledger
        if seen.node:
            self._ownership.share(seen.secret)
            ledger = merge(ledger, shared.read(seen.hosts))
        self.table = table(
            containers,
            ledger,
            base_domain=self._base_domain,
            now=now,
            # An engine that does not answer may have containers we have not heard of.
            heard=seen.heard(ledger.nodes, own=not self._running.view.stale),
            here=seen.node,
            believe=self._ownership.believes,
            nodes={self._hostname, *(node.name for node in seen.nodes.values())},
            last=before.made,
        )
        self._ownership.decide(self.table)
        self.again = until_free(self.table.claims.values(), now)
        self.known = frozenset(host.host for host in self.table.hosts)
        self._metrics.count(self.table)
        for problem in set(self.table.problems) - set(before.problems):
            self._log.warning("not served", container=problem.name, reason=problem.text)

    def unshared(self) -> bool:
        """Whether the store has lost what this ingress knows: nothing else changes when it is wiped."""
        seen = self._running.seen
        return bool(seen.node) and seen.connected and shared.missing(self.table.ledger, seen.hosts)

    async def keep(self) -> None:
        """Have the disk, and the cluster's store, say who owns what; the other control nodes read it there."""
        self._ownership.save()
        seen = self._running.seen
        if seen.node and seen.connected:
            await self._running.fleet.write_hosts(shared.differences(self.table.ledger, seen.hosts, seen.node))
