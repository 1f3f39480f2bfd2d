"""What Caddy is told: one owned object with a table in it; pure.

Layout: most hosts are a line of a ``map`` from host name to upstream or state (:mod:`ingress.caddy.tablelines`), since
Caddy sets a route up anew for every change anywhere and finds it by walking the list. Hosts that need more (replicas,
paths, h2c, options) have a route of their own before it. Names that are in neither are looked up once more among the
wildcards, which have the same layout. Tenants' hosts never stand in a ``host`` matcher: Caddy would manage a certificate
for each.

A service with a stable upstream (:mod:`ingress.upstreams.stable`) is such a line also where it has several containers.

Every unknown host ends in a 404 of ours; Caddy itself would answer 200 with an empty body.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from ingress.caddy import logfields, named, options, passing, replies, tablelines
from ingress.caddy.replies import Json as Json
from ingress.caddy.replies import refusal, static, subroute
from ingress.caddy.tablelines import Known, List
from ingress.owners.proof import PATH
from ingress.routes import HostRoute, PathRoute, Table
from ingress.upstreams.stable import is_stable
from stackpad.hosts import WILDCARD, above
from stackpad.labels import Wire

OBJECT, MARKER, POLICY, DNS_POLICY = "stackpad", "stackpad-gen", "stackpad-tls", "stackpad-dns"
"""Our ``@id`` s in Caddy's configuration: the route, the generation in it, the TLS policies for hosts and wildcards."""

_GENERATION = "stackpad_generation"

PROOF, PROOF_SERVER = "stackpad-proof", "stackpad-http"
"""And those of what answers on the HTTP port when a domain is proved: the route, the server if that is ours."""

FEW = 100
"""Hosts of which a visit's is looked for each time it is asked for: that costs less than a variable."""

HOST, BELOW = named.HOST, "{http.vars.sp_below}"
"""What a host is found by: its name; for wildcards, the one that the name is below of."""


def route(
    table: Table,
    *,
    keep_streams: bool,
    log: bool | None = None,
    names: str = "",
    grace: bool = False,
    lines: Known | None = None,
) -> Json:
    """The owned object. ``keep_streams`` uses ``stream_close_delay``, which Caddy knows since 2.7.

    ``names`` is who is asked for hosts that are found by name (:mod:`ingress.caddy.named`); they are not in the object.
    ``grace`` has Caddy go on with what it was answered last while nobody answers, which it can since 2.8.

    ``log`` has lines of the access log say whose visit it was: in fields of their own, which Caddy knows since 2.8, or
    (false) as it goes before; ``None`` for not at all.

    ``lines`` is what :func:`ingress.caddy.tablelines.known` says of the table's hosts, where that is known already.
    """
    hosts = named.split(table)[1] if names else table.hosts
    logs = log is not None
    known = tablelines.known(hosts, logs, lines or {})
    wild = {key: there for key, there in known.items() if there[0].host.startswith(WILDCARD)}
    exact = {key: there for key, there in known.items() if key not in wild} if wild else known
    last = named.handler(names, keep_streams=keep_streams, grace=grace) if names else static(404)
    unknown = _wildcards(wild, last, keep_streams, logs) if wild else {"handle": [last]}
    numbered = any(is_stable(dial) for host in hosts for path in host.paths for dial in path.upstreams)
    lists, keep, routes = _layout(exact, HOST, "sp_", unknown, keep_streams, logs)
    # Error pages belong to the subroute, not to the server: what the operator's own sites answer is theirs.
    errors = replies.errors()
    before = [*([] if log is None else logfields.handlers(appends=log)), *([passing.turn()] if numbered else [])]
    marker = {"@id": MARKER, "handler": "vars", _GENERATION: digest([*before, *lists, keep, routes, errors])}
    # The marker is where no visit comes by that is answered.
    body = {**subroute(routes), "errors": {"routes": [{"handle": [marker]}, *errors]}}
    # The table as far out as can be: at every change, Caddy reads all that is inside once more for each level.
    return {"@id": OBJECT, "handle": [*before, *lists, *_keeping(keep), body], "terminal": True}


