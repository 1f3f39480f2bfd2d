"""A wildcard certificate for each organisation, by the DNS challenge, where the operator's Caddy has a module for it.

One policy (``stackpad-dns``) before the one that has certificates on demand, and its subjects in Caddy's list of names to
have certificates for. Which of that list are ours follows from the policy that is there: nothing else marks them. A Caddy
without the module refuses the policy; that is told, and certificates are had on demand, host by host, as without it.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import structlog

from ingress.caddy import config, survey
from ingress.caddy.adminapi import AdminApi, Rejected
from ingress.caddy.config import Json
from ingress.routes import Table

POLICY = config.DNS_POLICY
MAX_ORGANISATIONS = 100
"""Authorities count new certificates by the week: one who makes organisations by the thousand is not to use that up."""

_POLICIES = "/config/apps/tls/automation/policies"
_AUTOMATE = ("apps", "tls", "certificates", "automate")


def organisations(table: Table, base_domain: str) -> list[str]:
    """Wildcards for the organisations in the table, the first come first, and no more than are had."""
    since: dict[str, float] = {}
    for host in table.hosts:
        name, _, rest = host.host.partition(".")
        if name and rest.endswith(f".{base_domain}") and "." not in rest.removesuffix(f".{base_domain}"):
            since[rest] = min(host.since, since.get(rest, host.since))
    first = sorted(since, key=lambda one: (since[one], one))[:MAX_ORGANISATIONS]
    return [f"*.{one}" for one in sorted(first)]


class Wildcards:
    """Keeps policy and names where they belong; without an ``issuer`` there are none to be had."""

    def __init__(self, api: AdminApi, issuer: Json | None) -> None:
        self._api, self._issuer = api, issuer
        self._refused: str | None = None
        self._counted: tuple[Table, list[str]] = (Table(), [])
        self._log = structlog.get_logger("certificates")

    @property
    def problem(self) -> str | None:
        """Why there are none although they were asked for."""
        return self._refused

    def rehearsal(self, api: AdminApi) -> Wildcards:
        """The same, telling ``api`` instead."""
        made = copy.copy(self)
        made._api = api
        return made

    def forget(self) -> None:
        """It may be another Caddy, which has the module."""
        self._refused = None

    def wanted(self, table: Table, base_domain: str, others: Collection[str]) -> list[str]:
        """The wildcards to have, without the ``others``, which the operator has otherwise."""
        if self._issuer is None or self._refused is not None:
            return []
        if self._counted[0] is not table:
            self._counted = (table, organisations(table, base_domain))
        return [name for name in self._counted[1] if name not in others]

    def fits(self, tls: Any, subjects: list[str]) -> bool:
        """Whether Caddy's ``tls`` application has what it should."""
        there, before_ours = _place(tls)
        if not subjects:
            return there is None
        return there == self._policy(subjects) and before_ours and set(subjects) <= set(_automated(tls))

    async def ensure(self, tls: Any, subjects: list[str]) -> None:
        """Have Caddy get these; one that has no module for it is told to have none."""
        if self.fits(tls, subjects):
            return
        there, before_ours = _place(tls)
        stale = set(there["subjects"]) - set(subjects) if there else set()
        if stale & set(_automated(tls)):
            await self._automate([name for name in _automated(tls) if name not in stale])
        if there is not None and not (subjects and before_ours):
            await self._api.change("DELETE", f"/id/{POLICY}")
            there = None
        if not subjects:
            return
        policy = self._policy(subjects)
        try:
            if there is None:
                place, _ = survey.policy_place((await self._api.tree())["apps"]["tls"]["automation"])
                await self._api.change("PUT", f"{_POLICIES}/{place or 0}", policy)
            elif there != policy:
                await self._api.change("PATCH", f"/id/{POLICY}", policy)
        except Rejected as error:
            self._refused = self._words(str(error))
            self._log.warning("no wildcard certificates; they are had host by host", reason=self._refused)
            return
        fresh = await self._api.get("/config/apps/tls")
        missing = [name for name in subjects if name not in _automated(fresh)]
        if missing:
            await self._automate([*_automated(fresh), *missing])

    def _policy(self, subjects: Iterable[str]) -> Json:
        return {"@id": POLICY, "subjects": list(subjects), "issuers": [self._issuer]}

    async def _automate(self, names: list[str]) -> None:
        tls = await self._api.get("/config/apps/tls")
        if ((tls or {}).get("certificates") or {}).get("automate") is None:
            await self._api.create(_AUTOMATE, names)
        else:
            await self._api.change("PATCH", f"/config/{'/'.join(_AUTOMATE)}", names)

    def _words(self, reason: str) -> str:
        provider = (((self._issuer or {}).get("challenges") or {}).get("dns") or {}).get("provider") or {}
        name = str(provider.get("name", ""))
        if f"unknown module: dns.providers.{name}" in reason:
            return (
                f"ACME_DNS: this Caddy has no module for {name}; build one with it (xcaddy build --with "
                f"github.com/caddy-dns/{name}) and start it, or unset ACME_DNS"
            )
        return f"ACME_DNS: Caddy refuses it: {_without(reason, provider)[-400:]}"


def _place(tls: Any) -> tuple[Json | None, bool]:
    """Our policy for wildcards, and whether it stands before the one for hosts: Caddy takes the first that fits."""
    policies = ((tls or {}).get("automation") or {}).get("policies") or []
    index = next((index for index, one in enumerate(policies) if one.get("@id") == POLICY), None)
    ours, for_all = survey.policy_place((tls or {}).get("automation"))
    if index is None:
        return None, False
    return policies[index], all(other is None or index < other for other in (ours, for_all))


def _automated(tls: Any) -> list[str]:
    return list(((tls or {}).get("certificates") or {}).get("automate") or [])


def _without(reason: str, provider: Mapping[str, Any]) -> str:
    """Caddy's words without what the operator has set: modules repeat a key that they do not like."""
    for key, value in provider.items():
        if isinstance(value, Mapping):
            reason = _without(reason, value)
        elif key != "name" and len(str(value)) > 3:
            reason = reason.replace(str(value), "…")
    return reason
