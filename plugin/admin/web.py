"""The ingress's part of the admin interface: it says what runs here, and is shown what runs elsewhere.

``PUT /web`` takes its whole report and answers when the firewall admits what is ready, so that nobody is sent to a door
that is still closed. ``GET /web`` streams one JSON object a line: first everything it is shown of the store, then each
change. ``POST /web/hosts`` writes who owns which host name, each on condition that nobody else has meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
from collections.abc import Mapping

import msgspec
from aiohttp import web
from msgspec import structs

from plugin.cluster.cluster import Cluster
from plugin.kernel.reconciler import Reconciler
from plugin.local.webdesk import read
from stackpad import jsontext, records
from stackpad.errors import InvalidRequest, StackpadError

QUIET = 10.0
"""Seconds without a change after which a line is sent all the same: who reads can tell silence from death."""

AT_ONCE = 100
"""Host names in a request."""

LARGEST = 64 << 20
"""Bytes of a report: of as many containers as are taken, with more labels each than most have."""


_NONE = msgspec.Raw(b"null")


class Write(msgspec.Struct, frozen=True, kw_only=True):
    """One host name's record: ``before`` word for word as it was shown, ``after`` as it should be; null for none."""

    host: str
    before: msgspec.Raw = _NONE
    after: msgspec.Raw = _NONE


class WebAdmin:
    """Handlers."""

    def __init__(self, cluster: Cluster, reconciler: Reconciler) -> None:
        self._cluster, self._reconciler = cluster, reconciler
        self._watchers: set[asyncio.Event] = set()
        self._ended = False
        cluster.shown_changed = self._wake

    def add_to(self, application: web.Application) -> None:
        """Add the routes."""
        application.router.add_put("/web", self._take)
        application.router.add_get("/web", self._watch)
        application.router.add_post("/web/hosts", self._hosts)
        application.on_shutdown.append(self._end)

    async def _end(self, _: web.Application) -> None:
        """A stop waits for requests in flight, and a stream is one that does not end by itself."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        for watcher in self._watchers:
            watcher.set()

    async def _take(self, request: web.Request) -> web.Response:
        try:
            self._cluster.desk.take(read(await request.clone(client_max_size=LARGEST).read()))
            await self._reconciler.admit("web", self._cluster.web_elements())
        except web.HTTPRequestEntityTooLarge:
            return _refusal(InvalidRequest(f"a report of web containers has at most {LARGEST} bytes"))
        except StackpadError as error:
            return _refusal(error)
        self._cluster.networks_changed()
        return web.json_response({})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        changed = asyncio.Event()
        self._watchers.add(changed)
        sent: Mapping[str, bytes] | None = None
        try:
            while not self._ended:
                now = dict(self._cluster.shown)
                await response.write(self._line(now, sent))
                sent = now
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(QUIET):
                        await changed.wait()
                changed.clear()
        except ConnectionResetError:
            pass  # the ingress has gone
        finally:
            self._watchers.discard(changed)
        return response

    def _line(self, now: Mapping[str, bytes], sent: Mapping[str, bytes] | None) -> bytes:
        membership, store = self._cluster.membership, self._cluster.store
        before = sent or {}
        records_by_key = {
            **{key: msgspec.Raw(value) for key, value in now.items() if before.get(key) is not value},
            **dict.fromkeys(before.keys() - now.keys()),
        }
        line = {
            "all": sent is None,
            "node": "" if membership is None else membership.node,
            "control": membership is None or membership.control,
            "secret": "" if membership is None else _secret(membership.key),
            "connected": store is not None and store.connected.is_set(),
            "records": records_by_key,
        }
        return msgspec.json.encode(line) + b"\n"

    async def _hosts(self, request: web.Request) -> web.Response:
        try:
            writes = _writes(await request.read())
            store, me = self._cluster.connected_store(), self._cluster.member_of().node
            exchanges = [_exchange(write, me) for write in writes]
            if not await store.exchange(exchanges):
                # Some of them have been changed by somebody else: the others are written all the same.
                for one in exchanges:
                    await store.exchange([one])
        except StackpadError as error:
            return _refusal(error)
        return web.json_response({})


def _writes(body: bytes) -> list[Write]:
    try:
        writes = jsontext.decode(body, type=list[Write])
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"the host names to be written do not fit: {error}") from error
    if len(writes) > AT_ONCE:
        raise InvalidRequest(f"{len(writes)} host names at once; at most {AT_ONCE} are taken")
    return writes


def _exchange(write: Write, me: str) -> tuple[str, bytes | None, bytes | None]:
    """Key, and value before and after; what is written is checked, and is this node's."""
    key, before, after = records.key(records.HOSTS, write.host), bytes(write.before), bytes(write.after)
    value = None
    if after != bytes(_NONE):
        given = records.decode(after, records.Host)
        value = records.encode(structs.replace(given, owner=me), None if before == bytes(_NONE) else before)
    return key, None if before == bytes(_NONE) else before, value


def _secret(key: bytes) -> str:
    """What proofs of domains are made with: of the cluster's secret, and of no use for anything else."""
    return hmac.new(key, b"stackpad domain proofs", hashlib.sha256).hexdigest()


def _refusal(error: StackpadError) -> web.Response:
    status = 400 if isinstance(error, InvalidRequest) else 503
    return web.Response(status=status, body=msgspec.json.encode({"error": str(error)}))
