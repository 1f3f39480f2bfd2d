"""Keeps our objects in Caddy's configuration: observes what is there, and puts there what should be.

Nothing that is not ours is changed, and ``/load`` is never used: an operator's configuration beside ours stays as it is.
What this Caddy can do is found out by trying, never from its version.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import structlog

from ingress.caddy import config, logfields, named, survey, tablelines
from ingress.caddy.accesslog import AccessLog
from ingress.caddy.adminapi import AdminApi, Rejected
from ingress.caddy.config import Json
from ingress.caddy.proofroute import ProofRoute
from ingress.caddy.tls import Certificates
from ingress.owners.ledger import How
from ingress.routes import HostRoute, Table
from ingress.settings import Settings
from stackpad.errors import InvalidRequest

STREAMS = "stream_close_delay"
"""The field that keeps WebSockets when Caddy changes, which 2.6 does not know."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What Caddy has taken: how many writes that took, and the hosts it would not have, with its reason."""

    writes: int
    rejected: dict[str, str] = field(default_factory=dict)


class Caddy:
    """The Caddy behind one admin socket."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._api = AdminApi(settings.caddy_admin)
        self.certificates = Certificates(self._api, settings)
        self._proofs = ProofRoute(self._api, settings, wanted=How.HTTP in settings.domain_proof)
        self._logs = AccessLog(self._api, settings)
        self._keep_streams: bool | None = None
        self._appends: bool | None = None
        self._grace: bool | None = None
        self._accepted: Mapping[str, HostRoute] = {}
        self._refused: dict[HostRoute, str] = {}
        self._given: tuple[str, Table] | None = None
        self._lines: tablelines.Known = {}
        self._log = structlog.get_logger("caddy")

    @property
    def lacks(self) -> list[str]:
        """Words of a configuration that this Caddy is known not to know."""
        known = ((STREAMS, self._keep_streams), (logfields.APPENDS, self._appends), (named.GRACE, self._grace))
        return [word for word, there in known if there is False]

    async def tree(self) -> Json:
        """All that Caddy has, the operator's and ours."""
        found: Json = await self._api.tree()
        return found

    async def operators(self) -> frozenset[str]:
        """Host names that the operator's own configuration is for; raises ``Unavailable`` if Caddy is."""
        return survey.taken(await self._api.tree())

    def rehearsal(self, api: AdminApi) -> Caddy:
        """One that knows what this one has found out, and tells ``api`` instead."""
        made = copy.copy(self)
        made._api = api
        made.certificates = self.certificates.rehearsal(api)
        made._proofs, made._logs = self._proofs.rehearsal(api), self._logs.rehearsal(api)
        return made

    async def generation(self) -> str | None:
        """The generation of our object there, ``None`` if it is not; raises ``Unavailable`` if Caddy is not."""
        found = await self._api.get(f"/id/{config.MARKER}/stackpad_generation")
        return None if found is None else str(found)

    async def in_step(self) -> bool:
        """Whether Caddy has what it was given last."""
        if self._given is None:
            return False
        generation, table = self._given
        if await self.generation() != generation or not await self.certificates.in_step(table):
            return False
        return await self._proofs.in_step() and await self._logs.in_step()

    async def apply(self, table: Table) -> Applied:
        """Bring Caddy to ``table``; a host it refuses is left out, and only that.

        Raises ``Unavailable`` if Caddy does not answer, :class:`Rejected` or :class:`InvalidRequest` if it will have
        nothing of ours at all, as where the operator's configuration leaves no place for it.
        """
        before = self._api.writes
        # Of all hosts, whatever part of them is tried below: most lines are the same the next time.
        self._lines = tablelines.known(table.hosts, bool(self._settings.access_log), self._lines)
        # What was refused is not tried again until it is another entry: each attempt would cost every other host.
        good = list(table.hosts)
        if self._refused:
            self._refused = {host: self._refused[host] for host in table.hosts if host in self._refused}
            good = [host for host in table.hosts if host not in self._refused]
        try:
            await self._put(_with(table, good))
            self._accepted = _by_name(good)
        except Rejected as error:
            await self._isolate(table, good, error)
        # Last: what is served does not wait for it, and is served on where it is refused.
        await self._proofs.ensure()
        await self._logs.ensure()
        return Applied(self._api.writes - before, {host.host: reason for host, reason in self._refused.items()})

    async def _isolate(self, table: Table, wanted: list[HostRoute], error: Rejected) -> None:
        """Find the entries Caddy refuses, by halves, among those it has not taken before."""
        good = [host for host in wanted if self._accepted.get(host.host) == host]
        suspects = [host for host in wanted if self._accepted.get(host.host) != host]
        if not suspects:
            self._accepted = {}  # it may be another Caddy: next time, all are suspects
            raise InvalidRequest(f"Caddy refuses what it took before: {error}") from error
        try:
            await self._put(_with(table, good))
        except Rejected:
            self._accepted = {}  # what it took before is refused now: next time, all are suspects
            raise

        async def admit(batch: list[HostRoute]) -> None:
            try:
                await self._put(_with(table, [*good, *batch]))
                good.extend(batch)
            except Rejected as reason:
                if len(batch) == 1:
                    self._refused[batch[0]] = str(reason)
                    return
                half = len(batch) // 2
                await admit(batch[:half])
                await admit(batch[half:])

        await admit(suspects)
        await self._put(_with(table, good))
        self._accepted = _by_name(good)

    async def _put(self, table: Table) -> None:
        there = await self.generation()
        if there is None:
            self._keep_streams = self._appends = self._grace = None  # it may be another Caddy than before
            self._logs.forget()
            self._given = None
            self._proofs.forget()
            self.certificates.forget()
        try:
            await self._tell(table, there)
        except Rejected as error:
            # No host is to be blamed for a certificate file that has gone bad since Caddy read it.
            if not await self.certificates.mend(error):
                raise
            await self._tell(table, await self.generation())

    async def _tell(self, table: Table, there: str | None) -> None:
        # The certificates' policy first: a host that is served without would fail its first handshakes.
        await self.certificates.ensure(table)
        while True:
            try:
                self._given = (await self._write(table, there), table)
                break
            except Rejected as error:
                if self._keep_streams is None and STREAMS in str(error):
                    self._keep_streams = False
                elif self._appends is None and logfields.APPENDS in str(error):
                    self._appends = False
                elif self._grace is None and named.GRACE in str(error):
                    self._grace = False
                else:
                    raise
        if None in {self._keep_streams, self._appends, self._grace}:
            self._learn()

    async def _write(self, table: Table, there: str | None) -> str:
        log = self._appends is not False if self._settings.access_log else None
        keep, grace, names = self._keep_streams is not False, self._grace is not False, self._settings.names_address
        owned = config.route(table, keep_streams=keep, log=log, names=names, grace=grace, lines=self._lines)
        wanted = config.generation(owned)
        if there is None:
            await self._insert(owned)
        elif there != wanted:
            await self._api.change("PATCH", f"/id/{config.OBJECT}", owned)
        return wanted

    def _learn(self) -> None:
        """What it has taken, it knows."""
        self._keep_streams = self._keep_streams is not False
        self._appends = self._appends is not False
        self._grace = self._grace is not False
        self._log.info("found out what Caddy can do", streams_survive_changes=self._keep_streams)

    async def _insert(self, owned: Json) -> None:
        """Put our route into the server on the HTTPS port, as its last, or into one of our own where there is none."""
        tree = await self._api.tree()
        chosen = self._settings
        name = survey.find_server(tree, chosen.https_port)
        if name is not None:
            await self._api.append(("apps", "http", "servers", name, "routes"), owned)
            return
        http = (tree.get("apps") or {}).get("http") or {}
        for key, port, usual in (("http_port", chosen.http_port, 80), ("https_port", chosen.https_port, 443)):
            if port != usual and key not in http:
                await self._api.create(("apps", "http", key), port)
        await self._api.create(("apps", "http", "servers", "stackpad"), config.server(owned, chosen.https_port))


def _by_name(hosts: Iterable[HostRoute]) -> Mapping[str, HostRoute]:
    return {host.host: host for host in hosts}


def _with(table: Table, hosts: list[HostRoute]) -> Table:
    return replace(table, hosts=tuple(sorted(hosts, key=lambda host: host.host)))
