"""Many ranges of addresses, and whether an address lies in any of them; pure.

One look-up for each length of prefix there is, however many ranges there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

_WIDTH = {4: 32, 6: 128}


class Prefixes:
    """The ranges; ``address in prefixes``."""

    def __init__(self, nets: Iterable[IPv4Network | IPv6Network] = ()) -> None:
        self._by_length: dict[tuple[int, int], set[int]] = {}
        for net in nets:
            shift = _WIDTH[net.version] - net.prefixlen
            self._by_length.setdefault((net.version, shift), set()).add(int(net.network_address) >> shift)

    def __contains__(self, address: IPv4Address | IPv6Address) -> bool:
        value, version = int(address), address.version
        return any(of == version and value >> shift in there for (of, shift), there in self._by_length.items())
