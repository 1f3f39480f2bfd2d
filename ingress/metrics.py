"""The ingress's numbers for Prometheus; none of them is by host, of which there may be thousands."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ingress.owners.deciding import Standing
from ingress.routes import State, Table

Watched = tuple[str, str, Callable[[], float]]
"""What is looked up whenever somebody asks: its name, what it is, and how."""


class Metrics:
    """A registry of its own, and what is counted as it happens."""

    def __init__(self, watched: Iterable[Watched]) -> None:
        self.registry = CollectorRegistry()
        self.writes = Counter("stackpad_ingress_writes_total", "Writes to Caddy", registry=self.registry)
        self.repairs = Counter("stackpad_ingress_repairs_total", "Times Caddy had lost ours", registry=self.registry)
        self.seconds = Histogram("stackpad_ingress_apply_seconds", "Time of a write", registry=self.registry)
        self._hosts = Gauge("stackpad_ingress_hosts", "Hosts by state", ["state"], registry=self.registry)
        self._asked = Counter("stackpad_ingress_asked_total", "Questions of Caddy", ["answer"], registry=self.registry)
        for name, text, value in watched:
            Gauge(f"stackpad_ingress_{name}", text, registry=self.registry).set_function(value)

    def asked(self, known: bool) -> None:
        """Caddy has asked whether it may have a certificate, and was told so."""
        self._asked.labels("yes" if known else "no").inc()

    def count(self, table: Table) -> None:
        """The hosts of a table, and those that wait for a proof or are forbidden."""
        states = Counts(host.state for host in table.hosts)
        for state in State:
            self._hosts.labels(state).set(states[state])
        for standing in (Standing.UNPROVED, Standing.FORBIDDEN):
            self._hosts.labels(standing).set(sum(one.standing is standing for one in table.waiting))
