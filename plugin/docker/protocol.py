"""The wire format of Docker's remote network and IPAM drivers.

One struct per request, with the protocol's own key names. Keys we do not know are passed over: every engine
release adds some. Sources: moby ``daemon/libnetwork/drivers/remote/api/api.go`` and
``daemon/libnetwork/ipams/remote/api/api.go``, engines 20.10 to 29.
"""

from __future__ import annotations

from typing import Any

import msgspec

GENERIC = "com.docker.network.generic"
ENABLE_IPV4 = "com.docker.network.enable_ipv4"
ENABLE_IPV6 = "com.docker.network.enable_ipv6"
INTERNAL = "com.docker.network.internal"
MTU = "com.docker.network.driver.mtu"
PORT_MAP = "com.docker.network.portmap"
GATEWAY_REQUEST = "com.docker.network.gateway"
REQUEST_TYPE = "RequestAddressType"

NETWORK_DRIVER = "NetworkDriver"
IPAM_DRIVER = "IpamDriver"


class Request(msgspec.Struct, rename="pascal", frozen=True, kw_only=True):
    """Base of all requests: keys are in Pascal case."""


class IPAMData(Request, frozen=True, kw_only=True):
    """One address range of a network; ``gateway`` and ``pool`` in CIDR form."""

    pool: str = ""
    gateway: str = ""
    address_space: str = ""
    aux_addresses: dict[str, str] | None = None


class CreateNetwork(Request, frozen=True, kw_only=True):
    """``NetworkDriver.CreateNetwork``; a range list may be ``null``."""

    network_id: str = msgspec.field(name="NetworkID")
    options: dict[str, Any] | None = None
    ipv4_data: list[IPAMData] | None = msgspec.field(name="IPv4Data", default=None)
    ipv6_data: list[IPAMData] | None = msgspec.field(name="IPv6Data", default=None)


class NetworkRef(Request, frozen=True, kw_only=True):
    """``DeleteNetwork``, ``FreeNetwork``."""

    network_id: str = msgspec.field(name="NetworkID")


class EndpointInterface(Request, frozen=True, kw_only=True):
    """Addresses in CIDR form, ``""`` for not set."""

    address: str = ""
    address_ipv6: str = msgspec.field(name="AddressIPv6", default="")
    mac_address: str = ""


class CreateEndpoint(Request, frozen=True, kw_only=True):
    """``NetworkDriver.CreateEndpoint``."""

    network_id: str = msgspec.field(name="NetworkID")
    endpoint_id: str = msgspec.field(name="EndpointID")
    interface: EndpointInterface | None = None
    options: dict[str, Any] | None = None


class EndpointRef(Request, frozen=True, kw_only=True):
    """``DeleteEndpoint``, ``Leave``, ``EndpointOperInfo``, ``RevokeExternalConnectivity``."""

    network_id: str = msgspec.field(name="NetworkID")
    endpoint_id: str = msgspec.field(name="EndpointID")


class Join(EndpointRef, frozen=True, kw_only=True):
    """``NetworkDriver.Join``."""

    sandbox_key: str
    options: dict[str, Any] | None = None


class ProgramExternalConnectivity(EndpointRef, frozen=True, kw_only=True):
    """``NetworkDriver.ProgramExternalConnectivity``."""

    options: dict[str, Any] | None = None


class PortBinding(Request, frozen=True, kw_only=True):
    """One entry of the ``portmap`` option. ``proto`` is the IP protocol number; ports 0 mean "choose"."""

    proto: int
    port: int
    host_ip: str = msgspec.field(name="HostIP", default="")
    host_port: int = 0
    host_port_end: int = 0


class RequestPool(Request, frozen=True, kw_only=True):
    """``IpamDriver.RequestPool``; an empty ``pool`` asks us to choose."""

    address_space: str = ""
    pool: str = ""
    sub_pool: str = ""
    options: dict[str, str] | None = None
    v6: bool = msgspec.field(name="V6", default=False)


class ReleasePool(Request, frozen=True, kw_only=True):
    """``IpamDriver.ReleasePool``."""

    pool_id: str = msgspec.field(name="PoolID")


class RequestAddress(Request, frozen=True, kw_only=True):
    """``IpamDriver.RequestAddress``; an empty ``address`` asks us to choose."""

    pool_id: str = msgspec.field(name="PoolID")
    address: str = ""
    options: dict[str, str] | None = None


class ReleaseAddress(Request, frozen=True, kw_only=True):
    """``IpamDriver.ReleaseAddress``; ``address`` has no prefix length."""

    pool_id: str = msgspec.field(name="PoolID")
    address: str
