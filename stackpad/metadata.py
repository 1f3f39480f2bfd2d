"""Where clouds tell a machine who it is, often with the keys to prove it: no container has a way there. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

METADATA4: Final[Sequence[str]] = ("169.254.0.0/16", "100.100.100.200", "192.0.0.192")
"""Link-local addresses with most of them, and those of Alibaba Cloud and Oracle Cloud Classic."""

METADATA_AND_DNS: Final[str] = "168.63.129.16"
"""Azure's, which is the name server of its machines as well: port 53 is open."""

METADATA6: Final[Sequence[str]] = ("fd00:ec2::254", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:42::42")
"""Those of AWS, Google Cloud, Oracle Cloud and Scaleway."""

_CLOSED: Final = [ipaddress.ip_network(net) for net in (*METADATA4, *METADATA6)]


def is_closed(address: str) -> bool:
    """Whether the firewall lets nothing of a container's pass to ``address``, as to all that are a link's own."""
    ip = ipaddress.ip_address(address)
    return ip.is_link_local or any(ip in net for net in _CLOSED if net.version == ip.version)
