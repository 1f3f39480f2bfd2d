"""What there is on the node beside us: its addresses, its way out, the routes a new network must not cover.

Routes are read from the host's ``/proc/net``: a node with a thousand networks has a thousand routes, and the tables
there cost a hundredth of a netlink dump decoded in Python. Blocking.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from plugin import naming
from plugin.kernel.dataplane import FILTER, Element
from plugin.model import IPAddress, IPNet

_RTF_GATEWAY = 0x2
_RTF_REJECT = 0x200
DEFAULT_MTU = 1500


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """``addresses`` are the node's own, at which the outside reaches it; ``uplinks`` the links towards the outside.

    ``mtu`` in bytes is the least of the uplinks'. ``gateways`` are the routers that the node sends to.
    """

    mtu: int
    addresses: frozenset[IPAddress]
    uplink_bridges: frozenset[str]
    gateways: frozenset[IPAddress] = frozenset()

    @property
    def elements(self) -> frozenset[Element]:
        """The facts as the firewall needs them."""
        return frozenset(
            [Element(FILTER, f"node{address.version}", str(address)) for address in self.addresses]
            + [Element(FILTER, "uplink_bridges", name) for name in self.uplink_bridges]
        )


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the main table to something that is not ours; ``on_link`` without a ``gateway`` between."""

    net: IPNet
    device: str
    on_link: bool
    gateway: IPAddress | None = None

    def __str__(self) -> str:
        """How a user would look for it."""
        return f"device {self.device}" if self.on_link else f"a route through device {self.device}"


class Node:
    """Reads the node; ``proc`` is the host's ``/proc``."""

    def __init__(self, proc: Path) -> None:
        self._net = proc / "thread-self/net"
        self._netlink = IPRoute(strict_check=True)

    def close(self) -> None:
        """Give the netlink socket back."""
        self._netlink.close()

    def facts(self) -> NodeFacts:
        """The node as it is now."""
        # A default route without a gateway is that of PPP, or of a cloud that routes a single address.
        routes = list(self._all_routes())
        uplinks = {route.device for route in routes if not (route.on_link and route.net.prefixlen)}
        gateways = frozenset(route.gateway for route in routes if route.gateway is not None)
        addresses: set[IPAddress] = set()
        mtus: set[int] = set()
        bridges: set[str] = set()
        for index, name in socket.if_nameindex():
            if name == "lo" or naming.is_ours(name):
                continue
            link = self._link(index)
            is_bridge = link.get(("linkinfo", "kind")) == "bridge"
            # A bridge without a way out is some engine's network, and a bridge's port has no address of its own.
            if not link or link.get("master") or (is_bridge and name not in uplinks):
                continue
            if name in uplinks:
                mtus.add(link.get("mtu"))
                bridges.update([name] if is_bridge else [])
            addresses.update(self._addresses(index))
        return NodeFacts(min(mtus, default=DEFAULT_MTU), frozenset(addresses), frozenset(bridges), gateways)

    def routes(self) -> list[Route]:
        """Routes that are neither ours nor a default route."""
        return [route for route in self._all_routes() if route.net.prefixlen]

    def _link(self, index: int) -> Any:
        try:
            return self._netlink.link("get", index=index)[0]
        except NetlinkError:
            return {}  # gone since it was listed

    def _addresses(self, index: int) -> Iterator[IPAddress]:
        for address in self._netlink.get_addr(index=index):
            ip = ipaddress.ip_address(address.get("local") or address.get("address"))
            if not ip.is_link_local and not ip.is_loopback:
                yield ip

    def _all_routes(self) -> Iterator[Route]:
        for line in self._lines("route")[1:]:
            if line.startswith(naming.BRIDGE_PREFIX):
                continue
            device, destination, hop, flags, _, _, _, mask, *_ = line.split()
            if int(flags, 16) & _RTF_REJECT:
                continue
            # Both are printed as the integer that the four bytes in network order make on this machine.
            prefix = int(mask, 16).bit_count()
            net: IPNet = ipaddress.IPv4Network((_packed(destination), prefix))
            gateway = ipaddress.IPv4Address(_packed(hop)) if int(flags, 16) & _RTF_GATEWAY else None
            yield Route(net, device, gateway is None, gateway)
        for line in self._lines("ipv6_route"):
            destination, prefix_text, _, _, hop, *_, flags, device = line.split()
            if device == "lo" or device.startswith(naming.BRIDGE_PREFIX):
                continue
            net = ipaddress.IPv6Network((bytes.fromhex(destination), int(prefix_text, 16)))
            if net.is_link_local or net.is_multicast or int(flags, 16) & _RTF_REJECT:
                continue
            if net.prefixlen == 128:
                continue  # the node's own address, in the local table
            gateway6 = ipaddress.IPv6Address(bytes.fromhex(hop)) if int(flags, 16) & _RTF_GATEWAY else None
            yield Route(net, device, gateway6 is None, gateway6)

    def _lines(self, table: str) -> list[str]:
        try:
            return (self._net / table).read_text().splitlines()
        except FileNotFoundError:
            return []  # a kernel without IPv6


def _packed(text: str) -> bytes:
    """The address of a line of ``/proc/net/route``."""
    return int(text, 16).to_bytes(4, "little")
