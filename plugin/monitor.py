"""Hears from rtnetlink when somebody else changes links, addresses or default routes.

Only the fixed part of each message and the interface's name are read (rtnetlink(7)): on a node with a thousand
networks most messages are echoes of our own work, and decoding each in full would cost more than the work did.
What is heard is a hint; the truth is observed afterwards.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable, Iterator
from enum import Enum, auto
from types import TracebackType

from plugin import naming

_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""RTMGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE."""

_NEWLINK, _DELLINK, _NEWADDR, _DELADDR, _NEWROUTE, _DELROUTE = 16, 17, 20, 21, 24, 25
_IFLA_IFNAME = 3
_IFF_UP = 1
_SCOPE_LINK = 253
_HEADER = struct.Struct("=IHHII")
_BUFFER = 4 << 20


class Hint(Enum):
    """What may have changed: one of our links, or the node's own addresses and uplinks."""

    LINKS = auto()
    NODE = auto()


class Monitor:
    """Calls ``notify`` on the event loop for each hint; a context manager.

    ``is_ours`` tells whether a link of this name should be there: what we deleted ourselves is no news.
    """

    def __init__(self, notify: Callable[[Hint], None], is_ours: Callable[[str], bool]) -> None:
        self._notify, self._is_ours = notify, is_ours

    def __enter__(self) -> Monitor:
        """Listen from now on."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._socket.bind((0, _GROUPS))
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


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, position)
        if length < _HEADER.size:
            return
        yield kind, data[position + _HEADER.size : position + length]
        position += (length + 3) & ~3


def _name(body: bytes) -> str:
    position = 16
    while position + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, position)
        if kind == _IFLA_IFNAME:
            return body[position + 4 : position + length].rstrip(b"\0").decode("utf-8", "replace")
        position += max(4, (length + 3) & ~3)
    return ""


def _interface(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""
