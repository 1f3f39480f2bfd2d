"""Caddy's admin API on its unix socket: observes our objects in its configuration, and puts them there.

One writer, one request at a time: a write by ``@id`` resolves the id before it takes the lock, and two at once can hit
the wrong object. A connection is not used twice, because every change restarts the listener. Nothing that is not ours is
changed; ``/load`` is never used.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

import aiohttp
import structlog

from ingress import caddyconfig
from ingress.caddyconfig import Json
from ingress.routes import HostRoute, Table
from ingress.settings import Settings
from stackpad.errors import InvalidRequest, StackpadError, Unavailable

TIMEOUT = 30.0
"""Seconds; Caddy sets everything up anew for a change, which takes it a while with ten thousand hosts."""


class Rejected(StackpadError):
    """Caddy understood the request and refused what it said."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What Caddy has taken: how many writes that took, and the hosts it would not have, with its reason."""

    writes: int
    rejected: dict[str, str]


class Caddy:
    """The Caddy behind one admin socket."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keep_streams: bool | None = None
        self._accepted: frozenset[HostRoute] = frozenset()
        self._given: str | None = None
        self._writes = 0
        self._log = structlog.get_logger("caddy")

    async def generation(self) -> str | None:
        """The generation of our object there, ``None`` if it is not; raises :class:`Unavailable` if Caddy is not."""
        status, body = await self._request("GET", f"/id/{caddyconfig.MARKER}/stackpad_generation")
        return str(json.loads(body)) if status == 200 else None

    async def apply(self, table: Table) -> Applied:
        """Bring Caddy to ``table``; a host it refuses is left out, and only that.

        Raises :class:`Unavailable` if Caddy does not answer, :class:`InvalidRequest` if the operator's configuration
        leaves no place for ours.
        """
        self._writes = 0
        rejected: dict[str, str] = {}
        try:
            await self._put(table)
            self._accepted = frozenset(table.hosts)
        except Rejected as error:
            rejected = await self._isolate(table, error)
        return Applied(self._writes, rejected)

    async def in_step(self) -> bool:
        """Whether Caddy has what it was given last."""
        return self._given is not None and await self.generation() == self._given

    async def _isolate(self, table: Table, error: Rejected) -> dict[str, str]:
        """Find the entries Caddy refuses, by halves, among those it has not taken before."""
        good = [host for host in table.hosts if host in self._accepted]
        suspects = [host for host in table.hosts if host not in self._accepted]
        rejected: dict[str, str] = {}
        if not suspects:
            raise InvalidRequest(f"Caddy refuses what it took before: {error}")
        await self._put(_with(table, good))

        async def admit(batch: list[HostRoute]) -> None:
            try:
                await self._put(_with(table, [*good, *batch]))
                good.extend(batch)
            except Rejected as reason:
                if len(batch) == 1:
                    rejected[batch[0].host] = str(reason)
                    return
                half = len(batch) // 2
                await admit(batch[:half])
                await admit(batch[half:])

        await admit(suspects)
        await self._put(_with(table, good))
        self._accepted = frozenset(good)
        return rejected

    async def _put(self, table: Table) -> None:
        if self._keep_streams is None:
            await self._probe(table)
        owned = caddyconfig.route(table, keep_streams=bool(self._keep_streams))
        wanted = caddyconfig.generation(owned)
        there = await self.generation()
        if there is None:
            await self._insert(owned)
        elif there != wanted:
            await self._change("PATCH", f"/id/{caddyconfig.OBJECT}", owned)
        self._given = wanted

    async def _probe(self, table: Table) -> None:
        """Find out once whether this Caddy can keep streams over a change: try it on the empty table."""
        for keep_streams in (True, False):
            owned = caddyconfig.route(Table(), keep_streams=keep_streams)
            try:
                if await self.generation() is None:
                    await self._insert(owned)
                else:
                    owned = caddyconfig.route(table, keep_streams=keep_streams)
                    await self._change("PATCH", f"/id/{caddyconfig.OBJECT}", owned)
            except Rejected as error:
                if not keep_streams:
                    raise InvalidRequest(f"Caddy refuses even an empty table: {error}") from error
                continue
            self._keep_streams = keep_streams
            self._log.info("found out what Caddy can do", streams_survive_changes=keep_streams)
            return

    async def _insert(self, owned: Json) -> None:
        """Put our route, error pages and TLS policy where they are missing, beside whatever is there."""
        await self._insert_tls(await self._tree())
        tree = await self._tree()
        name = caddyconfig.find_server(tree, self._settings.https_port)
        if name is None:
            wanted = caddyconfig.server(owned, self._settings.https_port)
            path, value = caddyconfig.missing(tree, ("apps", "http", "servers", "stackpad"), wanted)
            await self._change("PUT", f"/config/{path}", value)
            return
        server = tree["apps"]["http"]["servers"][name]
        place = ("apps", "http", "servers", name)
        if caddyconfig.ERRORS not in json.dumps(server.get("errors") or {}):
            await self._append(tree, (*place, "errors", "routes"), caddyconfig.errors())
        await self._append(tree, (*place, "routes"), owned)

    async def _insert_tls(self, tree: Json) -> None:
        chosen = self._settings
        automation = ((tree.get("apps") or {}).get("tls") or {}).get("automation") or {}
        policies = automation.get("policies") or []
        if not any(policy.get("@id") == caddyconfig.POLICY for policy in policies):
            if any(not policy.get("subjects") for policy in policies):
                self._log.warning("the operator's TLS policy for all names stays in force; ours is not added")
            else:
                policy = caddyconfig.policy(
                    tls=chosen.tls, email=chosen.acme_email, ca=chosen.acme_ca, ca_root=chosen.acme_ca_root
                )
                if chosen.tls == "internal":
                    await self._leave_trust_alone(tree)
                # Permission first: an on-demand policy without one would have a certificate for any name.
                await self._permit(await self._tree(), automation)
                await self._append(await self._tree(), ("apps", "tls", "automation", "policies"), policy)

    async def _leave_trust_alone(self, tree: Json) -> None:
        """Have Caddy's own authority not install itself into the machine's trust store, at every change anew."""
        path = ("apps", "pki", "certificate_authorities", "local")
        if _at(tree, path) is None:
            place, value = caddyconfig.missing(tree, path, {"install_trust": False})
            await self._change("PUT", f"/config/{place}", value)

    async def _permit(self, tree: Json, automation: Json) -> None:
        if automation.get("on_demand"):
            self._log.warning("the operator's on-demand settings stay in force", settings=automation["on_demand"])
            return
        endpoint = f"http://{_bracketed(self._settings.ask_host)}:{self._settings.ask_port}/ask"
        path = ("apps", "tls", "automation", "on_demand")
        for module in (True, False):
            place, value = caddyconfig.missing(tree, path, caddyconfig.permission(endpoint, module=module))
            try:
                await self._change("PUT", f"/config/{place}", value)
            except Rejected:
                if not module:
                    raise
            else:
                return

    async def _append(self, tree: Any, path: tuple[str, ...], item: Json) -> None:
        place, value = caddyconfig.missing(tree, path, [item])
        if place == "/".join(path) and _at(tree, path) is not None:
            await self._change("POST", f"/config/{place}", item)
        else:
            await self._change("PUT", f"/config/{place}", value)

    async def _tree(self) -> Json:
        _, body = await self._request("GET", "/config/")
        return json.loads(body) or {}

    async def _change(self, method: str, path: str, body: Any) -> None:
        self._writes += 1
        status, answer = await self._request(method, path, body)
        if status >= 400:
            raise Rejected(_reason(answer) or f"{method} {path} answered {status}")

    async def _request(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        socket = self._settings.caddy_admin
        if not os.path.exists(socket):  # noqa: ASYNC240 - one look at a directory in memory
            raise Unavailable(f"Caddy's admin socket {socket} is not there; is Caddy running, with that as its admin?")
        # Caddy 2.6 compares Host with its list of origins, and for a unix socket the list has the empty one.
        headers = {"Host": "", "Content-Type": "application/json"}
        try:
            async with (
                aiohttp.ClientSession(
                    connector=aiohttp.UnixConnector(str(socket), force_close=True),
                    timeout=aiohttp.ClientTimeout(TIMEOUT),
                ) as session,
                session.request(
                    method,
                    f"http://caddy{path}",
                    headers=headers,
                    data=None if body is None else json.dumps(body).encode(),
                ) as response,
            ):
                return response.status, await response.text()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(f"Caddy at {socket} does not answer: {type(error).__name__} {error}") from error


def _with(table: Table, hosts: list[HostRoute]) -> Table:
    return Table(tuple(sorted(hosts, key=lambda host: host.host)), table.claims, table.problems)


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        tree = tree.get(step) if isinstance(tree, dict) else None
    return tree


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _reason(answer: str) -> str:
    try:
        return str(json.loads(answer)["error"])
    except (ValueError, KeyError, TypeError):
        return answer.strip()
