"""Which ranges stay closed to this node's containers after it has left a cluster.

Connections with containers of other nodes do not end with the membership: each side goes on sending for minutes, and
what went through the tunnel would now go out by the default route, in clear. So the former cluster's ranges stay closed,
in the firewall and for containers only, as long as one of the networks is there that had part in it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from pathlib import Path

import msgspec
import structlog

from plugin.model import IPNet, ip_network
from stackpad import files, jsontext
from stackpad.errors import Unavailable


class _Kept(msgspec.Struct, frozen=True):
    ranges: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()


class Fence:
    """What is kept closed, and the file ``fence.json`` that says so to the next process; blocking, rarely written."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "fence.json"
        self._networks: frozenset[str] = frozenset()
        self._ranges: frozenset[IPNet] = frozenset()
        with contextlib.suppress(OSError, msgspec.MsgspecError, ValueError):
            kept = jsontext.decode(self._path.read_bytes(), type=_Kept)
            self._ranges, self._networks = frozenset(map(ip_network, kept.ranges)), frozenset(kept.networks)

    def keep(self, ranges: Iterable[IPNet], networks: Iterable[str]) -> None:
        """This node leaves: keep ``ranges`` closed, beside what was before, until all of ``networks`` (ids) are gone."""
        self._ranges |= frozenset(ranges)
        self._networks |= frozenset(networks)
        self._write()

    def closed(self, networks: Collection[str]) -> frozenset[IPNet]:
        """The ranges that stay closed while ``networks`` are there."""
        there = self._networks.intersection(networks)
        if there != self._networks:
            self._networks = there
            if not there:
                self._ranges = frozenset()
            self._write()
        return self._ranges

    def _write(self) -> None:
        try:
            if self._networks:
                kept = _Kept(tuple(sorted(map(str, self._ranges))), tuple(sorted(self._networks)))
                files.replace(self._path, msgspec.json.encode(kept))
            else:
                self._ranges = frozenset()
                self._path.unlink(missing_ok=True)
        except (OSError, Unavailable) as error:
            structlog.get_logger("mesh").warning("the closed ranges are known until a restart only", reason=str(error))
