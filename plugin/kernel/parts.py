"""What the kernel should hold: each part from the state and what the cluster adds, and what is wanted beside the parts.

A part is a network or a stable upstream, and has a key: a network's id, or ``upstream 20001``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from plugin import upstreams
from plugin.kernel import leading
from plugin.kernel.dataplane import EMPTY, Dataplane, Element, desired
from plugin.kernel.node import NodeFacts
from plugin.kernel.overlay import Overlay
from plugin.model import IPNet
from plugin.state import State
from stackpad.prefixes import Prefixes

UPSTREAM = "upstream "
"""What the key of a part begins with that is a stable upstream; a network's id has no space in it."""


class Parts:
    """Reads the state whenever it is asked; ``lost`` says whose veth pair is gone and gets no new one."""

    def __init__(self, state: State, lost: Callable[[], Collection[str]]) -> None:
        self.facts = NodeFacts(1500, frozenset(), frozenset())
        """What there is on the node, as last observed."""
        self._state, self._lost = state, lost
        self._overlay = Overlay()
        self._beyond = Prefixes()
        self._beside: dict[str, frozenset[Element]] = {}

    def take_over(self, given: Overlay) -> tuple[list[str], bool]:
        """Take over what the cluster says now; the parts that it changes, and whether it changes what is in common."""
        before, self._overlay = self._overlay, given
        parts = [
            network_id
            for network_id in self._state.networks
            if before.mtu != given.mtu or before.parts(network_id) != given.parts(network_id)
        ]
        if before.beyond != given.beyond:
            self._beyond = Prefixes(given.beyond)
            parts += self.upstreams_on("")
        return parts, before.elements != given.elements

    def set_beside(self, what: str, elements: frozenset[Element]) -> bool:
        """Want ``elements`` instead of what was given as ``what`` before; whether that is a change."""
        changed = self._beside.get(what, frozenset()) != elements
        self._beside[what] = elements
        return changed

    @property
    def common(self) -> frozenset[Element]:
        """What is wanted beside the parts."""
        return self.facts.elements | self._overlay.elements | frozenset().union(*self._beside.values())

    @property
    def mtu(self) -> int:
        """What a container gets whose network names no MTU, in bytes: what fits the uplinks and the tunnel."""
        uplinks, tunnel = self.facts.mtu, self._overlay.mtu
        return uplinks - self._overlay.overhead if tunnel is None else min(uplinks, tunnel)

    def remote(self, network_id: str) -> frozenset[IPNet]:
        """Other nodes' ranges that the firewall lets a network's containers reach, and be reached from."""
        return self._overlay.remote.get(network_id, frozenset())

    def upstreams_on(self, network_id: str) -> Iterator[str]:
        """Keys of the upstreams with containers on a network; none (``""``): beyond this node."""
        return map(upstream_key, self._state.upstreams_on(network_id))

    def all(self, networks: Iterable[str]) -> dict[str, Dataplane]:
        """Those of ``networks``, by id, and of all stable upstreams."""
        return {key: self.part(key) for key in (*networks, *map(upstream_key, self._state.upstreams))}

    def part(self, key: str) -> Dataplane:
        """What one should be; ``EMPTY`` itself for one that the state does not have any more."""
        if key.startswith(UPSTREAM):
            return self._upstream(int(key.removeprefix(UPSTREAM)))
        network = self._state.networks.get(key)
        if network is None:
            return EMPTY
        endpoints = self._state.endpoints_of(network.id)
        remote, barred = self._overlay.known(network.id), bool(self._overlay.barred.get(network.id))
        return desired(network, endpoints, uplink_mtu=self.mtu, lost=self._lost(), remote=remote, barred=barred)

    def _upstream(self, number: int) -> Dataplane:
        targets = self._state.upstreams.get(number)
        if targets is None:
            return EMPTY
        there, lost = upstreams.reachable(targets, self._state.endpoints, self._beyond.__contains__), self._lost()
        return Dataplane(elements=leading.elements(number, [t for t in there if t.endpoint not in lost]))


def upstream_key(number: int) -> str:
    """The key of a stable upstream among the parts."""
    return f"{UPSTREAM}{number}"
