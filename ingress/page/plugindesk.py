"""What the plugin tells of containers and environments, for the status page: asked only while somebody looks at it."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import aiohttp
import msgspec

from ingress.page.overview import Attached, PluginWord
from stackpad import jsontext
from stackpad.errors import Unavailable
from stackpad.listening import Place

TIMEOUT = 5.0
MOST = 64 << 20
"""Bytes of an answer that are read; thousands of containers say about a megabyte."""


class _End(msgspec.Struct, frozen=True):
    container: str | None = None


class _Network(msgspec.Struct, frozen=True):
    id: str = ""
    name: str | None = None
    environment: str | None = None
    internal: bool = False
    endpoints: tuple[_End, ...] = ()


class _Service(msgspec.Struct, frozen=True):
    environment: str = ""
    container: str = ""
    node: str = ""


T = TypeVar("T")


class PluginDesk:
    """The plugin at its socket."""

    def __init__(self, place: Place) -> None:
        self._place = place

    async def word(self) -> PluginWord:
        """What it says now; never an error, since the page goes on without."""
        there = self._place.now
        if not await asyncio.to_thread(there.exists):
            return PluginWord()
        timeout = aiohttp.ClientTimeout(TIMEOUT)
        try:
            async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(there)), timeout=timeout) as session:
                networks = await _get(session, "/networks", tuple[_Network, ...])
                services = await _get(session, "/services", tuple[_Service, ...])
        except (aiohttp.ClientError, OSError, TimeoutError, msgspec.MsgspecError, Unavailable) as error:
            reason = str(error) or type(error).__name__
            return PluginWord(problem=f"The plugin at {there} does not say what runs here: {reason}")
        return word(networks, services)


def word(networks: tuple[_Network, ...], services: tuple[_Service, ...]) -> PluginWord:
    """Both answers as one; what runs on this node is in either, and counts once."""
    named = [(one.environment or one.name or one.id[:12], one) for one in networks]
    here = [
        Attached(name, end.container, internal=network.internal)
        for name, network in named
        for end in network.endpoints
        if end.container
    ]
    there = [Attached(one.environment, one.container, one.node) for one in services if one.container and one.environment]
    return PluginWord((*here, *there), tuple((name, network.internal) for name, network in named))


async def _get(session: aiohttp.ClientSession, path: str, kind: type[T]) -> T:
    async with session.get(f"http://plugin{path}") as response:
        body = await response.content.read(MOST)
        if response.status != 200:
            raise Unavailable(f"{path} is answered with {response.status}")
    return jsontext.decode(body, type=kind)
