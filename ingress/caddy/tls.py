"""Our part of Caddy's TLS: the operator's certificate files, wildcards by DNS, and one policy by which all other hosts
have their certificates on demand, with who is asked before.

Level-triggered: what is there is looked at each time, and only what is missing or different is written. An operator's own
policies and permission stay as they are.
"""

from __future__ import annotations

import copy
from typing import Any

import structlog

from ingress.caddy import config, survey
from ingress.caddy.adminapi import AdminApi, Rejected
from ingress.caddy.config import Json
from ingress.caddy.loadfiles import LoadedFiles
from ingress.caddy.wildcards import Wildcards
from ingress.certificates.files import CertificateFiles
from ingress.certificates.reading import Pair, by_name
from ingress.routes import Table
from ingress.settings import Settings

_AUTOMATION = ("apps", "tls", "automation")
_PATH = "/config/" + "/".join(_AUTOMATION)
_TLS = "/config/apps/tls"


class Certificates:
    """Keeps files, policies and permission where they belong."""

    def __init__(self, api: AdminApi, settings: Settings) -> None:
        self._api, self._settings = api, settings
        self._files = LoadedFiles(api, CertificateFiles(settings.certificates))
        dns = settings.acme_dns
        authority = config.authority(
            email=settings.acme_email, ca=settings.acme_ca, ca_root=settings.acme_ca_root, dns=dns
        )
        self._wildcards = Wildcards(api, authority if dns else None)
        self._taken: frozenset[str] = frozenset()
        self._log = structlog.get_logger("caddy")

    @property
    def pairs(self) -> list[Pair]:
        """The operator's certificates that Caddy has."""
        return self._files.pairs

    @property
    def problems(self) -> list[str]:
        """Why other certificates are not used as the operator asks."""
        return [*self._files.problems, *filter(None, [self._wildcards.problem])]

    def wildcards(self, table: Table) -> list[str]:
        """Names such as ``*.acme.example.org`` that Caddy has certificates for by DNS."""
        others = {*by_name(self._files.pairs), *self._taken}
        return self._wildcards.wanted(table, self._settings.base_domain, others)

    def rehearsal(self, api: AdminApi) -> Certificates:
        """The same, telling ``api`` instead."""
        made = copy.copy(self)
        made._api, made._files, made._wildcards = api, self._files.rehearsal(api), self._wildcards.rehearsal(api)
        return made

    def forget(self) -> None:
        """It may be another Caddy than before: what that one would not have is tried again."""
        self._files.forget()
        self._wildcards.forget()

    async def in_step(self, table: Table) -> bool:
        """Whether Caddy has what ``table`` needs."""
        await self._files.look()
        tls = await self._api.get(_TLS)
        return (
            self._fits(table, (tls or {}).get("automation"))
            and self._files.fits(tls)
            and self._wildcards.fits(tls, self.wildcards(table))
        )

    async def ensure(self, table: Table) -> None:
        """Bring Caddy to what ``table`` needs; raises :class:`Rejected` or :class:`stackpad.errors.Unavailable`."""
        tls = await self._api.get(_TLS)
        # Files first: while one of them cannot be used, Caddy refuses everything else.
        await self._files.ensure(tls)
        await self._ensure_policy(table, (tls or {}).get("automation"))
        tls = await self._api.get(_TLS)
        if not self._wildcards.fits(tls, self.wildcards(table)):
            self._taken = survey.taken(await self._api.tree())
            await self._wildcards.ensure(tls, self.wildcards(table))

    async def mend(self, error: Rejected) -> bool:
        """After Caddy refused something: whether that was for a certificate file, and is over."""
        return await self._files.mend(error)

    async def _ensure_policy(self, table: Table, automation: Any) -> None:
        if self._fits(table, automation):
            return
        self._taken = survey.taken(await self._api.tree())
        if not survey.asks(automation):
            # Permission first: a policy without it would have Caddy 2.6 get a certificate for any name.
            await self._permit(automation)
        ours, for_all = survey.policy_place(automation)
        if ours is not None and for_all is not None and for_all < ours:
            await self._api.change("DELETE", f"/id/{config.POLICY}")
            ours = None
        if ours is not None:
            if automation["policies"][ours] != self._wanted(table):
                await self._api.change("PATCH", f"/id/{config.POLICY}", self._wanted(table))
            return
        if survey.asks(automation) and self._settings.ask_address not in str(automation["on_demand"]):
            self._log.warning("the operator's own question before certificates stays; it has to allow our hosts, too")
        if self._settings.tls == "internal":
            await self._leave_trust_alone()
        if for_all is None:
            await self._api.append((*_AUTOMATION, "policies"), self._wanted(table))
        else:
            await self._api.change("PUT", f"{_PATH}/policies/{for_all}", self._wanted(table))

    def _fits(self, table: Table, automation: Any) -> bool:
        ours, for_all = survey.policy_place(automation)
        if ours is None or (for_all is not None and for_all < ours):
            return False
        return bool(automation["policies"][ours] == self._wanted(table)) and survey.asks(automation)

    def _wanted(self, table: Table) -> Json:
        chosen = self._settings
        return config.policy(
            config.subjects(table, chosen.base_domain, self._taken),
            tls=chosen.tls,
            email=chosen.acme_email,
            ca=chosen.acme_ca,
            ca_root=chosen.acme_ca_root,
        )

    async def _permit(self, automation: Any) -> None:
        if any(one.get("on_demand") for one in (automation or {}).get("policies") or ()):
            self._log.warning("certificates on demand were had without asking anybody; from now on we are asked")
        *forms, last = config.permission(f"http://{self._settings.ask_address}/ask")
        for key, value in forms:
            try:
                await self._api.create((*_AUTOMATION, "on_demand", key), value)
            except Rejected:
                continue
            return
        await self._api.create((*_AUTOMATION, "on_demand", last[0]), last[1])

    async def _leave_trust_alone(self) -> None:
        """Have Caddy's own authority not install itself into the machine's trust store, at every change anew."""
        path = ("apps", "pki", "certificate_authorities", "local")
        if await self._api.get("/config/" + "/".join(path)) is None:
            await self._api.create(path, {"install_trust": False})
