"""What the cluster adds to what this node's state says; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from plugin.kernel.dataplane import Element
from plugin.model import IPNet


@dataclass(frozen=True, slots=True)
class Overlay:
    """What the cluster adds to the state: firewall elements, other nodes' ranges by network id, and the tunnel's MTU.

    ``beyond`` are the ranges of all networks of other nodes, also of those this node has no part of. Until the MTU is
    known, ``overhead`` is what the tunnel takes from the uplinks' (bytes). ``barred``, by network id, are ranges that its
    containers would be at, were they not refused here: they do not lead into the tunnel, and are to lead nowhere else.
    """

    elements: frozenset[Element] = frozenset()
    remote: Mapping[str, frozenset[IPNet]] = field(default_factory=dict)
    beyond: frozenset[IPNet] = frozenset()
    mtu: int | None = None
    overhead: int = 0
    barred: Mapping[str, frozenset[IPNet]] = field(default_factory=dict)

    def parts(self, network_id: str) -> tuple[frozenset[IPNet] | None, frozenset[IPNet] | None]:
        """All that the rules have of it for a network."""
        return self.remote.get(network_id), self.barred.get(network_id)

    def known(self, network_id: str) -> frozenset[IPNet]:
        """The ranges that the rules know as other nodes' parts of a network: they are left for by the tunnel only."""
        return self.remote.get(network_id, frozenset()) | self.barred.get(network_id, frozenset())
