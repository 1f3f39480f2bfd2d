"""What the ingress serves itself: what Caddy asks before it has a certificate, and what a domain is asked when it is to
be proved, on loopback; the state for people and the operator's commands, on a socket.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

from ingress.owners.proof import PATH
from stackpad import jsontext
from stackpad.errors import Conflict, InvalidRequest, NotFound, StackpadError

Json = dict[str, Any]

MOST_BODY = 4096
"""Bytes of a command's body: a domain and an owner."""

_STATUS: tuple[tuple[type[StackpadError], int], ...] = (
    (InvalidRequest, 400),
    (NotFound, 404),
    (Conflict, 409),
    (StackpadError, 503),
)


class Domains(Protocol):
    """What the commands about domains are told to."""

    def domains(self) -> list[Json]:
        """Everything known of names."""

    def allow(self, domain: str, owner: str | None) -> Json:
        """Give a domain to an owner."""

    def forbid(self, domain: str) -> Json:
        """Have it served for nobody."""

    def release(self, domain: str) -> Json:
        """End its claim."""

    async def check(self, domain: str) -> Json:
        """Try its proof."""

    def left(self) -> list[Json]:
        """What is still known of names on a node where nothing is decided about them."""

    def forget(self, domain: str) -> Json | None:
        """Forget that of a name; ``None`` if there is nothing."""


class _Domain(msgspec.Struct, forbid_unknown_fields=True):
    domain: str


class _Allowance(msgspec.Struct, forbid_unknown_fields=True):
    domain: str
    owner: str | None = None


T = TypeVar("T", _Domain, _Allowance)


def asked(known: Callable[[str], bool], answer: Callable[[str, str], str | None] | None = None) -> web.Application:
    """Answers ``/ask?domain=…`` from memory: 200 for a host of ours, 404 for every other.

    With ``answer`` (of a number and the host it is asked at), also what proves where a domain points.
    """

    async def ask(request: web.Request) -> web.Response:
        domain = request.query.get("domain", "").lower().rstrip(".")
        return web.Response(status=200 if known(domain) else 404)

    async def prove(request: web.Request) -> web.Response:
        host = request.headers.get("Host", "").partition(":")[0].lower().rstrip(".")
        found = answer(request.match_info["nonce"], host) if answer is not None else None
        headers = {"Cache-Control": "no-store"}
        return web.Response(text=found or "", status=404 if found is None else 200, headers=headers)

    application = web.Application()
    application.router.add_get("/ask", ask)
    application.router.add_get(PATH + "{nonce}", prove)
    return application


async def _unplanned() -> Any:
    raise NotFound("nothing is planned here")


def _here() -> None:
    return None


def admin(
    report: Callable[[], Json],
    registry: CollectorRegistry,
    domains: Domains,
    plan: Callable[[], Awaitable[Any]] = _unplanned,
    elsewhere: Callable[[], str | None] = _here,
) -> web.Application:
    """Answers ``/routes``, ``/domains``, ``/plan``, ``/metrics`` and ``/healthz``, and takes commands about domains, on a
    socket that only root can open. ``plan`` is what would be written to Caddy next. While ``elsewhere`` has a reason why
    no domain is served from this node, commands are refused with it: what they changed would be heeded by nobody. What is
    left here from before can be released all the same.
    """

    async def routes(_: web.Request) -> web.Response:
        return _json(report())

    async def listed(_: web.Request) -> web.Response:
        return _json(domains.domains() if elsewhere() is None else domains.left())

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), content_type="text/plain", charset="utf-8")

    async def health(_: web.Request) -> web.Response:
        current = report()
        well = not current["problem"]
        return web.Response(status=200 if well else 503, text="in step\n" if well else f"{current['problem']}\n")

    async def planned(_: web.Request) -> Json:
        return dict(msgspec.to_builtins(await plan()))

    async def allow(request: web.Request) -> Json:
        wish = await _body(request, _Allowance)
        return domains.allow(wish.domain, wish.owner)

    async def forbid(request: web.Request) -> Json:
        return domains.forbid((await _body(request, _Domain)).domain)

    async def release(request: web.Request) -> Json:
        name = (await _body(request, _Domain)).domain
        if (reason := elsewhere()) is None:
            return domains.release(name)
        if (forgotten := domains.forget(name)) is None:
            raise Conflict(reason)
        return forgotten

    async def check(request: web.Request) -> Json:
        return await domains.check((await _body(request, _Domain)).domain)

    application = web.Application(client_max_size=MOST_BODY)
    application.router.add_get("/routes", routes)
    application.router.add_get("/domains", listed)
    application.router.add_get("/plan", _guarded(planned))
    application.router.add_get("/metrics", metrics)
    application.router.add_get("/healthz", health)
    application.router.add_post("/domain/release", _guarded(release))
    for command in (allow, forbid, check):
        application.router.add_post(f"/domain/{command.__name__}", _guarded(_unless(elsewhere, command)))
    return application


def _unless(
    elsewhere: Callable[[], str | None], command: Callable[[web.Request], Awaitable[Json]]
) -> Callable[[web.Request], Awaitable[Json]]:
    async def here(request: web.Request) -> Json:
        if reason := elsewhere():
            raise Conflict(reason)
        return await command(request)

    return here


def _guarded(command: Callable[[web.Request], Awaitable[Json]]) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A handler that says in a sentence why it has not done what it was told."""

    async def handler(request: web.Request) -> web.Response:
        try:
            return _json(await command(request))
        except StackpadError as error:
            status = next(status for kind, status in _STATUS if isinstance(error, kind))
            return _json({"error": str(error)}, status)

    return handler


async def _body(request: web.Request, kind: type[T]) -> T:
    try:
        return jsontext.decode(await request.read(), type=kind)
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"{request.path} does not understand what it is told: {error}") from error
    except web.HTTPRequestEntityTooLarge as error:
        raise InvalidRequest(f"{request.path} is told more than {MOST_BODY} bytes; it takes a domain") from error


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json", status=status)
