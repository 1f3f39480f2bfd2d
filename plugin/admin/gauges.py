"""What is read from the plugin's objects whenever somebody asks for its metrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from plugin import steady
from plugin.cluster.cluster import Cluster
from plugin.cluster.names import Names
from plugin.kernel.reconciler import Reconciler
from plugin.state import State
from plugin.wireguard.model import STALE


class OfCluster(Collector):
    """The cluster as this node sees it, and what the resolver has done."""

    def __init__(self, cluster: Cluster, names: Names) -> None:
        self._cluster, self._names = cluster, names

    def collect(self) -> Iterator[Metric]:
        """Families of metrics, as they are now."""
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


class OfState(Collector):
    """Sizes of the state, and the reconciler's repairs."""

    def __init__(self, state: State, reconciler: Reconciler) -> None:
        self._state, self._reconciler = state, reconciler

    def collect(self) -> Iterator[Metric]:
        """Families of metrics, as they are now."""
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
