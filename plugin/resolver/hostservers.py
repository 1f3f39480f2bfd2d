"""The servers that the host itself asks, as its files say now."""

from __future__ import annotations

import contextlib
import ipaddress
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from plugin.naming import RESOLVERS

AGAIN = 1.0
"""Seconds between two looks whether the files have changed."""

RESOLV_CONF = Path("/etc/resolv.conf")
"""Docker mounts the host's into a plugin that has the host's network."""

RUNTIME_FILES = ("systemd/resolve/resolv.conf", "NetworkManager/no-stub-resolv.conf", "resolvconf/resolv.conf")
"""Below ``/run``: the real servers where ``/etc/resolv.conf`` names a local stub, or is a copy of what was replaced."""

_STUBS = {"127.0.0.53", "127.0.0.54"}
"""Where systemd-resolved listens (systemd-resolved.service(8))."""


def servers_of(text: str, ours: Collection[str] = RESOLVERS) -> list[str]:
    """The addresses of a ``resolv.conf`` (resolv.conf(5)), ``ours`` left out: asking ourselves would never end."""
    found: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver" and words[1] not in ours and words[1] not in found:
            with contextlib.suppress(ValueError):
                ipaddress.ip_address(words[1])
                found.append(words[1])
    return found


class HostServers:
    """The servers of ``resolv_conf``; of the files below ``run`` instead, if it has none but a stub, or is outdated.

    ``fixed`` are the operator's own choice instead of all of them.
    """

    def __init__(
        self,
        run: Path,
        resolv_conf: Path = RESOLV_CONF,
        fixed: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._main, self._others = resolv_conf, [run / name for name in RUNTIME_FILES]
        self._fixed, self._clock = list(fixed), clock
        self._servers: list[str] = []
        self._stamp: list[object] | None = None
        self._look_at = 0.0

    def __call__(self) -> list[str]:
        """The servers now; none if the host has none."""
        if self._fixed:
            return self._fixed
        now = self._clock()
        if self._stamp is None or now >= self._look_at:
            self._look_at = now + AGAIN
            stamp = [_stamp(path) for path in (self._main, *self._others)]
            if stamp != self._stamp:
                self._stamp, self._servers = stamp, self._read()
        return self._servers

    def _read(self) -> list[str]:
        main = _servers(self._main)
        if main and not _STUBS.issuperset(main) and not _is_replaced(self._main):
            return main
        return next(filter(None, map(_servers, self._others)), main)


def _servers(path: Path) -> list[str]:
    try:
        return servers_of(path.read_text())
    except (OSError, UnicodeDecodeError):
        return []


def _stamp(path: Path) -> object:
    try:
        there = path.stat()
    except OSError:
        return None
    return there.st_ino, there.st_mtime_ns, there.st_size, there.st_nlink


def _is_replaced(path: Path) -> bool:
    """Whether a mounted file has been replaced where it came from: then nothing has its name any more."""
    try:
        return path.stat().st_nlink == 0
    except OSError:
        return True
