"""Ranges as people and Docker write them; pure."""

from __future__ import annotations

import ipaddress

from plugin.model import IPNet
from plugin.ranges import addresses
from stackpad.errors import InvalidRequest, shown

_SPECIAL = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32"),
        # Of ::/8 is what carries IPv4 addresses; it has two spellings, and nobody's network is there.
        *("::/8", "fe80::/10", "ff00::/8"),
    )
)


def range_of(text: str, version: int | None = None) -> IPNet:
    """An address range in CIDR form that a network can be made of.

    Raises :class:`InvalidRequest` for another form, the wrong family, or a range no host address fits in or
    that holds addresses of another meaning (loopback, link-local, multicast, unspecified, IPv4 within IPv6).
    """
    try:
        pool = ipaddress.ip_network(addresses.unzoned(text), strict=False)
    except ValueError as error:
        raise InvalidRequest(f"{shown(text)} is not an address range such as 10.192.7.0/26") from error
    if version is not None and pool.version != version:
        raise InvalidRequest(f"{pool} is an IPv{pool.version} range where an IPv{version} one is due")
    shortest, longest = (4, 30) if pool.version == 4 else (32, 126)
    if not shortest <= pool.prefixlen <= longest:
        raise InvalidRequest(f"{pool} is no size for a network: give a prefix between /{shortest} and /{longest}")
    for special in _SPECIAL:
        if special.version == pool.version and special.overlaps(pool):
            raise InvalidRequest(
                f"{special}, where {pool} lies or reaches, has a meaning of its own and cannot be a network's; "
                "take a private range"
            )
    return pool
