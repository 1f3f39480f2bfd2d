"""The tunnel's addresses and routes, through rtnetlink; the link itself is made by :mod:`plugin.wireguard`.

Other nodes' ranges are routed *on-link* over the tunnel: Docker's own IPAM keeps clear of on-link routes, so that it
never chooses a range that another node has. Beneath them lie routes that say "unreachable", for the cluster's ranges and
for claimed ones outside of these: while the tunnel's link is missing, nothing of a tenant may leave by the default
route instead, in clear.

All of it is recognised by its route protocol number (rtnetlink(7), ``RTA_PROTOCOL``), and a route of another protocol is
neither replaced nor deleted: where there is one to the same destination, ours is refused. Blocking, for the kernel's
thread.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from plugin.model import IPAddress, IPNet, ip_network
from plugin.naming import MESH_LINK, RESOLVERS
from stackpad.errors import Unavailable

PROTOCOL = 0x53
"""Our number in ``/etc/iproute2/rt_protos``' range for local use."""

_LINK_SCOPE = 253
_UNREACHABLE = 7
_LAST_METRIC = 2**31
_GONE = {errno.ENODEV, errno.ESRCH, errno.ENOENT, errno.EADDRNOTAVAIL, errno.ENXIO}
_IPV6_OFF = Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(frozen=True, slots=True)
class Tunnel:
    """``routes`` are ranges beyond the tunnel with the MTU of the path there (bytes); ``fenced`` never leave in clear.

    ``loopback`` are addresses on the node's loopback: the resolver's, and the node's own in the tunnel. They are there
    as well so that what the node says to itself at them, as etcd does, goes on while the tunnel's link is made anew.
    """

    mtu: int = 1420
    addresses: frozenset[IPAddress] = frozenset()
    routes: Mapping[IPNet, int] = field(default_factory=dict)
    fenced: frozenset[IPNet] = frozenset()
    loopback: frozenset[IPAddress] = frozenset()


