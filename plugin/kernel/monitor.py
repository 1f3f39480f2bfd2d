"""Hears from rtnetlink when somebody else changes links, addresses, routes or whether the node forwards packets.

Only the fixed part of each message and the interface's name are read (rtnetlink(7)): on a node with a thousand
networks most messages are echoes of our own work, and decoding each in full would cost more than the work did.
What is heard is a hint; the truth is observed afterwards.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import struct
from collections.abc import Callable, Iterator
from enum import Enum, auto
from types import TracebackType

from plugin import naming
from plugin.kernel.tunnel import PROTOCOL
from plugin.model import IPNet

_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""RTMGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE."""

_NETCONF_GROUPS = (24, 25)
"""RTNLGRP_IPV4_NETCONF and IPV6_NETCONF, which have no bit among the above (linux/rtnetlink.h)."""

_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_NEWLINK, _DELLINK, _NEWADDR, _DELADDR, _NEWROUTE, _DELROUTE, _NEWNETCONF = 16, 17, 20, 21, 24, 25, 80
_IFLA_IFNAME, _RTA_DST = 3, 1
_NETCONFA_IFINDEX, _NETCONFA_FORWARDING = 1, 2
_OF_THE_NODE = b"\xff\xff\xff\xff"
"""NETCONFA_IFINDEX_ALL: not a link's own setting."""
_IFF_UP = 1
_SCOPE_LINK = 253
_HEADER = struct.Struct("=IHHII")
_BUFFER = 4 << 20


class Hint(Enum):
    """What may have changed: our links or that the node forwards, or the node's own addresses and uplinks."""

    LINKS = auto()
    NODE = auto()


class Monitor:
    """Calls ``notify`` on the event loop for each hint; a context manager.

    ``is_ours`` tells whether a link of this name should be there: what we deleted ourselves is no news.
    ``route_gone`` is called for each route into the tunnel that was removed, by whomever.
    """

    def __init__(
        self, notify: Callable[[Hint], None], is_ours: Callable[[str], bool], route_gone: Callable[[IPNet], None]
    ) -> None:
        self._notify, self._is_ours, self._route_gone = notify, is_ours, route_gone

    def __enter__(self) -> Monitor:
        """Listen from now on."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._socket.bind((0, _GROUPS))
        for group in _NETCONF_GROUPS:
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        asyncio.get_running_loop().add_reader(self._socket, self._read)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        hints: set[Hint] = set()
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                hints.update(Hint)  # messages were lost: anything may have changed
                continue
            hints.update(self._hints(data))
        for hint in hints:
            self._notify(hint)

    def _hints(self, data: bytes) -> Iterator[Hint]:
        for kind, body in _messages(data):
            if kind in {_NEWLINK, _DELLINK}:
                name = _name(body)
                if naming.is_ours(name):
                    up = int.from_bytes(body[8:12], "little") & _IFF_UP
                    if self._is_ours(name) and (kind == _DELLINK or not up):
                        yield Hint.LINKS
                elif not name.startswith("veth"):
                    yield Hint.NODE
            elif kind in {_NEWADDR, _DELADDR}:
                if body[3] >= _SCOPE_LINK:
                    continue  # link-local addresses come and go with a link
                name = _interface(int.from_bytes(body[4:8], "little"))
                if not naming.is_ours(name):
                    yield Hint.NODE
                elif kind == _DELADDR and self._is_ours(name):
                    yield Hint.LINKS
            elif kind in {_NEWROUTE, _DELROUTE} and body[1] == 0:
                yield Hint.NODE  # destination length 0: a default route
            elif kind == _DELROUTE and body[5] == PROTOCOL and (address := _attribute(body, 12, _RTA_DST)):
                self._route_gone(ipaddress.ip_network((address, body[1]), strict=False))
            elif kind == _NEWNETCONF and _attribute(body, 4, _NETCONFA_IFINDEX) == _OF_THE_NODE:
                forwards = _attribute(body, 4, _NETCONFA_FORWARDING)
                if forwards and not any(forwards):
                    yield Hint.LINKS


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, position)
        if length < _HEADER.size:
            return
        yield kind, data[position + _HEADER.size : position + length]
        position += (length + 3) & ~3


def _name(body: bytes) -> str:
    return _attribute(body, 16, _IFLA_IFNAME).rstrip(b"\0").decode("utf-8", "replace")


def _attribute(body: bytes, position: int, wanted: int) -> bytes:
    """The value of the first attribute of this kind; they begin at ``position``. Empty if there is none."""
    while position + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, position)
        if kind == wanted:
            return body[position + 4 : position + length]
        position += max(4, (length + 3) & ~3)
    return b""


def _interface(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""
