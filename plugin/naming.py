"""Names and marks by which a process with no memory recognises its own kernel objects.

Interface names have at most 15 bytes (``IFNAMSIZ``), so they carry a 12-digit digest of an id. A network's
bridge is ``sp-<digits>``; of an endpoint's veth pair, the host's end is ``spv<digits>`` and the end that the
engine moves into the container is ``spc<digits>`` until then.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re

BRIDGE_PREFIX = "sp-"
PORT_PREFIX = "spv"
PEER_PREFIX = "spc"

MESH_LINK = "sp-wg"
"""The tunnel's link; no bridge is called so, since theirs have twelve digits."""

RESOLVER = "169.254.53.53"
"""Where containers ask for names; link-local, so that it means the node they are on."""

RESOLVER6 = "fd9c:5acd:5353::53"
"""The same for containers without IPv4. IPv6 routes no link-local addresses: this one is on every node's loopback, in no
table of routes between nodes, and so means the node as well."""

RESOLVERS = (RESOLVER, RESOLVER6)
"""Both, in the order in which containers ask."""

LINK_GROUP = 0x5350
"""Interface group (``IFLA_GROUP``) of every link of ours: "SP"."""

TRASH_GROUP = 0x5351
"""Interface group of links that wait to be deleted, together, in one request."""

_DOCKER_ID = re.compile(r"[0-9a-f]{64}")


def digits(identifier: str) -> str:
    """Twelve hexadecimal digits for an id: those ``docker network ls`` shows, where there are such.

    A Swarm network's id is 25 base-36 characters, the same on all nodes; it is hashed.
    """
    if _DOCKER_ID.fullmatch(identifier):
        return identifier[:12]
    return hashlib.sha256(identifier.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def bridge_name(network_id: str) -> str:
    """The bridge of a network."""
    return BRIDGE_PREFIX + digits(network_id)


def port_name(endpoint_id: str) -> str:
    """The host's end of an endpoint's veth pair."""
    return PORT_PREFIX + digits(endpoint_id)


def peer_name(endpoint_id: str) -> str:
    """The container's end of an endpoint's veth pair, until the engine renames it."""
    return PEER_PREFIX + digits(endpoint_id)


def bridge_mac(network_id: str) -> str:
    """A stable, locally administered MAC address for a bridge.

    Without one a bridge takes the lowest of its ports', which changes as containers come and go and makes
    every neighbour entry for the gateway stale.
    """
    return _mac(b"\x02\x53", hashlib.sha256(b"bridge" + network_id.encode()).digest())


def endpoint_mac(network_id: str, ip4: ipaddress.IPv4Address | None, ip6: ipaddress.IPv6Address | None) -> str:
    """A MAC address that follows from the address: who takes an address over needs no new ARP entry."""
    if ip4 is not None:
        return _mac(b"\x02\x50", ip4.packed)
    seed = network_id.encode() + (ip6.packed if ip6 is not None else b"")
    return _mac(b"\x02\x56", hashlib.sha256(seed).digest())


def link_local(mac: str) -> ipaddress.IPv6Address:
    """The modified EUI-64 link-local address an interface of this MAC gives itself (RFC 4291, appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + identifier)


def _mac(prefix: bytes, seed: bytes) -> str:
    return ":".join(f"{octet:02x}" for octet in (prefix + seed)[:6])


def is_ours(interface: str) -> bool:
    """Whether a link of this name is ours."""
    return interface.startswith((BRIDGE_PREFIX, PORT_PREFIX, PEER_PREFIX))
