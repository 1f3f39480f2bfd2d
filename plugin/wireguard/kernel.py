"""The kernel's WireGuard, through rtnetlink and its generic netlink family (``linux/wireguard.h``)."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pyroute2 import IPRoute, WireGuard
from pyroute2.netlink.exceptions import NetlinkError

from plugin.model import ip_network
from plugin.wireguard.link import Condition, Link
from plugin.wireguard.model import Changes, Observed, PeerChange, PeerState
from stackpad.errors import Unavailable

_T = TypeVar("_T")
_NO_KEY = b"\0" * 32


class KernelWireGuard:
    """The back end; netlink blocks, so it has a thread of its own."""

    name = "kernel"

    def __init__(self) -> None:
        self._device = ""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="wireguard")
        self._wireguard: Any = None
        self._link = Link("wireguard")

    async def ensure(self, device: str, mtu: int) -> bool:
        """Have the link there and up; one of another kind by its name is replaced."""
        self._device = device
        return await self._call(lambda: self._ensure(mtu))

    async def observe(self) -> Observed:
        """The device as it is."""
        return await self._call(self._observe)

    async def apply(self, changes: Changes) -> None:
        """Carry out the steps."""
        await self._call(lambda: self._apply(changes))

    async def remove(self) -> None:
        """Delete the link."""
        await self._call(lambda: self._link.remove(self._device))

    async def close(self) -> None:
        """Close the netlink socket."""
        if self._wireguard is not None:
            await self._call(self._wireguard.close)
        self._thread.shutdown()

    def _ensure(self, mtu: int) -> bool:
        if self._wireguard is None:
            self._wireguard = WireGuard()
        if self._link.well(self._device):
            return False
        condition = self._link.look(self._device)
        if condition is Condition.UP:
            return False
        if condition is Condition.MISSING:
            with IPRoute() as netlink:
                netlink.link("add", ifname=self._device, kind="wireguard", mtu=mtu)
        self._link.set_up(self._device, mtu)
        return True

    def _observe(self) -> Observed:
        private, port, peers = "", 0, {}
        for message in self._wireguard.info(self._device):
            key = message.get("WGDEVICE_A_PRIVATE_KEY")
            private = key.decode() if key else private
            port = message.get("WGDEVICE_A_LISTEN_PORT") or port
            for peer in message.get("WGDEVICE_A_PEERS") or ():
                peers[peer.get("WGPEER_A_PUBLIC_KEY").decode()] = _state(peer)
        return Observed(private, port, peers)

    def _apply(self, changes: Changes) -> None:
        device: dict[str, Any] = {}
        if changes.private_key is not None:
            device["private_key"] = changes.private_key
        if changes.port is not None:
            device["listen_port"] = changes.port
        if device:
            self._wireguard.set(self._device, **device)
        for change in changes.changed:
            if change.anew:
                self._wireguard.set(self._device, peer={"public_key": change.public_key, "remove": True})
            self._wireguard.set(self._device, peer=_peer(change))
        for key in changes.gone:
            self._wireguard.set(self._device, peer={"public_key": key, "remove": True})

    async def _call(self, function: Callable[[], _T]) -> _T:
        def guarded() -> _T:
            try:
                return function()
            except NetlinkError as error:
                reason = errno.errorcode.get(error.code, str(error.code))
                raise Unavailable(f"the kernel's WireGuard refused: {error.args[-1]} ({reason})") from error
            except (OSError, ValueError) as error:
                raise Unavailable(f"the kernel's WireGuard could not be told: {error}") from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, guarded)


def _state(peer: Any) -> PeerState:
    preshared = peer.get("WGPEER_A_PRESHARED_KEY") or b""
    endpoint = peer.get("WGPEER_A_ENDPOINT")
    handshake = peer.get("WGPEER_A_LAST_HANDSHAKE_TIME") or {}
    return PeerState(
        preshared_key="" if not preshared or preshared in {_NO_KEY, b"A" * 43 + b"="} else preshared.decode(),
        endpoint=(endpoint["addr"], endpoint["port"]) if endpoint and endpoint.get("addr") else None,
        allowed=frozenset(ip_network(ip["addr"]) for ip in peer.get("WGPEER_A_ALLOWEDIPS") or ()),
        keepalive=peer.get("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") or 0,
        last_handshake=handshake.get("tv_sec", 0) + handshake.get("tv_nsec", 0) / 1e9,
        received=peer.get("WGPEER_A_RX_BYTES") or 0,
        sent=peer.get("WGPEER_A_TX_BYTES") or 0,
    )


def _peer(change: PeerChange) -> dict[str, Any]:
    peer: dict[str, Any] = {"public_key": change.public_key}
    if change.preshared_key is not None:
        peer["preshared_key"] = change.preshared_key or ("A" * 43 + "=")
    if change.endpoint is not None:
        peer["endpoint_addr"], peer["endpoint_port"] = change.endpoint
    if change.only:
        peer["replace_allowed_ips"] = True
    if change.allowed:
        peer["allowed_ips"] = sorted(map(str, change.allowed))
    if change.keepalive is not None:
        peer["persistent_keepalive"] = change.keepalive
    return peer
