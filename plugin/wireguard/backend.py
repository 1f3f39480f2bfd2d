"""The interface of a WireGuard implementation, and the choice between the two."""

from __future__ import annotations

import asyncio
import errno
from types import TracebackType
from typing import Protocol

import structlog
from pyroute2.netlink.exceptions import NetlinkError

from plugin.wireguard.kernel import KernelWireGuard
from plugin.wireguard.link import asking
from plugin.wireguard.model import Changes, Observed
from plugin.wireguard.userspace import WireGuardGo

_PROBE = "sp-wgprobe"


class Backend(Protocol):
    """One WireGuard device. Every method may raise :class:`Unavailable` with the reason."""

    name: str

    async def ensure(self, device: str, mtu: int) -> bool:
        """Have the device there and up, with ``mtu`` bytes; returns whether it was made or set up: it has no sessions."""

    async def observe(self) -> Observed:
        """The device as it is."""

    async def apply(self, changes: Changes) -> None:
        """Carry out the steps, in their order."""

    async def remove(self) -> None:
        """Take the device away; it is no error if it is not there."""

    async def close(self) -> None:
        """Give sockets back; the device stays."""


def kernel_has_wireguard() -> bool:
    """Whether a link of kind ``wireguard`` can be made here; blocking, raises :class:`Unavailable`."""
    with asking("make a WireGuard link") as netlink:
        try:
            netlink.link("add", ifname=_PROBE, kind="wireguard")
        except NetlinkError as error:
            if error.code in {errno.EOPNOTSUPP, errno.ENOENT, errno.EINVAL}:
                return False
            if error.code != errno.EEXIST:
                raise
        netlink.link("del", index=netlink.link_lookup(ifname=_PROBE)[0])
        return True


class Chosen:
    """The implementation to use, chosen at the first call: what an operator says, else the kernel's if it has one.
    Leaving it gives sockets and threads back; the device stays.
    """

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted
        self._backend: Backend | None = None

    async def __aenter__(self) -> Chosen:
        """Nothing is chosen yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close what was chosen."""
        if self._backend is not None:
            await self._backend.close()

    async def __call__(self) -> Backend:
        """The one; raises :class:`Unavailable` if the kernel cannot be asked."""
        if self._backend is None:
            kernel = self._wanted == "kernel" or (
                self._wanted == "auto" and await asyncio.to_thread(kernel_has_wireguard)
            )
            self._backend = KernelWireGuard() if kernel else WireGuardGo()
            reason = "as set" if self._wanted != "auto" else "" if kernel else "the kernel has no WireGuard"
            structlog.get_logger("mesh").info("WireGuard", implementation=self._backend.name, reason=reason)
        return self._backend
