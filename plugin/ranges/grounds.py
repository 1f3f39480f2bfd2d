"""Which ranges may be a network's, here or on another node; pure.

A network takes its range away from the node, and in a cluster from all nodes: what was the internet is a container then,
and what WireGuard sends to another node goes into its own tunnel. So a range is a private one, unless the operator says
otherwise, and has no address in it that the node itself needs. It is asked where a network is made, and again by each
node that reads of one: a record in the store says what its writer wants.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache

from plugin.model import IPAddress, IPNet, ip_network

PRIVATE: tuple[IPNet, ...] = tuple(
    map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"))
)
"""What nobody is reached at in the internet: RFC 1918, RFC 6598 (carriers' own), RFC 4193."""

SETTING = "NETWORK_RANGES"
"""The setting that allows more."""

ip_address = lru_cache(maxsize=16384)(ipaddress.ip_address)


class Grounds:
    """What a range is judged by.

    ``allowed`` are the ranges that networks may have beside the private ones. ``needed`` says by address what the node
    has it for. ``outer`` are the same outside of the ``cluster``'s ranges: an address in these is one of the tunnel's,
    or what some node says of itself.
    """

    def __init__(
        self,
        allowed: Iterable[IPNet] = (),
        needed: Mapping[IPAddress, str] | None = None,
        outer: Mapping[IPAddress, str] | None = None,
        cluster: Iterable[IPNet] = (),
    ) -> None:
        inner = tuple(cluster)
        # As numbers: a node among hundreds asks about all their ranges whenever it looks at its tunnel.
        self._allowed = [(net.version, *_bounds(net)) for net in (*inner, *PRIVATE, *allowed)]
        beyond = {ip: what for ip, what in (outer or {}).items() if not any(_holds(net, ip) for net in inner)}
        self.needed: Mapping[IPAddress, str] = {**beyond, **(needed or {})}

    @cached_property
    def _sorted(self) -> Mapping[int, list[int]]:
        """The needed addresses of each family as numbers, in order: hundreds of ranges are compared with them."""
        return {version: sorted(int(ip) for ip in self.needed if ip.version == version) for version in (4, 6)}

    def allows(self, net: IPNet) -> bool:
        """Whether ``net`` is a private range, or one that the operator or the cluster has for networks."""
        low, high = _bounds(net)
        return any(net.version == version and first <= low and high <= last for version, first, last in self._allowed)

    def against(self, net: IPNet) -> str:
        """Why ``net`` may not be a network's, with the remedy; empty if it may."""
        family, (low, high) = net.version, _bounds(net)
        if not self.allows(net):
            return (
                f"{net} is no private range (10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10, fc00::/7), and "
                "would take addresses of the internet away; choose one of these with --subnet, or allow it on each node "
                f"with the setting {SETTING}"
            )
        numbers = self._sorted[family]
        place = bisect_left(numbers, low)
        if place == len(numbers) or numbers[place] > high:
            return ""
        address: IPAddress = (ipaddress.IPv4Address if family == 4 else ipaddress.IPv6Address)(numbers[place])
        return f"{net} has {address} in it, {self.needed[address]}; choose another with --subnet"


def _bounds(net: IPNet) -> tuple[int, int]:
    return int(net.network_address), int(net.broadcast_address)


def _holds(net: IPNet, address: IPAddress) -> bool:
    return net.version == address.version and address in net