def proof_route(address: str) -> Json:
    """What asks us on the HTTP port for the answers that prove where a domain points; nothing else of ours is there."""
    return {
        "@id": PROOF,
        "match": [{"path": [f"{PATH}*"], "protocol": "http"}],
        "handle": [{"handler": "reverse_proxy", "upstreams": [{"dial": address}]}],
        "terminal": True,
    }


def proof_server(owned: Json, listen: list[str], *, redirected: bool) -> Json:
    """A server of our own for it. Where Caddy adds no redirects to it, it says itself that there is nothing else."""
    rest: list[Json] = [] if redirected else [{"handle": [static(404)], "terminal": True}]
    return {"@id": PROOF_SERVER, "listen": listen, "routes": [owned, *rest]}


def _layout(
    hosts: Known, name: str, prefix: str, unknown: Json, keep_streams: bool, logs: bool
) -> tuple[list[Json], Json, list[Json]]:
    """The table of hosts found by ``name``, what is looked up in it at once, and the routes behind it.

    ``unknown`` is the route for all other hosts. What most visits need is looked up once, and kept in a variable, where
    there are more than :data:`FEW` hosts: each look at a placeholder of the table walks it.
    """
    kept = len(hosts) > FEW
    special = [one for host, line in hosts.values() if line is None for one in _special(host, name, keep_streams, logs)]
    tables = tablelines.tables(name, prefix, hosts, logs)
    routes = [*_states(prefix), unknown]
    dials = [each for each in tablelines.DIALS if each in tables]
    for each in reversed(dials):
        if kept and each is not dials[-1]:
            # For the few that are not found by what all visits look up.
            routes = [{"handle": _keeping(_kept(prefix, dials[-1]))}, *routes]
        variable = f"{prefix}{each}" if kept else tablelines.placeholder(prefix, each)
        nobody = {"match": [{"vars": {variable: [""]}}], "handle": [subroute(routes)], "terminal": True}
        dial = f"{{http.vars.{variable}}}" if kept else variable
        proxy = passing.proxy([dial], Wire.HTTP, keep_streams, stable=each is List.NUMBER)
        routes = [nobody, {"handle": [proxy]}]
    keep = _kept(prefix, dials[0]) if kept else {}
    keep |= {logfields.WHO: tablelines.whose(prefix, tables)} if logs else {}
    table = [one for maps in tables.values() for one in maps]
    return table, keep, [*([{"handle": [subroute(special)]}] if special else []), *routes]


def _keeping(kept: Json) -> list[Json]:
    """The handler that keeps something in variables, if there is anything to be kept."""
    return [{"handler": "vars", **kept}] if kept else []


def _kept(prefix: str, column: str) -> Json:
    return {f"{prefix}{column}": tablelines.placeholder(prefix, column)}


def _states(prefix: str) -> list[Json]:
    """The routes of hosts nobody is up behind."""
    answers: dict[str, Json] = {
        tablelines.DOWN: static(503),
        tablelines.MAINTENANCE: replies.maintenance(),
        tablelines.REDIRECT: replies.redirect(tablelines.placeholder(prefix, tablelines.TO)),
    }
    state = tablelines.placeholder(prefix, List.STATE)
    return [refusal({"vars": {state: [wanted]}}, answer) for wanted, answer in answers.items()]


def _wildcards(hosts: Known, last: Json, keep_streams: bool, logs: bool) -> Json:
    # The first label has a dot for its end and no wildcard in it: a visitor's own "*" stands for nothing.
    below = {"input_regexp": "^[^.*]+\\.(.+)$", "outputs": ["*.$1"]}
    lookup = {
        "handler": "map",
        "source": HOST,
        "destinations": ["{sp_parent}"],
        "mappings": [below],
        "defaults": ["none"],
    }
    # Kept, or the expression would be tried for each wildcard anew.
    below_kept = {"handler": "vars", "sp_below": "{sp_parent}"}
    table, keep, routes = _layout(hosts, BELOW, "sp_wild_", {"handle": [last]}, keep_streams, logs)
    return {"handle": [lookup, below_kept, *table, *_keeping(keep), subroute(routes)]}


