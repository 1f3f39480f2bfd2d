"""Tells this node's plugin where numbers of web services lead, over its socket for the ingress.

Only what has changed is said; the whole where it is not sure what the plugin has, and now and then.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping

import aiohttp
import msgspec

from stackpad import jsontext
from stackpad.errors import NotFound, StackpadError, Unavailable
from stackpad.listening import Place

TIMEOUT = 10.0
"""Seconds an answer may take; it comes when the kernel has what was said."""

WHOLE_EVERY = 300.0
"""Seconds after which the whole is said again."""

Leads = Mapping[int, tuple[str, ...]]


class NetSocket:
    """The plugin at its socket."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._acknowledged: dict[int, tuple[str, ...]] | None = None
        self._whole_at = 0.0

    @property
    def exists(self) -> bool:
        """Whether there is a socket at all."""
        return self._place.now.exists()

    async def numbers(self) -> frozenset[int]:
        """The numbers that the plugin has; raises what :meth:`have` raises."""
        answer = await self._ask("GET", None)
        return frozenset(map(int, jsontext.decode(answer, type=dict[str, msgspec.Raw])))

    async def have(self, wanted: Leads) -> None:
        """Return when the kernel has this.

        Raises :class:`NotFound` where there is no plugin or one that is too old, and :class:`Unavailable` where it does
        not answer or cannot do it.
        """
        known = self._acknowledged
        if known is None or time.monotonic() > self._whole_at:
            await self._replace(wanted)
            return
        changes: dict[str, tuple[str, ...] | None] = {
            str(number): leads for number, leads in wanted.items() if known.get(number) != leads
        }
        changes.update((str(number), None) for number in known.keys() - wanted.keys())
        if not changes:
            return
        try:
            there = _count(await self._ask("PATCH", msgspec.json.encode(changes)))
        except StackpadError:
            self._acknowledged = None  # some of it may have been taken
            raise
        self._acknowledged = dict(wanted)
        if there != len(wanted):
            await self._replace(wanted)

    async def _replace(self, wanted: Leads) -> None:
        self._acknowledged = None
        await self._ask("PUT", msgspec.json.encode({str(number): leads for number, leads in wanted.items()}))
        self._acknowledged = dict(wanted)
        self._whole_at = time.monotonic() + WHOLE_EVERY

    async def _ask(self, method: str, body: bytes | None) -> bytes:
        there = self._place.now
        if not there.exists():
            raise NotFound(f"there is no plugin at {there}")
        try:
            async with (
                aiohttp.ClientSession(
                    connector=aiohttp.UnixConnector(str(there)), timeout=aiohttp.ClientTimeout(TIMEOUT)
                ) as session,
                session.request(
                    method, "http://plugin/upstreams", data=None if body is None else io.BytesIO(body)
                ) as response,
            ):
                answer = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(f"the plugin at {there} does not answer: {type(error).__name__} {error}") from error
        if response.status in {404, 405}:
            raise NotFound(f"the plugin at {there} is older than this ingress and keeps no upstreams; upgrade it")
        if response.status != 200:
            raise Unavailable(f"the plugin did not take the upstreams ({response.status}): {_reason(answer)}")
        return answer


def _count(answer: bytes) -> int:
    try:
        return jsontext.decode(answer, type=dict[str, int]).get("numbers", -1)
    except msgspec.MsgspecError:
        return -1


def _reason(answer: bytes) -> str:
    try:
        return jsontext.decode(answer, type=dict[str, str]).get("error", "")
    except msgspec.MsgspecError:
        return answer[:200].decode(errors="replace")
