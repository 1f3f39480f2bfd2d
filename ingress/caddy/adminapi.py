"""Caddy's admin API on its unix socket: one request at a time, one connection each.

A write by ``@id`` resolves the id before it takes the lock, and two at once can hit the wrong object: there is one
writer, and it is the only user of this. A connection is not used twice, because every change restarts the listener.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from ingress.caddy import survey
from stackpad.errors import StackpadError, Unavailable

TIMEOUT = 30.0
"""Seconds; Caddy sets everything up anew for a change, which takes it a while with ten thousand hosts."""


NOBODY = frozenset({errno.ENOENT, errno.ECONNREFUSED})
"""What a socket says that is gone, or that a process has left which was killed."""


class Rejected(StackpadError):
    """Caddy understood the request and refused what it said."""


class NotRunning(Unavailable):
    """Nobody listens at Caddy's socket. Other failures leave visitors what they had; this one most likely does not."""


class AdminApi:
    """What can be asked of, and told to, the Caddy behind one socket. ``writes`` counts what it was told."""

    def __init__(self, socket: Path) -> None:
        self.writes = 0
        self._socket = socket

    async def get(self, path: str) -> Any:
        """What is at ``path`` (``/config/…`` or ``/id/…``), ``None`` if nothing is; raises :class:`Unavailable`."""
        status, body = await self._request("GET", path)
        try:
            return json.loads(body) if status == 200 else None
        except ValueError as error:
            raise Unavailable(f"what answers at {self._socket} is no Caddy: {body[:80]!r}") from error

    async def change(self, method: str, path: str, body: Any = None) -> None:
        """Tell Caddy; raises :class:`Rejected` with its own words, or :class:`Unavailable`."""
        self.writes += 1
        status, answer = await self._request(method, path, body)
        if status >= 400:
            raise Rejected(_reason(answer) or f"{method} {path} answered {status}")

    async def create(self, path: Sequence[str], value: Any) -> None:
        """Put ``value`` at a path below ``/config`` that has nothing yet, with whatever is missing above it."""
        place, whole = survey.missing(await self.tree(), path, value)
        await self.change("PUT", f"/config/{place}", whole)

    async def append(self, path: Sequence[str], item: Any) -> None:
        """Add ``item`` to the end of the list at a path below ``/config``, making the list if there is none."""
        there = await self.tree()
        for step in path:
            there = there.get(step) if isinstance(there, dict) else None
        if there is None:
            await self.create(path, [item])
        else:
            await self.change("POST", f"/config/{'/'.join(path)}", item)

    async def tree(self) -> Any:
        """Caddy's whole configuration; empty where it has none."""
        return await self.get("/config/") or {}

    async def _request(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        if not os.path.exists(self._socket):  # noqa: ASYNC240 - one look at a directory in memory
            raise NotRunning(
                f"Caddy's admin socket {self._socket} is not there; is Caddy running, with that as its admin?"
            )
        # Caddy 2.6 compares Host with its list of origins, and for a unix socket the list has the empty one.
        headers = {"Host": "", "Content-Type": "application/json"}
        try:
            async with (
                aiohttp.ClientSession(
                    connector=aiohttp.UnixConnector(str(self._socket), force_close=True),
                    timeout=aiohttp.ClientTimeout(TIMEOUT),
                ) as session,
                session.request(
                    method,
                    f"http://caddy{path}",
                    headers=headers,
                    data=None if body is None else msgspec.json.encode(body),
                ) as response,
            ):
                return response.status, await response.text()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if isinstance(error, OSError) and error.errno in NOBODY:
                raise NotRunning(
                    f"nobody listens at Caddy's admin socket {self._socket}; is Caddy running, with that as its admin?"
                ) from error
            raise Unavailable(f"Caddy at {self._socket} does not answer: {type(error).__name__} {error}") from error


def _reason(answer: str) -> str:
    try:
        return str(json.loads(answer)["error"])
    except (ValueError, KeyError, TypeError):
        return answer.strip()