def generation(owned: Json) -> str:
    """The generation an owned object carries."""
    return str(owned["handle"][-1]["errors"]["routes"][0]["handle"][0][_GENERATION])


def digest(body: Any) -> str:
    """A short digest of anything JSON can say."""
    return hashlib.sha256(msgspec.json.encode(body, order="sorted")).hexdigest()[:16]


def server(owned: Json, port: int) -> Json:
    """A server of our own, for a Caddy that has none on the HTTPS port."""
    return {"listen": [f":{port}"], "routes": [owned]}


def policy(subjects: Iterable[str], *, tls: str, email: str, ca: str, ca_root: str) -> Json:
    """The policy by which certificates are had on demand, for ``subjects`` and no other name.

    One for all names would take the operator's sites too, those that have no policy: for them we would refuse.
    """
    issuer = {"module": "internal"} if tls == "internal" else authority(email=email, ca=ca, ca_root=ca_root)
    return {"@id": POLICY, "subjects": list(subjects), "on_demand": True, "issuers": [issuer]}


def authority(*, email: str, ca: str, ca_root: str, dns: Json | None = None) -> Json:
    """An ACME authority as issuer; with ``dns``, the provider of Caddy's through which it is shown who we are."""
    issuer: Json = {"module": "acme"}
    issuer |= {"email": email} if email else {}
    issuer |= {"ca": ca} if ca else {}
    issuer |= {"trusted_roots_pem_files": [ca_root]} if ca_root else {}
    issuer |= {"challenges": {"dns": {"provider": dns}}} if dns else {}
    return issuer


def subjects(table: Table, base_domain: str, taken: Collection[str]) -> list[str]:
    """Names our policy is for: all the platform can make, and those custom domains that are not the operator's own."""
    platform = (f"*.*.{base_domain}",)
    custom = (host.host for host in table.hosts if not host.host.endswith(f".{base_domain}"))
    # An operator's site that has no policy would come under a wildcard's.
    beside = {above(name) for name in taken}
    own = (name for name in custom if name not in taken and above(name) not in taken and name not in beside)
    return [*platform, *own]


def permission(endpoint: str) -> tuple[tuple[str, Any], ...]:
    """Who is asked before a certificate is had: key and value in the form since Caddy 2.8, then in the one before."""
    return ("permission", {"module": "http", "endpoint": endpoint}), ("ask", endpoint)


def _special(host: HostRoute, name: str, keep_streams: bool, logs: bool) -> Iterable[Json]:
    for path in host.paths:
        match: Json = {"vars": {name: [host.host]}}
        if path.path:
            match["path"] = [path.path, f"{path.path}/*"]
        remember = [logfields.keep(logfields.who(host.owner, path.service))] if logs else []
        yield {"match": [match], "handle": [*remember, *_handlers(path, keep_streams)], "terminal": True}
    if host.paths[-1].path:
        # Paths alone leave the rest of the host to nobody.
        yield refusal({"vars": {name: [host.host]}}, static(404))


def _handlers(path: PathRoute, keep_streams: bool) -> list[Json]:
    if path.redirect:
        return [replies.redirect(path.redirect)]
    if path.options.maintenance:
        return [replies.maintenance()]
    if not path.upstreams:
        return [static(503)]
    remember, stable = options.remembers(path.options), any(map(is_stable, path.upstreams))
    proxy = passing.proxy(path.upstreams, path.wire, keep_streams, stable=stable)
    return options.around(path, passing.remembering(proxy) if remember and len(path.upstreams) > 1 else proxy)
