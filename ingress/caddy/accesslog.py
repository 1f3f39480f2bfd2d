"""The access log in Caddy: that our server writes one, and where it goes; only where the operator asks for it.

A server that has settings for its log keeps them: it is the operator's, and what we add to each line is in that log.
"""

from __future__ import annotations

import copy
from typing import Any

import structlog

from ingress.caddy import survey
from ingress.caddy.adminapi import AdminApi, Rejected
from ingress.caddy.config import Json
from ingress.settings import Settings

NAME = "stackpad"
SERVER, SINK, DEFAULT = "stackpad-access", "stackpad-log", "stackpad-log-default"
"""Our ``@id`` s: that the server logs, where that goes, and that Caddy's other log has none of it."""

LOGGER = f"http.log.access.{NAME}"


class AccessLog:
    """Keeps these where they belong, or away where no log is asked for."""

    def __init__(self, api: AdminApi, settings: Settings) -> None:
        self._api, self._settings = api, settings
        self._settled = False
        self._log = structlog.get_logger("caddy")

    def rehearsal(self, api: AdminApi) -> AccessLog:
        """The same, telling ``api`` instead."""
        made = copy.copy(self)
        made._api = api
        return made

    def forget(self) -> None:
        """It may be another Caddy than before."""
        self._settled = False

    async def in_step(self) -> bool:
        """Whether nothing is to be done."""
        if self._settled:
            return True
        return self._settings.access_log == "" and not [one for one in (SERVER, SINK, DEFAULT) if await self._has(one)]

    async def ensure(self) -> None:
        """Bring Caddy to it, once for as long as it keeps what it has; one that refuses is told once, and serves on."""
        if self._settled:
            return
        try:
            if self._settings.access_log:
                await self._put()
            else:
                await self._remove()
        except Rejected as error:
            self._log.warning("Caddy writes no access log", reason=str(error))
        self._settled = True

    async def _put(self) -> None:
        tree = await self._api.tree()
        name = survey.find_server(tree, self._settings.https_port)
        server = (((tree.get("apps") or {}).get("http") or {}).get("servers") or {}).get(name) or {}
        there = server.get("logs")
        if there is not None and there.get("@id") != SERVER:
            self._log.info("the operator's server has a log of its own: its lines say whose visit it was", server=name)
            return
        logs = (tree.get("logging") or {}).get("logs") or {}
        if logs.get(NAME) != sink(self._settings.access_log):
            if await self._has(SINK):
                await self._api.change("DELETE", f"/id/{SINK}")
            await self._api.create(("logging", "logs", NAME), sink(self._settings.access_log))
        if "default" not in logs:
            await self._api.create(("logging", "logs", "default"), {"@id": DEFAULT, "exclude": [LOGGER]})
        if there is None:
            await self._api.create(
                ("apps", "http", "servers", str(name), "logs"), {"@id": SERVER, "default_logger_name": NAME}
            )

    async def _remove(self) -> None:
        for one in (SERVER, SINK, DEFAULT):
            if await self._has(one):
                await self._api.change("DELETE", f"/id/{one}")

    async def _has(self, name: str) -> bool:
        found: Any = await self._api.get(f"/id/{name}")
        return found is not None


def sink(where: str) -> Json:
    """Where the lines go, as JSON: a file by its path as Caddy sees it, or one of its own streams."""
    writer = {"output": where} if where in {"stdout", "stderr"} else {"output": "file", "filename": where}
    return {"@id": SINK, "writer": writer, "encoder": {"format": "json"}, "include": [LOGGER]}
