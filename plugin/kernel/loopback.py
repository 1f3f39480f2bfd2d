"""The stable upstreams' addresses on the node's loopback, and those who wait there for a container.

The addresses are there while any number is in use, whether or not the node is in a cluster. When a number leads
somewhere else, connections that are still being made to it are ended: whoever makes them tries again at once and gets
the new container, where the kernel itself would repeat the same attempt only after a second. A kernel that cannot end
them (``CONFIG_INET_DIAG_DESTROY``) leaves it at that second. Blocking.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from plugin.model import IPAddress
from stackpad.errors import Unavailable
from stackpad.upstreams import UPSTREAM4, UPSTREAM6

_NODAD = 0x02
_SITE = 200
"""A scope less than global: the node never takes such an address as its own towards others."""

_NETLINK_SOCK_DIAG = 4
_DIAG_BY_FAMILY, _DIAG_DESTROY = 20, 21
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_DONE, _ERROR = 3, 2
_SYN_SENT = 1 << 2
_MESSAGE = struct.Struct("=IHHII")
_QUERY = struct.Struct("=BBBxI")
_SOCKET_ID = struct.Struct(">HH16s16s4s8s")
_TIMEOUT = 5.0
_CLOCK_MONOTONIC_COARSE = 6
"""The clock that goes by the kernel's ticks (``linux/time.h``); Python has no name for it."""

_EXPIRES = struct.Struct("=I")
_REPETITION = 1
"""The timer by which the kernel repeats an attempt, among those that ``inet_diag`` tells of."""

_USUAL = 0.02
"""Seconds in which a connection to a container that is there is made."""

_FIRST = 1.0
"""Seconds until the kernel repeats its first attempt (``TCP_TIMEOUT_INIT``, RFC 6298 §2.1)."""


class _Attempt(NamedTuple):
    """A socket whose connection is being made, and since how many seconds at least."""

    family: int
    identity: bytes
    age: float


class Loopback:
    """Reads and writes them; ``proc`` tells whether the kernel has IPv6."""

    def __init__(self, proc: Path) -> None:
        self._netlink = IPRoute()
        self._off = proc / "sys/net/ipv6/conf/lo/disable_ipv6"

    def close(self) -> None:
        """Give the netlink socket back."""
        self._netlink.close()

    def stand(self, wanted: bool) -> bool:
        """Have the addresses there, or not; returns whether anything was changed. Raises :class:`Unavailable`."""
        index = socket.if_nametoindex("lo")
        every = frozenset(map(ipaddress.ip_address, (*UPSTREAM4, *UPSTREAM6)))
        there = {ip for found in self._netlink.get_addr(index=index) if (ip := _own(found)) in every}
        want = {address for address in every if wanted and (address.version == 4 or self._has_ipv6())}
        for address in there - want:
            self._change("del", index, address)
        for address in want - there:
            self._change("add", index, address)
        return there != want

    def _has_ipv6(self) -> bool:
        try:
            return self._off.read_text().strip() == "0"
        except OSError:
            return False

    def _change(self, verb: str, index: int, address: IPAddress) -> None:
        extra: dict[str, Any] = {"scope": _SITE, "prefixlen": 32}
        if address.version == 6:
            extra = {"flags": _NODAD, "prefixlen": 128}
        try:
            self._netlink.addr(verb, index=index, address=str(address), **extra)
        except NetlinkError as error:
            if error.code in {errno.EEXIST, errno.EADDRNOTAVAIL}:
                return
            what = "put {} on the loopback" if verb == "add" else "take {} off the loopback"
            raise Unavailable(f"the kernel refused to {what.format(address)}: {error.args[-1]}") from error


