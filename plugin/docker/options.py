"""From what Docker says in a driver call to the values we keep: strict about ours, deaf to the rest.

Pure. Every refusal is an :class:`~stackpad.errors.InvalidRequest` that names the option, its value and what
would be right. Options of other vocabularies (``com.docker.*``, a Compose file's own) pass unread, unknown ones
of ours do not: a misspelt option that is silently ignored costs its user an evening.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from plugin.docker import protocol
from plugin.model import Network, Protocol, PublishedPort, Subnet
from plugin.naming import bridge_name
from plugin.ranges import addresses
from plugin.ranges.notation import range_of
from stackpad.errors import InvalidRequest, shown

PREFIX = "stackpad."
ENVIRONMENT = "stackpad.environment"
EGRESS = "stackpad.egress"
KNOWN = (ENVIRONMENT, EGRESS)

MIN_MTU, MIN_MTU_IPV6, MAX_MTU = 576, 1280, 65535
"""Least MTU a host must take (RFC 791), least an IPv6 link must have (RFC 8200 §5), most a veth can have."""

_ENVIRONMENT = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?")
_IDENTIFIER = re.compile(r"[0-9A-Za-z]{1,128}")
_PROTOCOLS = {6: Protocol.TCP, 17: Protocol.UDP}


class PortRequest(msgspec.Struct, frozen=True):
    """A published port as it was asked for: ``host_ports`` holds those that may be taken, none means any."""

    protocol: Protocol
    container_port: int
    host_address: str | None
    host_ports: range

    def at(self, host_port: int) -> PublishedPort:
        """The port published at ``host_port``."""
        return PublishedPort(self.protocol, self.container_port, host_port, self.host_address)


def identifier(value: str, what: str) -> str:
    """``value`` if it can be a network's or endpoint's id (64 hex digits; 25 base-36 ones in Swarm)."""
    if not _IDENTIFIER.fullmatch(value):
        raise InvalidRequest(
            f"{what} {shown(value)} is not an id of Docker's (letters and digits, at most 128); "
            "is something else than Docker calling?"
        )
    return value


def network(request: protocol.CreateNetwork, *, known: bool = False) -> Network:
    """The network a ``CreateNetwork`` call describes; one that is ``known`` may have what was no mistake once.

    Raises :class:`InvalidRequest` for an unknown ``stackpad.*`` option, a value that does not fit, or no range.
    """
    network_id = identifier(request.network_id, "NetworkID")
    options = request.options or {}
    generic = _generic(options)
    ranges = tuple(
        _subnet(data, version)
        for version, given in ((4, request.ipv4_data), (6, request.ipv6_data))
        for data in given or ()
        if data.pool
    )
    if not ranges:
        raise InvalidRequest(
            "CreateNetwork came without an address range; leave --ipv4=false out, or give one with --subnet"
        )
    _refuse_overlap(ranges)
    ipv6 = any(subnet.net.version == 6 for subnet in ranges)
    return Network(
        id=network_id,
        subnets=ranges,
        internal=_flag(options.get(protocol.INTERNAL, False), protocol.INTERNAL),
        egress=_flag(generic.get(EGRESS, "true"), EGRESS),
        ipv6=ipv6,
        mtu=_mtu(generic.get(protocol.MTU), ipv6=ipv6),
        environment=_environment(generic.get(ENVIRONMENT), known=known),
        bridge=bridge_name(network_id),
        reserved=tuple(_reserved((request.ipv4_data or []) + (request.ipv6_data or []))),
    )


def port_requests(options: Mapping[str, Any] | None) -> tuple[PortRequest, ...]:
    """The published ports in a call's options, in Docker's order; those without any give an empty tuple."""
    given = (options or {}).get(protocol.PORT_MAP) or []
    try:
        bindings = msgspec.convert(given, list[protocol.PortBinding])
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"{protocol.PORT_MAP} does not have the form Docker sends: {error}") from error
    return tuple(_port_request(binding) for binding in bindings)


def _port_request(binding: protocol.PortBinding) -> PortRequest:
    if binding.proto not in _PROTOCOLS:
        name = {132: "sctp"}.get(binding.proto, f"IP protocol {binding.proto}")
        raise InvalidRequest(f"port {binding.port} of {name} cannot be published; ports of tcp and udp can")
    first, last = binding.host_port, binding.host_port_end or binding.host_port
    if not 1 <= binding.port <= 65535:
        raise InvalidRequest(f"container port {binding.port} is not between 1 and 65535")
    if not 0 <= first <= last <= 65535:
        raise InvalidRequest(f"host ports {first} to {last} are not a range between 1 and 65535")
    return PortRequest(
        protocol=_PROTOCOLS[binding.proto],
        container_port=binding.port,
        host_address=_host_address(binding.host_ip),
        host_ports=range(first, last + 1) if first else range(0),
    )


def _host_address(text: str) -> str | None:
    if not text:
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise InvalidRequest(
            f"host address {shown(text)} of a published port is not an IP address; "
            "write -p 192.0.2.1:8080:80 or -p [2001:db8::1]:8080:80"
        ) from error
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id:
        raise InvalidRequest(f"host address {text}: an address with a zone cannot be published on")
    if address == ipaddress.IPv6Address("::1"):
        # The kernel routes nothing from ::1 to another link; for 127.0.0.1 it can be told to.
        raise InvalidRequest("a port cannot be published on [::1]; publish it on 127.0.0.1 or on an address of the node")
    return str(address)


def _generic(options: Mapping[str, Any]) -> dict[str, str]:
    given = options.get(protocol.GENERIC) or {}
    if not isinstance(given, Mapping):
        raise InvalidRequest(f"{protocol.GENERIC} is {shown(given)}, not an object of options")
    generic: dict[str, str] = {}
    for key, value in given.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidRequest(f"option {shown(key)}={shown(value)} is not text; quote it")
        generic[key] = value
        if key.startswith(PREFIX) and key not in KNOWN:
            raise InvalidRequest(_unknown(key))
    return generic


def _unknown(key: str) -> str:
    close = difflib.get_close_matches(key, KNOWN, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {' and '.join(KNOWN)}"
    return f"unknown option {shown(key)}; {hint}"


def _environment(text: str | None, *, known: bool) -> str:
    if text is None or (known and not text):
        return ""
    if not text:
        # Most likely a variable that is not set; the network would be an environment of its own instead.
        raise InvalidRequest(
            f"{ENVIRONMENT} is empty; is a variable in it not set? Leave the option out and the environment is called as "
            "the network"
        )
    if not _ENVIRONMENT.fullmatch(text):
        raise InvalidRequest(
            f"{ENVIRONMENT}={shown(text)} is not a name: 1 to 63 lower-case letters, digits, '-', '_' or '.', "
            "beginning and ending with a letter or digit, such as my-app-production"
        )
    return text


def _flag(value: object, option: str) -> bool:
    if isinstance(value, bool):
        return value
    lowered = value.lower() if isinstance(value, str) else ""
    if lowered in {"true", "1"}:
        return True
    if lowered in {"false", "0"}:
        return False
    raise InvalidRequest(f"{option}={shown(value)} is neither true nor false")


def _mtu(text: str | None, *, ipv6: bool) -> int:
    if text is None:
        return 0
    least = MIN_MTU_IPV6 if ipv6 else MIN_MTU
    if not (text.isascii() and text.isdigit() and len(text) < 6 and least <= int(text) <= MAX_MTU):
        raise InvalidRequest(
            f"{protocol.MTU}={shown(text)} is not a number of bytes between {least} and {MAX_MTU}"
            + ("; IPv6 needs 1280" if ipv6 else "")
        )
    return int(text)


def _subnet(data: protocol.IPAMData, version: int) -> Subnet:
    pool = range_of(data.pool, version)
    if not data.gateway:
        return Subnet(str(pool))
    try:
        gateway = ipaddress.ip_interface(addresses.unzoned(data.gateway))
    except ValueError as error:
        raise InvalidRequest(f"gateway {shown(data.gateway)} is not an address") from error
    if gateway.ip not in pool:
        raise InvalidRequest(f"gateway {gateway.ip} does not lie in {pool}; choose one that does with --gateway")
    addresses.check_host(pool, gateway.ip)
    return Subnet(str(pool), f"{gateway.ip}/{pool.prefixlen}")


def _reserved(ranges: list[protocol.IPAMData]) -> Iterator[str]:
    for data in ranges:
        for text in (data.aux_addresses or {}).values():
            try:
                yield str(ipaddress.ip_interface(addresses.unzoned(text)).ip)
            except ValueError as error:
                raise InvalidRequest(f"auxiliary address {shown(text)} is not an address") from error


def _refuse_overlap(ranges: tuple[Subnet, ...]) -> None:
    for index, subnet in enumerate(ranges):
        for other in ranges[:index]:
            if subnet.net.version == other.net.version and subnet.net.overlaps(other.net):
                raise InvalidRequest(f"ranges {other.pool} and {subnet.pool} of one network overlap")
