"""The node's links and addresses, through rtnetlink: what is ours is observed, planned changes are applied.

Blocking, and meant for one thread of its own: a netlink request runs inside ``sendmsg()``, so on the event loop
it would hold up everything else for as long as the kernel takes (rtnetlink(7); deleting a link waits for an RCU
grace period, 15 to 40 ms). For the same reason links to be deleted are only disarmed here (no address, no
master) and moved to the trash group; :class:`Trash`, in another thread, deletes that group in one request.

Every link of ours is in the interface group :data:`~plugin.naming.LINK_GROUP`; nothing else is touched.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable, Iterator
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from plugin import naming
from plugin.kernel.dataplane import WIDEST, Bridge, Dataplane, Plan, Port
from plugin.kernel.switches import Switches
from plugin.model import IPInterface
from stackpad.errors import Unavailable

_NODAD = 0x02
"""``IFA_F_NODAD``: a gateway address is ours by decree and must not be tentative for a second."""

_IFF_UP = 1

_NTF_MASTER, _NUD_NOARP = 0x04, 0x40
"""An entry of the bridge's own table, and one that does not age (linux/neighbour.h)."""

_GONE = {errno.ENODEV, errno.EADDRNOTAVAIL, errno.ENOENT}


class Links:
    """Bridges and veth pairs of this node; ``switches`` are what the kernel's settings of each are made by."""

    def __init__(self, switches: Switches) -> None:
        self._netlink, self._switches = IPRoute(), switches

    def close(self) -> None:
        """Give the netlink socket back."""
        self._netlink.close()

    def observe(self, expected: Iterable[str] = ()) -> Dataplane:
        """Our links as they are, without the trash.

        Those of ``expected`` that a list lacks are asked for one by one: before Linux 6.9 one that is deleted while links
        are listed can hide another, and a container's would be taken for lost, and its address given away.
        """
        links = list(self._netlink.get_links(group=naming.LINK_GROUP))
        links += self._hidden(set(expected).difference(link.get("ifname") for link in links))
        names = {link["index"]: link.get("ifname") for link in links}
        addresses: dict[int, set[IPInterface]] = {}
        for address in self._netlink.get_addr():
            text = address.get("address")
            if address["index"] in names and not text.startswith("fe80:"):
                interface = ipaddress.ip_interface(f"{text}/{address['prefixlen']}")
                addresses.setdefault(address["index"], set()).add(interface)
        bridges: dict[str, Bridge] = {}
        ports: dict[str, Port] = {}
        for link in links:
            name = link.get("ifname")
            if name.startswith(naming.BRIDGE_PREFIX):
                bridges[name] = Bridge(
                    name=name,
                    mac=link.get("address"),
                    mtu=link.get("mtu"),
                    addresses=frozenset(addresses.get(link["index"], ())),
                    ipv6=self._switches.has_ipv6 and self._switches.read(f"ipv6/conf/{name}/disable_ipv6") == "0",
                    loopback=self._switches.read(f"ipv4/conf/{name}/route_localnet") == "1",
                    up=bool(link["flags"] & _IFF_UP),
                    unresolved=self._switches.unresolved(name),
                )
            elif name.startswith(naming.PORT_PREFIX):
                ports[name] = Port(
                    name=name,
                    bridge=names.get(link.get("master"), ""),
                    mtu=link.get("mtu"),
                    up=bool(link["flags"] & _IFF_UP),
                )
        return Dataplane(bridges, ports)

    def _hidden(self, names: Iterable[str]) -> Iterator[Any]:
        """Those of ``names`` that are links of ours."""
        for name in names:
            index = _index(name)
            link = None if index is None else self._link(name, index)
            if link is not None and link.get("group") == naming.LINK_GROUP:
                yield link

    def _link(self, name: str, index: int) -> Any:
        """The one; ``None`` if it has gone by now."""
        try:
            return self._netlink.link("get", index=index)[0]
        except NetlinkError as error:
            if error.code in _GONE:
                return None
            raise Unavailable(f"the kernel refused to show {name}: {error.args[-1]} (errno {error.code})") from error

    def apply(self, plan: Plan) -> None:
        """Make, change and disarm the links of ``plan``.

        Raises :class:`Unavailable` with the kernel's reason; what was done until then stays, and a later
        :meth:`observe` sees it.
        """
        for bridge in plan.new_bridges:
            self._make_bridge(bridge)
        for before, bridge in plan.changed_bridges:
            self._change_bridge(before, bridge)
        for port in plan.new_ports:
            self._make_port(port)
        for port in plan.changed_ports:
            self._change_port(port)

    def discard(self, names: Iterable[str]) -> None:
        """Disarm links and leave them for :class:`Trash`; those that are gone already are passed over."""
        for name in names:
            index = _index(name)
            if index is None:
                continue
            try:
                self._disarm(name, index)
            except Unavailable:
                if _index(name) is not None:
                    raise  # a pair goes by itself with its container, also while we are at it

    def _disarm(self, name: str, index: int) -> None:
        if name.startswith(naming.BRIDGE_PREFIX):
            self._request(f"take the addresses off {name}", "flush_addr", index=index)
        else:
            self._request(f"take {name} off its bridge", "link", "set", index=index, master=0)
        self._request(f"discard {name}", "link", "set", index=index, group=naming.TRASH_GROUP)

    def _clear(self, name: str, peer: str = "") -> None:
        """Delete what is left of an earlier link of this name: in the trash, or with its other end in a container.

        Raises :class:`Unavailable` if the link is somebody else's.
        """
        index = _index(name)
        if index is None:
            return
        link = self._link(name, index)
        if link is None:
            return  # the trash was emptied just now
        group = link.get("group")
        if group not in {naming.LINK_GROUP, naming.TRASH_GROUP}:
            raise Unavailable(f"there is a link {name} that is not ours; remove it (ip link del {name}), then try again")
        if group == naming.TRASH_GROUP or (peer and _index(peer) is None):
            self._request(f"delete the old {name}", "link", "del", index=index)

    def _make_bridge(self, bridge: Bridge) -> None:
        self._clear(bridge.name)
        self._request(
            f"create bridge {bridge.name}",
            "link",
            "add",
            ifname=bridge.name,
            kind="bridge",
            address=bridge.mac,
            mtu=WIDEST,
            group=naming.LINK_GROUP,
            state="up",
            # A bridge without a querier forgets who listens to which group, and neighbour discovery is
            # multicast: flooding is right for a network of this size.
            br_mcast_snooping=0,
        )
        # Only an MTU that is changed after the making stays; otherwise the bridge takes over that of its ports.
        self._request(f"set the MTU of {bridge.name}", "link", "set", index=_index(bridge.name), mtu=bridge.mtu)
        self._switches.configure(bridge, loopback=False, ipv6=True, unresolved=0)
        # Which addresses the node has elsewhere, other networks' gateways among them, is nobody's business here.
        self._switches.write(f"ipv4/conf/{bridge.name}/arp_ignore", "1")
        self._add_addresses(bridge.name, bridge.addresses)

    def _change_bridge(self, before: Bridge, bridge: Bridge) -> None:
        index = _index(bridge.name)
        if index is None:
            raise Unavailable(f"bridge {bridge.name} has gone while it was changed; it is made anew shortly")
        if (before.mac, before.mtu, before.up) != (bridge.mac, bridge.mtu, bridge.up):
            self._request(
                f"change {bridge.name}", "link", "set", index=index, address=bridge.mac, mtu=bridge.mtu, state="up"
            )
        self._switches.configure(bridge, loopback=before.loopback, ipv6=before.ipv6, unresolved=before.unresolved)
        for address in before.addresses - bridge.addresses:
            self._request(
                f"take {address} off {bridge.name}",
                "addr",
                "del",
                index=index,
                address=str(address.ip),
                prefixlen=address.network.prefixlen,
            )
        self._add_addresses(bridge.name, bridge.addresses - before.addresses)

    def _add_addresses(self, name: str, addresses: Iterable[IPInterface]) -> None:
        index = _index(name)
        for address in sorted(addresses, key=lambda interface: interface.version):
            if address.version == 6 and not self._switches.has_ipv6:
                raise Unavailable(f"{name} cannot have {address}: this kernel runs without IPv6; leave --ipv6 out")
            self._request(
                f"put {address} on {name}",
                "addr",
                "replace",
                index=index,
                address=str(address.ip),
                prefixlen=address.network.prefixlen,
                **({"flags": _NODAD} if address.version == 6 else {}),
            )

    def _make_port(self, port: Port) -> None:
        master = _index(port.bridge)
        if master is None:
            raise Unavailable(f"bridge {port.bridge} is not there to take {port.name}; try again")
        self._clear(port.name, port.peer)
        self._request(
            f"create veth pair {port.name}",
            "link",
            "add",
            ifname=port.name,
            kind="veth",
            mtu=port.mtu,
            group=naming.LINK_GROUP,
            master=master,
            state="up",
            peer={"ifname": port.peer, "address": port.mac, "mtu": port.peer_mtu},
        )
        index = _index(port.name)
        # A container that calls itself by a published port: where an engine has bridged packets pass through iptables
        # they are turned round in the bridge, and leave by the port they came in.
        # The bridge is told whose MAC is here, and learns none: it would from frames that pass none of its hooks.
        self._request(f"set {port.name} up", "brport", "set", index=index, mode=1, learning=0)
        self._request(
            f"tell {port.bridge} that {port.mac} is at {port.name}",
            "fdb",
            "replace",  # the one who had the address before may be there still
            ifindex=index,
            lladdr=port.mac,
            flags=_NTF_MASTER,
            state=_NUD_NOARP,
        )
        # The same frames come up here, past the bridge: nobody is at home.
        self._switches.write(f"ipv4/conf/{port.name}/arp_ignore", "8")
        if self._switches.has_ipv6:
            # A bridge port needs no address; without this it would announce one into the container.
            self._switches.write(f"ipv6/conf/{port.name}/disable_ipv6", "1")

    def _change_port(self, port: Port) -> None:
        index, master = _index(port.name), _index(port.bridge)
        if index is None or master is None:
            raise Unavailable(f"{port.name} or its bridge {port.bridge} has gone while it was changed")
        self._request(f"change {port.name}", "link", "set", index=index, master=master, mtu=port.mtu, state="up")

    def _request(self, what: str, method: str, *words: str, **arguments: Any) -> None:
        try:
            getattr(self._netlink, method)(*words, **arguments)
        except NetlinkError as error:
            # EEXIST: an earlier attempt got this far. Gone: a removal that is already done.
            if error.code == errno.EEXIST or (error.code in _GONE and "del" in words):
                return
            raise Unavailable(f"the kernel refused to {what}: {error.args[-1]} (errno {error.code})") from error


class Trash:
    """Deletes discarded links, all in one request; blocking, for a thread of its own."""

    def __init__(self) -> None:
        self._netlink = IPRoute()

    def close(self) -> None:
        """Give the netlink socket back."""
        self._netlink.close()

    def empty(self) -> None:
        """Delete every link in the trash group; raises :class:`Unavailable`."""
        try:
            self._netlink.link("del", group=naming.TRASH_GROUP)
        except NetlinkError as error:
            if error.code not in _GONE:
                raise Unavailable(f"the kernel refused to delete links: {error.args[-1]}") from error


def _index(name: str) -> int | None:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None