def hurry(numbers: Collection[int], changed: float) -> int:
    """End connections to ``numbers`` that are being made since before the ``changed`` (monotonic clock, seconds).

    One that was begun later has met what is there now, and waits for what comes after it. Returns how many were ended.

    The kernel is told which socket, by its cookie, and cannot be told in which state: a connection that is made just
    between the last look at it and its end, two system calls in a row, is cut.
    """
    ended = 0
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as channel:
            channel.settimeout(_TIMEOUT)
            channel.bind((0, 0))
            if not any(_before(changed, _waiting(channel, numbers))):
                return 0
            # One that is only just being made may be made in a moment, and be in use.
            time.sleep(_USUAL)
            for family, identity in list(_before(changed, _waiting(channel, numbers))):
                query = _QUERY.pack(family, socket.IPPROTO_TCP, 0, _SYN_SENT) + identity
                if _is_waiting(channel, query):
                    channel.send(_message(_DIAG_DESTROY, _REQUEST | _ACK, query))
                    channel.recv(1 << 16)
                    ended += 1
    except OSError:
        return ended  # they wait for their second
    return ended


def _is_waiting(channel: socket.socket, query: bytes) -> bool:
    """Whether the connection is still being made: there may be many others before it, each of which takes its time."""
    channel.send(_message(_DIAG_BY_FAMILY, _REQUEST, query))
    answer = channel.recv(1 << 16)
    _, kind, *_ = _MESSAGE.unpack_from(answer)
    return kind == _DIAG_BY_FAMILY and 1 << answer[_MESSAGE.size + 1] == _SYN_SENT


def _before(changed: float, attempts: Iterable[_Attempt]) -> Iterator[tuple[int, bytes]]:
    """Family and identity of those that were surely begun before the time ``changed``."""
    since = time.monotonic() - changed
    return ((each.family, each.identity) for each in attempts if each.age > since)


def _waiting(channel: socket.socket, numbers: Collection[int]) -> Iterator[_Attempt]:
    """The connections to one of ``numbers`` that are being made."""
    for family, addresses in ((socket.AF_INET, UPSTREAM4), (socket.AF_INET6, UPSTREAM6)):
        packed = {ipaddress.ip_address(text).packed.ljust(16, b"\0") for text in addresses}
        for attempt in list(_being_made(channel, family)):
            _, port, _, destination, _, _ = _SOCKET_ID.unpack(attempt.identity)
            if port in numbers and destination in packed:
                yield attempt


def _being_made(channel: socket.socket, family: int) -> Iterator[_Attempt]:
    """The TCP sockets whose connection is being made."""
    query = _QUERY.pack(family, socket.IPPROTO_TCP, 0, _SYN_SENT) + bytes(_SOCKET_ID.size)
    channel.send(_message(_DIAG_BY_FAMILY, _REQUEST | _DUMP, query))
    while True:
        data = channel.recv(1 << 18)
        position = 0
        while position + _MESSAGE.size <= len(data):
            length, kind, *_ = _MESSAGE.unpack_from(data, position)
            if kind in {_DONE, _ERROR} or length < _MESSAGE.size:
                return
            # struct inet_diag_msg (linux/inet_diag.h): four bytes, of which the last two are the timer that runs and how
            # often the attempt was repeated; what identifies the socket; and when the timer is due, in ms.
            start = position + _MESSAGE.size + 4
            end = start + _SOCKET_ID.size
            timer, repeated = data[start - 2 : start]
            (expires,) = _EXPIRES.unpack_from(data, end)
            yield _Attempt(family, data[start:end], _age(timer, repeated, expires / 1000))
            position += (length + 3) & ~3


def _age(timer: int, repeated: int, expires: float) -> float:
    """How old an attempt is at least, in seconds; the kernel counts in ticks of its clock.

    Until the timer for its repetition runs, the attempt is only just being made, or has not been sent yet.
    """
    if timer != _REPETITION:
        return 0.0
    return repeated * _FIRST if repeated else _FIRST - expires - time.clock_getres(_CLOCK_MONOTONIC_COARSE)


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return _MESSAGE.pack(_MESSAGE.size + len(body), kind, flags, 1, 0) + body


def _own(found: Any) -> IPAddress:
    return ipaddress.ip_address(found.get("local") or found.get("address"))
