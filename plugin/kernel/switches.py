"""The kernel's settings below ``net`` (sysctl(8)): of the node, and of our links.

Blocking, for the thread that writes the kernel.
"""

from __future__ import annotations

from pathlib import Path

from plugin.kernel.dataplane import UNRESOLVED, Bridge
from stackpad.errors import Unavailable


class Switches:
    """``proc`` is where the host's ``/proc`` is writable: inside a managed plugin ``/proc/sys`` is not."""

    def __init__(self, proc: Path) -> None:
        self._net = proc / "sys" / "net"
        self.has_ipv6 = (self._net / "ipv6").is_dir()

    def forward(self, *, ipv6: bool) -> bool:
        """Make the node forward packets, and tell whether it did not; for IPv6 keep the uplinks listening to router
        advertisements.

        The kernel stops accepting them on a router unless ``accept_ra`` is 2 (ip-sysctl.rst), which would cost
        the node its own default route.

        Caddy's listening sockets change hands at each change of its configuration. A connection that waits in the one
        that closes is reset, unless the kernel hands it on to the one that opens (``tcp_migrate_req``, ip-sysctl.rst;
        for sockets with ``SO_REUSEPORT`` only, since Linux 5.14).
        """
        off = self.read("ipv4/ip_forward") == "0"
        self.write("ipv4/ip_forward", "1")
        self.write("ipv4/tcp_migrate_req", "1")
        if not (ipv6 and self.has_ipv6) or self.read("ipv6/conf/all/forwarding") == "1":
            return off
        for path in (self._net / "ipv6/conf").iterdir():
            if path.name not in {"all", "default"} and self.read(f"ipv6/conf/{path.name}/accept_ra") == "1":
                self.write(f"ipv6/conf/{path.name}/accept_ra", "2")
        self.write("ipv6/conf/all/forwarding", "1")
        return True

    def configure(self, bridge: Bridge, *, loopback: bool, ipv6: bool, unresolved: int) -> None:
        """What a bridge should have, where it is not as the other three say."""
        if bridge.ipv6 != ipv6 and self.has_ipv6:
            self.write(f"ipv6/conf/{bridge.name}/disable_ipv6", "0" if bridge.ipv6 else "1")
        if bridge.ipv6 and self.has_ipv6:
            self.write(f"ipv6/conf/{bridge.name}/accept_ra", "0")
        if bridge.loopback != loopback:
            self.write(f"ipv4/conf/{bridge.name}/route_localnet", "1" if bridge.loopback else "0")
        if bridge.unresolved != unresolved:
            for family in ("ipv4", "ipv6"):
                self.write(f"{family}/neigh/{bridge.name}/unres_qlen_bytes", str(bridge.unresolved))

    def unresolved(self, name: str) -> int:
        """Bytes that wait for an address on a bridge, the larger one of both families; as it should be where this kernel
        has no such setting, or we do not see it.
        """
        found = [self.read(f"{family}/neigh/{name}/unres_qlen_bytes") for family in ("ipv4", "ipv6")]
        return max([int(text) for text in found if text.isdigit()], default=UNRESOLVED)

    def write(self, name: str, value: str) -> None:
        """Set ``name``, as in ``ipv4/ip_forward``; raises :class:`Unavailable`."""
        try:
            (self._net / name).write_text(value)
        except FileNotFoundError:
            return  # the link has gone again, or the kernel has no such setting; observing tells
        except OSError as error:
            raise Unavailable(f"cannot set net.{name.replace('/', '.')} to {value}: {error.strerror}") from error

    def read(self, name: str) -> str:
        """Its value; empty if it cannot be read."""
        try:
            return (self._net / name).read_text().strip()
        except OSError:
            return ""