class TunnelLink:
    """Reads and writes them."""

    def __init__(self) -> None:
        self._netlink = IPRoute(strict_check=True)

    def close(self) -> None:
        """Give the netlink socket back."""
        self._netlink.close()

    def observe(self) -> Tunnel:
        """What of ours is there now."""
        index = _index(MESH_LINK)
        routes: dict[IPNet, int] = {}
        fenced: set[IPNet] = set()
        for version, family in _FAMILY.items():
            for route in self._routes(family):
                destination = route.get("dst")
                if destination is None:
                    continue
                net = ip_network(f"{destination}/{route['dst_len']}")
                if net.version != version:
                    continue
                if route["type"] == _UNREACHABLE:
                    fenced.add(net)
                elif index and route.get("oif") == index:
                    metrics = route.get("metrics")
                    routes[net] = int(metrics.get("mtu") or 0) if metrics else 0
        return Tunnel(
            mtu=self._mtu(index),
            addresses=frozenset(self._addresses(index)) if index else frozenset(),
            routes=routes,
            fenced=frozenset(fenced),
            loopback=frozenset(self._ours(fenced)),
        )

    def apply(self, wanted: Tunnel) -> bool:
        """Make it so; returns whether anything was changed. Raises :class:`Unavailable` with the kernel's reason."""
        there = self.observe()
        if there == wanted:
            return False
        index = _index(MESH_LINK)
        self._fence(wanted, there)
        for address in there.loopback - wanted.loopback:
            self._address("del", _index("lo"), address)
        if index:
            if there.mtu != wanted.mtu:
                self._request(f"set the MTU of {MESH_LINK}", "link", "set", index=index, mtu=wanted.mtu)
            for address in wanted.addresses - there.addresses:
                self._address("replace", index, address)
            for address in there.addresses - wanted.addresses:
                self._address("del", index, address)
            if (there.mtu, there.addresses) != (wanted.mtu, wanted.addresses):
                # The kernel changes IPv6 routes with a link's MTU, and removes IPv4 ones with the address they name.
                there = self.observe()
            for net, mtu in wanted.routes.items():
                if there.routes.get(net) != mtu:
                    source = next((a for a in wanted.addresses if a.version == net.version), None)
                    extra = {"prefsrc": str(source)} if source is not None else {}
                    # Only ours is replaced, which then is the first to its destination; else it must be the only one.
                    verb = "replace" if net in there.routes else "add"
                    self._route(verb, net, oif=index, scope=_LINK_SCOPE, metrics={"mtu": mtu}, **extra)
            for net in there.routes.keys() - wanted.routes.keys():
                self._route("del", net, oif=index, scope=_LINK_SCOPE)
        elif wanted.addresses:
            raise Unavailable(f"there is no link {MESH_LINK}; it is made anew shortly")
        # Last, so that what loses its way through the tunnel meets the fence.
        for net in there.fenced - wanted.fenced:
            self._route("del", net, type="unreachable", priority=_LAST_METRIC)
        return True

    def fence(self, wanted: Tunnel) -> None:
        """Put in place what needs no link: the routes that say "unreachable", and the addresses of the loopback.

        Nothing is taken away. Raises :class:`Unavailable` with the kernel's reason.
        """
        self._fence(wanted, self.observe())

    def _fence(self, wanted: Tunnel, there: Tunnel) -> None:
        for net in wanted.fenced - there.fenced:
            self._route("add", net, type="unreachable", priority=_LAST_METRIC)
        for address in wanted.loopback - there.loopback:
            self._address("add", _index("lo"), address)

    def path_mtus(self, addresses: Iterable[IPAddress]) -> dict[IPAddress, int | None]:
        """The MTU of the route to each address in bytes, as learnt or as its link has it; ``None`` without a route."""
        return {address: self._path_mtu(address) for address in addresses}

    def _path_mtu(self, address: IPAddress) -> int | None:
        try:
            (route, *_) = self._netlink.route("get", dst=str(address), family=_FAMILY[address.version])
            metrics = route.get("metrics")
            learnt = metrics.get("mtu") if metrics else None
            return int(learnt or self._mtu(route.get("oif")))
        except (NetlinkError, ValueError):
            return None

    def _routes(self, family: int) -> Iterable[Any]:
        try:
            return list(self._netlink.get_routes(family=family, proto=PROTOCOL))
        except NetlinkError:
            return []  # a kernel without this family

    def _addresses(self, index: int) -> Iterable[IPAddress]:
        for address in self._netlink.get_addr(index=index):
            ip = ipaddress.ip_address(address.get("local") or address.get("address"))
            if not (ip.is_link_local and ip.version == 6):
                yield ip

    def _ours(self, fenced: Iterable[IPNet]) -> Iterable[IPAddress]:
        """Addresses on the loopback that we put there: an operator may have others."""
        nets, known = list(fenced), resolvers()
        for address in self._addresses(_index("lo")):
            if address in known or any(address.version == net.version and address in net for net in nets):
                yield address

    def _mtu(self, index: int) -> int:
        if not index:
            return 0
        try:
            return int(self._netlink.link("get", index=index)[0].get("mtu"))
        except NetlinkError:
            return 0

    def _address(self, verb: str, index: int, address: IPAddress) -> None:
        extra = {"flags": 0x02} if address.version == 6 else {}  # IFA_F_NODAD: nobody else can have it
        prefix = 32 if address.version == 4 else 128
        what = f"put {address} on a link" if verb != "del" else f"take {address} off a link"
        self._request(what, "addr", verb, index=index, address=str(address), prefixlen=prefix, **extra)

    def _route(self, verb: str, net: IPNet, **extra: Any) -> None:
        what = f"route {net}" if verb != "del" else f"remove the route to {net}"
        family = _FAMILY[net.version]
        self._request(what, "route", verb, dst=str(net), family=family, proto=PROTOCOL, **extra)

    def _request(self, what: str, method: str, verb: str, **arguments: Any) -> None:
        try:
            getattr(self._netlink, method)(verb, **arguments)
        except NetlinkError as error:
            if (error.code == errno.EEXIST and method != "route") or (verb == "del" and error.code in _GONE):
                return
            raise Unavailable(f"the kernel refused to {what}: {error.args[-1]} (errno {error.code})") from error


def resolvers() -> frozenset[IPAddress]:
    """The addresses of the resolver that this kernel can have: without IPv6 there is one."""
    addresses = frozenset(map(ipaddress.ip_address, RESOLVERS))
    # A namespace whose IPv6 is off refuses the address ("permission denied"); a kernel without it has no such file.
    try:
        off = _IPV6_OFF.read_text().strip() != "0"
    except OSError:
        off = True
    return frozenset(address for address in addresses if address.version == 4 or not off)


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0
