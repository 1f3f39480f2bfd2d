"""Our route on Caddy's HTTP port: what answers when somebody looks whether a domain points here.

Caddy adds its redirects to HTTPS to whatever server listens on that port, after routes such as ours, so that every other
request is sent on as before (both 2.6 and 2.11 do). An operator's server there gets our route as its first; where there
is none, a server of our own is made, at the addresses of the one for HTTPS.
"""

from __future__ import annotations

import copy
from typing import Any

import structlog

from ingress.caddy import config, survey
from ingress.caddy.adminapi import AdminApi, Rejected
from ingress.settings import Settings


class ProofRoute:
    """Keeps the route where it belongs, or away where domains are not proved over HTTP."""

    def __init__(self, api: AdminApi, settings: Settings, *, wanted: bool) -> None:
        self._api, self._settings, self._wanted = api, settings, wanted
        self._refused: str | None = None
        self._log = structlog.get_logger("caddy")

    def rehearsal(self, api: AdminApi) -> ProofRoute:
        """The same, telling ``api`` instead."""
        made = copy.copy(self)
        made._api = api
        return made

    def forget(self) -> None:
        """It may be another Caddy than before: what that one refused, this one may take."""
        self._refused = None

    async def in_step(self) -> bool:
        """Whether Caddy has it, or has refused it already."""
        return self._refused is not None or self._fits(await self._there())

    async def ensure(self) -> None:
        """Bring Caddy to it. A Caddy that refuses is told once; hosts are served all the same, and proved by DNS only."""
        if self._refused is not None:
            return
        there = await self._there()
        if self._fits(there):
            return
        try:
            if not self._wanted:
                await self._remove()
            elif there is not None:
                await self._api.change("PATCH", f"/id/{config.PROOF}", self._route())
            else:
                await self._insert()
        except Rejected as error:
            self._refused = str(error)
            self._log.warning(
                "Caddy has no place for the answers on its HTTP port; DNS proves domains", reason=str(error)
            )

    def _fits(self, there: Any) -> bool:
        return bool(there == (self._route() if self._wanted else None))

    async def _there(self) -> Any:
        return await self._api.get(f"/id/{config.PROOF}")

    def _route(self) -> config.Json:
        return config.proof_route(self._settings.ask_address)

    async def _insert(self) -> None:
        tree, chosen = await self._api.tree(), self._settings
        name = survey.find_server(tree, chosen.http_port)
        if name is None:
            listen = survey.beside(tree, chosen.https_port, chosen.http_port)
            server = config.proof_server(self._route(), listen, redirected=survey.redirects(tree))
            await self._api.create(("apps", "http", "servers", config.PROOF_SERVER), server)
        elif tree["apps"]["http"]["servers"][name].get("routes"):
            await self._api.change("PUT", f"/config/apps/http/servers/{name}/routes/0", self._route())
        else:
            await self._api.append(("apps", "http", "servers", name, "routes"), self._route())

    async def _remove(self) -> None:
        own = await self._api.get(f"/id/{config.PROOF_SERVER}") is not None
        await self._api.change("DELETE", f"/id/{config.PROOF_SERVER if own else config.PROOF}")
