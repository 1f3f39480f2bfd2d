"""The link of a WireGuard device, as its implementation needs it: of its kind, and up.

Somebody may have set it down, or have made a link of another kind by its name. What is sent to other nodes goes to that
name, so such a link would carry it in clear: it is removed at once, as anything with our mark that is not ours. One that
cannot be removed, such as a network card of that name, stays, and is told.

Each second is looked by two system calls, for a kind never changes: only a link with another index is asked for it.
Blocking.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import socket
import struct
from collections.abc import Iterator

import structlog
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from stackpad.errors import Unavailable

_SIOCGIFFLAGS = 0x8913  # netdevice(7)
_IFF_UP = 1

_FILES = 8
"""More than an ``IPRoute`` opens: with its event loop, five."""


class Condition(enum.Enum):
    """What a link is like. Who sets one down ends all sessions of its device, as who removes it."""

    MISSING = "missing"
    DOWN = "down"
    UP = "up"


class Link:
    """The link called as the device, of one ``kind`` (rtnetlink's ``IFLA_INFO_KIND``)."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._index = 0

    def well(self, name: str) -> bool:
        """Whether the link is the one that was looked at last, and up. Two system calls, so not really blocking."""
        return self._index != 0 and _index(name) == self._index and _is_up(name)

    def look(self, name: str) -> Condition:
        """What it is like. One of another kind is removed; raises :class:`Unavailable` if it cannot be."""
        self._index = 0
        with asking(f"look at the link {name}") as netlink:
            # Not by its index, which is 0 also where it cannot be asked for: a tunnel that is missing is made anew.
            try:
                (message, *_) = netlink.link("get", ifname=name)
            except NetlinkError as error:
                if error.code != errno.ENODEV:
                    raise
                return Condition.MISSING
            index, kind = message["index"], message.get(("linkinfo", "kind")) or "hardware"
            if kind != self._kind:
                structlog.get_logger("mesh").warning("another link has the tunnel's name", name=name, kind=kind)
                if not _delete(netlink, index):
                    raise Unavailable(
                        f"a link that is none of WireGuard's ({kind}) is called {name} and cannot be removed; give it "
                        f"another name (ip link set {name} name …)"
                    )
                return Condition.MISSING
            self._index = index
            return Condition.UP if message["flags"] & _IFF_UP else Condition.DOWN

    def set_up(self, name: str, mtu: int) -> None:
        """Set it up, with ``mtu`` bytes; raises :class:`Unavailable` with the reason if that is refused."""
        with asking(f"set the link {name} up") as netlink:
            index = _index(name)
            netlink.link("set", index=index, state="up", mtu=mtu)
            self._index = index

    def remove(self, name: str) -> None:
        """Take it away, of whatever kind; it is no error if it is not there, or if it is one that cannot be removed."""
        self._index = 0
        with asking(f"remove the link {name}") as netlink:
            if index := _index(name):
                _delete(netlink, index)


@contextlib.contextmanager
def asking(what: str) -> Iterator[IPRoute]:
    """A socket to have the kernel do ``what``; raises :class:`Unavailable` with the reason if it does not, or if the
    process may have no socket more.
    """
    try:
        _see_that_there_is_room()
        with IPRoute() as netlink:
            yield netlink
    except NetlinkError as error:
        raise Unavailable(f"the kernel refused to {what}: {error.args[-1]} (errno {error.code})") from error
    except OSError as error:
        raise Unavailable(
            f"the kernel could not be asked to {what}: {error.strerror or error}; raise the limits of the plugin's "
            "process (open files, memory), or find what uses them up"
        ) from error


def _see_that_there_is_room() -> None:
    """Raises OSError unless an ``IPRoute`` can be made whole: of one that cannot, files stay open until somebody collects
    what is left of it, and they are what there is none of.
    """
    with contextlib.ExitStack() as stack:
        for _ in range(_FILES):
            stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))


def _delete(netlink: IPRoute, index: int) -> bool:
    """Whether it is gone: hardware cannot be deleted."""
    try:
        netlink.link("del", index=index)
    except NetlinkError as error:
        if error.code == errno.EOPNOTSUPP:
            return False
        if error.code != errno.ENODEV:
            raise
    return True


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def _is_up(name: str) -> bool:
    """Whether it is up, as far as can be seen: who may open no more files sees nothing."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            answer = fcntl.ioctl(channel, _SIOCGIFFLAGS, struct.pack("16s24x", name.encode()))
    except OSError:
        return False
    return bool(struct.unpack_from("16xH", answer)[0] & _IFF_UP)
