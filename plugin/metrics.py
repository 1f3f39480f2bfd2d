"""What the plugin counts, for Prometheus; one registry, handed in, no globals.

No label has a network's or a container's name: a node with a thousand of them would have a thousand series.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)


class Metrics:
    """The plugin's own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._seconds = Histogram(
            "stackpad_driver_call_seconds",
            "Time to answer a call of Docker's",
            ["call", "outcome"],
            registry=self.registry,
            buckets=_BUCKETS,
        )
        self.starts = Gauge("stackpad_start_time_seconds", "When the plugin started", registry=self.registry)
        self.collections = Counter("stackpad_janitor_runs_total", "Rounds of the janitor", registry=self.registry)

    def call(self, method: str, outcome: str, seconds: float) -> None:
        """Count one call; ``outcome`` is ok, refused, failed or timeout."""
        self._seconds.labels(method.lstrip("/"), outcome).observe(seconds)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
