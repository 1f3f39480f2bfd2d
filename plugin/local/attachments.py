"""Which names the containers behind our endpoints have, learnt from the engine as they start and stop.

The driver is told no names. Here each container that starts, or is connected while it runs, is inspected at once, and
one that stops is dropped at once: others find it by these names. Events are hints; whenever some may have been missed,
all running containers are listed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from stackpad.engine import RESYNC, Engine
from stackpad.errors import NotFound, Unavailable
from stackpad.runtime import Backoff

_FILTERS = {
    "type": ["container", "network"],
    "event": ["start", "die", "destroy", "rename", "connect", "disconnect", "unpause", "restart"],
}

LONGEST = 253
"""RFC 1035 §2.3.4: a name has at most this many characters."""

NAMES, PORTS = 64, 64
"""Names and ports of an attachment, the first and the lowest of them; the rest is not told to anybody.

A tenant says as many as he likes (``--expose 1-65535``), all nodes keep them, and a store takes only so much at a time.
"""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A running container's end of an endpoint; ``names`` in lower case, ``ports`` as ``5432/tcp``, few of both."""

    endpoint: str
    container: str
    container_name: str
    network: str
    names: tuple[str, ...]
    ports: tuple[str, ...]


class Attachments:
    """The attachments of running containers by endpoint id, as last heard.

    ``wanted`` says which networks (by id) are ours; ``changed`` is called after each change.
    """

    def __init__(self, engine: Engine, wanted: Callable[[str], bool], changed: Callable[[], None]) -> None:
        self.by_endpoint: dict[str, Attachment] = {}
        self.complete = asyncio.Event()
        self._engine, self._wanted, self._changed = engine, wanted, changed
        self._log = structlog.get_logger("attachments")

    def container_of(self, endpoint: str) -> str:
        """What the endpoint's container is called; empty while that is not known."""
        attachment = self.by_endpoint.get(endpoint)
        return "" if attachment is None else attachment.container_name

    async def run(self) -> None:
        """Follow the engine until cancelled."""
        async for event in self._engine.events(_FILTERS):
            if event is RESYNC:
                await self._list()
                continue
            container = event.attributes.get("container", "") if event.type == "network" else event.id
            if event.type == "container" and event.action in {"die", "destroy"}:
                self._drop(container)
            elif container:
                await self._look(container)

    async def _list(self) -> None:
        backoff = Backoff(0.1, 2.0)
        while True:
            try:
                running = await self._engine.containers({"status": "running"})
                found: dict[str, Attachment] = {}
                for container in running:
                    # What a list says of a container lacks its aliases.
                    if any(self._wanted(str(n.get("NetworkID", ""))) for n in _networks(container).values()):
                        found.update(await self._inspect(str(container["Id"])))
            except Unavailable as error:
                self._log.debug("the engine does not answer", reason=str(error))
                await asyncio.sleep(next(backoff))
                continue
            self.complete.set()
            if found != self.by_endpoint:
                self.by_endpoint = found
                self._changed()
            return

    async def _look(self, container: str) -> None:
        try:
            found = await self._inspect(container)
        except Unavailable as error:
            self._log.debug("the engine does not answer", reason=str(error))
            await self._list()
            return
        before = {key: item for key, item in self.by_endpoint.items() if item.container == container}
        if found != before:
            self.by_endpoint = {key: item for key, item in self.by_endpoint.items() if key not in before} | found
            self._changed()

    async def _inspect(self, container: str) -> dict[str, Attachment]:
        try:
            inspected = await self._engine.inspect(container)
        except NotFound:
            return {}
        return {item.endpoint: item for item in attachments(inspected) if self._wanted(item.network)}

    def _drop(self, container: str) -> None:
        left = {key: item for key, item in self.by_endpoint.items() if item.container != container}
        if len(left) != len(self.by_endpoint):
            self.by_endpoint = left
            self._changed()


def attachments(inspected: Mapping[str, Any]) -> list[Attachment]:
    """What ``GET /containers/<id>/json`` says of a running container's networks; nothing of one that is not running.

    The names are those that the engine's own resolver answers: the container's, its aliases (with the service of a
    Compose file among them) and, from Docker 25 on, the list ``DNSNames``.
    """
    state = inspected.get("State") or {}
    if not state.get("Running") or state.get("Restarting"):
        return []
    own = str(inspected.get("Name") or "").lstrip("/")
    exposed = (inspected.get("Config") or {}).get("ExposedPorts") or {}
    ports = tuple(sorted((str(port) for port in exposed if _is_port(str(port))), key=_number)[:PORTS])
    found = []
    for attached in _networks(inspected).values():
        if not attached.get("EndpointID"):
            continue
        given = [own, *(attached.get("Aliases") or ()), *(attached.get("DNSNames") or ())]
        names = tuple(dict.fromkeys(name.lower() for name in map(str, given) if _is_name(name)))
        found.append(
            Attachment(
                endpoint=str(attached["EndpointID"]),
                container=str(inspected.get("Id") or ""),
                container_name=own[:LONGEST],
                network=str(attached.get("NetworkID") or ""),
                names=names[:NAMES],
                ports=ports,
            )
        )
    return found


def _networks(container: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    found = (container.get("NetworkSettings") or {}).get("Networks") or {}
    return {name: value for name, value in found.items() if isinstance(value, Mapping)}


def _is_name(name: str) -> bool:
    labels = name.split(".")
    return (
        0 < len(name) <= LONGEST
        and name.isascii()
        and all(0 < len(label) <= 63 and set(label) <= _NAME_CHARACTERS for label in map(str.lower, labels))
    )


_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")


def _is_port(text: str) -> bool:
    number, _, protocol = text.partition("/")
    return re.fullmatch("[0-9]{1,5}", number) is not None and 0 < int(number) < 65536 and protocol in {"tcp", "udp"}


def _number(port: str) -> tuple[int, str]:
    number, _, protocol = port.partition("/")
    return int(number), protocol
