"""What there is on the node beside us: its addresses, its way out, the routes a new network must not cover.

Read from the host's ``/proc/net`` and ``/sys/class/net``: the tables there cost a tenth of a netlink dump decoded
in Python, and a node with a thousand networks has a thousand routes. Blocking.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute

from plugin import naming
from plugin.dataplane import FILTER, Element
from plugin.model import IPAddress, IPNet

_RTF_GATEWAY = 0x2
_RTF_REJECT = 0x200
DEFAULT_MTU = 1500


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """``addresses`` are the node's own, at which the outside reaches it; ``uplinks`` the links towards the outside.

    ``mtu`` in bytes is the least of the uplinks'.
    """

    mtu: int
    addresses: frozenset[IPAddress]
    uplink_bridges: frozenset[str]

    @property
    def elements(self) -> frozenset[Element]:
        """The facts as the firewall needs them."""
        return frozenset(
            [Element(FILTER, f"node{address.version}", str(address)) for address in self.addresses]
            + [Element(FILTER, "uplink_bridges", name) for name in self.uplink_bridges]
        )


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the main table to something that is not ours; ``on_link`` without a gateway between."""

    net: IPNet
    device: str
    on_link: bool

    def __str__(self) -> str:
        """How a user would look for it."""
        return f"device {self.device}" if self.on_link else f"a route through device {self.device}"


class Node:
    """Reads the node; ``proc`` is the host's ``/proc``."""

    def __init__(self, proc: Path, sys: Path = Path("/sys/class/net")) -> None:
        self._net = proc / "self/net"
        self._sys = sys
        self._netlink = IPRoute(strict_check=True)

    def close(self) -> None:
        """Give the netlink socket back."""
        self._netlink.close()

    def facts(self) -> NodeFacts:
        """The node as it is now."""
        uplinks = {route.device for route in self._all_routes() if not route.on_link}
        addresses: set[IPAddress] = set()
        for index, name in socket.if_nameindex():
            if name == "lo" or naming.is_ours(name):
                continue
            link = self._sys / name
            # A bridge without a way out is some engine's network, and its ports are that network's.
            if (link / "brport").exists() or ((link / "bridge").exists() and name not in uplinks):
                continue
            for address in self._netlink.get_addr(index=index):
                ip = ipaddress.ip_address(address.get("local") or address.get("address"))
                if not ip.is_link_local and not ip.is_loopback:
                    addresses.add(ip)
        mtus = [mtu for name in uplinks if (mtu := self._mtu(name))]
        bridges = (name for name in uplinks if (self._sys / name / "bridge").exists())
        return NodeFacts(min(mtus, default=DEFAULT_MTU), frozenset(addresses), frozenset(bridges))

    def routes(self) -> list[Route]:
        """Routes that are neither ours nor a default route."""
        return [route for route in self._all_routes() if route.net.prefixlen]

    def _mtu(self, name: str) -> int:
        try:
            return int((self._sys / name / "mtu").read_text())
        except (OSError, ValueError):
            return 0

    def _all_routes(self) -> Iterator[Route]:
        for line in self._lines("route")[1:]:
            if line.startswith(naming.BRIDGE_PREFIX):
                continue
            device, destination, _, flags, _, _, _, mask, *_ = line.split()
            if int(flags, 16) & _RTF_REJECT:
                continue
            # Both are printed as the integer that the four bytes in network order make on this machine.
            prefix = int(mask, 16).bit_count()
            packed = int(destination, 16).to_bytes(4, "little")
            net: IPNet = ipaddress.IPv4Network((packed, prefix))
            yield Route(net, device, on_link=not int(flags, 16) & _RTF_GATEWAY)
        for line in self._lines("ipv6_route"):
            destination, prefix_text, *_, flags, device = line.split()
            if device == "lo" or device.startswith(naming.BRIDGE_PREFIX):
                continue
            net = ipaddress.IPv6Network((bytes.fromhex(destination), int(prefix_text, 16)))
            if net.is_link_local or net.is_multicast or int(flags, 16) & _RTF_REJECT:
                continue
            if net.prefixlen == 128:
                continue  # the node's own address, in the local table
            yield Route(net, device, on_link=not int(flags, 16) & _RTF_GATEWAY)

    def _lines(self, table: str) -> list[str]:
        try:
            return (self._net / table).read_text().splitlines()
        except FileNotFoundError:
            return []  # a kernel without IPv6
