"""The values the plugin reasons about: networks, endpoints, published ports, pools.

Everything here is frozen and free of I/O. Field types are :mod:`ipaddress` objects, so that a malformed
address cannot travel past the border where it was read; :func:`encode` and :func:`decode` are that
border for the durable state.
"""

from __future__ import annotations

import functools
import ipaddress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

import msgspec

from stackpad import jsontext

IPv4 = ipaddress.IPv4Address
IPv6 = ipaddress.IPv6Address
IPv4Interface = ipaddress.IPv4Interface
IPv6Interface = ipaddress.IPv6Interface
IPv4Net = ipaddress.IPv4Network
IPv6Net = ipaddress.IPv6Network
IPAddress = IPv4 | IPv6
IPInterface = IPv4Interface | IPv6Interface
IPNet = IPv4Net | IPv6Net

NetworkID = str
EndpointID = str


ip_network = functools.lru_cache(maxsize=16384)(ipaddress.ip_network)
_interface = functools.lru_cache(maxsize=16384)(ipaddress.ip_interface)
# Parsing text takes microseconds, and every check of a new range against a thousand networks would do it anew.


class Protocol(StrEnum):
    """Transport protocol of a published port, by the name nftables and ``docker -p`` use."""

    TCP = "tcp"
    UDP = "udp"


@dataclass(frozen=True, slots=True)
class Subnet:
    """One address range of a network, and the address its bridge has in it.

    ``gateway`` is ``None`` where the engine gave none (Docker 28+ may leave it out).
    """

    pool: str
    gateway: str | None = None

    @property
    def net(self) -> IPNet:
        """The range as a network object."""
        return ip_network(self.pool)

    @property
    def gateway_interface(self) -> IPInterface | None:
        """The gateway with the range's prefix length, as it is put on the bridge."""
        return None if self.gateway is None else _interface(self.gateway)


@dataclass(frozen=True, slots=True)
class Network:
    """What ``CreateNetwork`` told us, kept because Docker never says it again.

    ``environment`` is empty until it is known: the driver is not told the network's name.
    ``mtu`` in bytes; 0 means "what the node's uplink has". ``reserved`` are addresses the user keeps for
    something else (``--aux-address``).
    """

    id: NetworkID
    subnets: tuple[Subnet, ...]
    internal: bool = False
    egress: bool = True
    ipv6: bool = False
    mtu: int = 0
    environment: str = ""
    bridge: str = ""
    reserved: tuple[str, ...] = ()

    def gateway(self, address: IPAddress) -> IPAddress | None:
        """The gateway of the range that ``address`` lies in, ``None`` without one."""
        for subnet in self.subnets:
            interface = subnet.gateway_interface
            if interface is not None and address in subnet.net:
                return interface.ip
        return None


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """One port of a container made reachable on the node.

    ``host_address`` is the address the user named, or ``None`` for all of the node's.
    """

    protocol: Protocol
    container_port: int
    host_port: int
    host_address: str | None = None

    def __str__(self) -> str:
        """The form ``docker port`` prints: ``0.0.0.0:8080->80/tcp``."""
        host = self.host_address or "*"
        host = f"[{host}]" if ":" in host else host
        return f"{host}:{self.host_port}->{self.container_port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One container's attachment to one network.

    ``sandbox`` is the path of the container's network namespace, empty until ``Join``; from then on there is a
    veth pair. After ``Leave`` (``left``) the pair stays until the endpoint is deleted, because the engine still
    takes its end out of the container, but it is connected to nothing. ``address4`` and ``address6`` carry
    prefix lengths.
    """

    id: EndpointID
    network_id: NetworkID
    mac: str
    address4: str | None = None
    address6: str | None = None
    sandbox: str = ""
    left: bool = False
    ports: tuple[PublishedPort, ...] = field(default=())

    @property
    def ip4(self) -> IPv4 | None:
        """The IPv4 address, without prefix length."""
        return None if self.address4 is None else ipaddress.IPv4Interface(self.address4).ip

    @property
    def ip6(self) -> IPv6 | None:
        """The IPv6 address, without prefix length."""
        return None if self.address6 is None else ipaddress.IPv6Interface(self.address6).ip

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """All addresses, IPv4 first."""
        return tuple(ip for ip in (self.ip4, self.ip6) if ip is not None)


class AddressKind(StrEnum):
    """What an address of a pool was asked for."""

    GATEWAY = "gateway"
    ENDPOINT = "endpoint"


@dataclass(frozen=True, slots=True)
class Pool:
    """An address range handed to Docker by our IPAM driver.

    ``sub_pool`` narrows where addresses are chosen from (``--ip-range``). ``dynamic`` pools were carved by
    us and go back to the node's block; the others were named by a user. ``created`` is Unix time, seconds.
    """

    id: str
    pool: str
    sub_pool: str | None = None
    dynamic: bool = False
    released: bool = False
    created: float = 0.0

    @property
    def net(self) -> IPNet:
        """The range as a network object."""
        return ip_network(self.pool)

    @property
    def range(self) -> IPNet:
        """Where addresses are chosen from."""
        return ip_network(self.sub_pool or self.pool)


@dataclass(frozen=True, slots=True)
class Allocation:
    """One address of a pool that is not free. ``created`` is Unix time, seconds."""

    pool_id: str
    address: str
    kind: AddressKind = AddressKind.ENDPOINT
    created: float = 0.0

    @property
    def ip(self) -> IPAddress:
        """The address as an object."""
        return ipaddress.ip_address(self.address)


Record = TypeVar("Record", Network, Endpoint, Pool, Allocation)


def encode(record: Record) -> bytes:
    """One record as JSON, for the durable state."""
    return msgspec.json.encode(record)


def decode(data: bytes, kind: type[Record]) -> Record:
    """The record :func:`encode` wrote; unknown fields of a newer writer are passed over.

    Raises :class:`msgspec.ValidationError` with the path of what does not fit.
    """
    return jsontext.decode(data, type=kind)
