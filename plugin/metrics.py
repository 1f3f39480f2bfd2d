"""What the plugin counts, for Prometheus; one registry, handed in, no globals.

No label has a network's or a container's name: a node with a thousand of them would have a thousand series.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from plugin import steady
from plugin.cluster import Cluster
from plugin.names import Names
from plugin.reconciler import Reconciler
from plugin.state import State
from plugin.wireguard.model import STALE

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

    def watch(self, state: State, reconciler: Reconciler) -> None:
        """Report sizes and repairs as they are when asked."""
        self.registry.register(_Sizes(state, reconciler))

    def watch_cluster(self, cluster: Cluster, names: Names) -> None:
        """Report the cluster as this node sees it, and what the resolver has done."""
        self.registry.register(_Cluster(cluster, names))

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _Cluster(Collector):
    def __init__(self, cluster: Cluster, names: Names) -> None:
        self._cluster, self._names = cluster, names

    def collect(self) -> Iterator[Metric]:
        cluster, counts = self._cluster, self._names.resolver.counts
        view, observed = cluster.view, cluster.mesh.observed
        peers = observed.peers.values() if observed is not None else ()
        fresh = sum(steady.now() - peer.last_handshake < STALE for peer in peers)
        gauges = {
            "cluster_nodes": (len(view.nodes), "Nodes of the cluster"),
            "cluster_nodes_alive": (len(view.alive), "Nodes that give a sign of life"),
            "cluster_store_connected": (cluster.store is not None and cluster.store.connected.is_set(), "Store answers"),
            "mesh_peers": (len(peers), "Peers of the tunnel"),
            "mesh_peers_fresh": (fresh, "Peers with a handshake younger than three minutes"),
        }
        for name, (value, text) in gauges.items():
            yield GaugeMetricFamily(f"stackpad_{name}", text, value=float(value))
        totals = {
            "queries": counts.queries,
            "answered": counts.answered,
            "forwarded": counts.forwarded,
            "refused": counts.refused,
            "dropped": counts.dropped,
        }
        for name, value in totals.items():
            yield CounterMetricFamily(f"stackpad_dns_{name}", f"Questions to the resolver: {name}", value=value)


class _Sizes(Collector):
    def __init__(self, state: State, reconciler: Reconciler) -> None:
        self._state, self._reconciler = state, reconciler

    def collect(self) -> Iterator[Metric]:
        sizes = {
            "networks": len(self._state.networks),
            "endpoints": len(self._state.endpoints),
            "published_ports": sum(len(e.ports) for e in self._state.endpoints.values()),
            "pools": len(self._state.pools),
            "networks_not_settled": len(self._reconciler.failures),
            "repairs": self._reconciler.repairs,
        }
        for name, value in sizes.items():
            yield GaugeMetricFamily(f"stackpad_{name}", f"Number of {name.replace('_', ' ')}", value=value)
