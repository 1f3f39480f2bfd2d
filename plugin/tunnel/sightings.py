"""Where other nodes were last heard, on this node's own disk.

A node behind a NAT announces no address, and cannot be called but at the mapping that it keeps open. With
``wireguard-go`` that address is forgotten when the plugin ends; what is read here lets the next process call at once,
instead of waiting until the other one speaks. It is a hint and no more: a file that is lost or damaged costs that wait.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from plugin.wireguard.model import Address
from stackpad import files, jsontext, records
from stackpad.errors import InvalidRequest


class Sightings:
    """The file ``sightings.json``: ``address:port`` by node id; blocking."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "sightings.json"

    def load(self) -> dict[str, Address]:
        """What was kept; without what cannot be read."""
        found: dict[str, Address] = {}
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            for node, text in jsontext.decode(self._path.read_bytes(), type=dict[str, str]).items():
                with contextlib.suppress(InvalidRequest, ValueError):
                    found[node] = records.split_endpoint(text)
        return found

    def save(self, heard: Mapping[str, Address]) -> None:
        """Keep these instead; raises :class:`Unavailable`."""
        if not heard:
            files.remove(self._path)
            return
        texts = {node: records.join_endpoint(address, port) for node, (address, port) in heard.items()}
        files.replace(self._path, msgspec.json.encode(texts))
