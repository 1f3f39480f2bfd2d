"""The join service: on the node that gave out the token, on its address in the tunnel, for guests only.

Who asks is known before the first byte: WireGuard lets a guest send from its one address only, and the firewall lets
that address reach nothing but this service. But a guest is whoever has the token, used or not, until it expires. So it is
heard for a short time (:mod:`plugin.cluster.door`), has one request in the queue, and each answer is the last on its
connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import aiohttp
import msgspec
import structlog
from aiohttp import web

from plugin.joining import places, tokens
from plugin.joining.guests import Guests, Invitation
from plugin.model import IPNet, ip_network
from plugin.ranges import blocks
from plugin.resolver.limits import Limit, Pace
from plugin.store.loop import StoreLoop
from plugin.store.membership import Membership
from plugin.store.mesh import View
from stackpad import jsontext, records
from stackpad.errors import Conflict, InvalidRequest, StackpadError, Unavailable
from stackpad.etcd import Delete, Op, Put, Rejected

MOST = 64 * 1024
"""Bytes of a request."""

TURN = 4.0
"""Seconds a request waits for those before it: whoever asks does not wait longer for the answer."""

AT_ONCE = 256
"""Requests that wait for their turn, of all guests; each has one."""

TOLD, TOLD_EACH = 1 / 60, 10
"""Refusals of one guest that are logged: so many a second in the long run, and so many at once."""


class _Busy(Unavailable):
    """This guest is being answered already."""


class JoinService:
    """Answers ``POST /join`` of guests.

    ``observed`` gives the address outside of the tunnel at which a public key was last seen.
    """

    def __init__(
        self,
        membership: Callable[[], Membership],
        node: Callable[[], records.Node],
        view: Callable[[], View],
        guests: Guests,
        store: StoreLoop,
        store_addresses: Sequence[str],
        observed: Callable[[str], Awaitable[str]],
    ) -> None:
        self._membership, self._node, self._view = membership, node, view
        self._guests, self._store, self._observed = guests, store, observed
        self._store_addresses = tuple(store_addresses)
        self._one_at_a_time = asyncio.Lock()
        self._answering, self._telling = Limit(AT_ONCE, 1), Pace(TOLD, TOLD_EACH)
        self._log = structlog.get_logger("join")

    def application(self) -> web.Application:
        """The application to be served in the tunnel."""
        application = web.Application(client_max_size=MOST)
        application.router.add_post("/join", self._join)
        application.on_response_prepare.append(_last)
        return application

    async def _join(self, request: web.Request) -> web.Response:
        address = request.remote or ""
        try:
            asked = _understood(await _heard(request))
            own = self._checked(asked, address)
            async with self._turn(address):
                if request.transport is None:
                    raise Unavailable("whoever asked is gone")
                answer = await self._admit(asked, own, address)
        except StackpadError as error:
            return self._refusal(error, address)
        except Exception:
            self._log.exception("a request to join failed", address=address)
            return _answer(500, {"error": "it failed inside the plugin; its log has the reason"})
        self._log.info("a node has joined", node=answer.name)
        return _answer(200, answer)

    def _checked(self, asked: tokens.JoinRequest, address: str) -> list[IPNet]:
        """The ranges of the joining node's networks; raises :class:`StackpadError` if it cannot be let in as it is now.

        Without a look at the store: who is refused by this has not kept anybody waiting.
        """
        invitation = self._invitation(asked, address)
        tokens.refuse_clock(asked.time, time.time())
        node = places.node(asked, _id(invitation), asked.time)
        places.refuse_name(self._view(), node.name, node.owner)
        places.refuse_key(self._view(), asked.public_key, node.owner)
        return places.networks(asked)

    def _invitation(self, asked: tokens.JoinRequest, address: str) -> Invitation:
        seen = self._view()
        return self._guests.check(asked, address, seen.alive | seen.removed)

    @asynccontextmanager
    async def _turn(self, address: str) -> AsyncIterator[None]:
        """One after the other, and of each guest one; raises :class:`Unavailable` for who would wait too long."""
        with self._answering.one(address) as free:
            if not free:
                raise _Busy("this node is being answered already; wait some seconds and join again")
            try:
                async with asyncio.timeout(TURN):
                    await self._one_at_a_time.acquire()
            except TimeoutError as error:
                raise Unavailable("others join there, and the store takes long; join again in a moment") from error
            try:
                yield
            finally:
                self._one_at_a_time.release()

    async def _admit(self, asked: tokens.JoinRequest, own: Sequence[IPNet], address: str) -> tokens.JoinAnswer:
        invitation, now = self._invitation(asked, address), time.time()  # others have been let in since the first look
        membership, cluster = self._membership(), self._membership().cluster
        node = places.node(asked, _id(invitation), now)
        places.refuse_name(self._view(), node.name, node.owner)
        places.refuse_key(self._view(), asked.public_key, node.owner)

        def choose(view: View, held: Sequence[records.Range]) -> Sequence[records.Range]:
            there = places.known(held, view.ranges.values(), membership.ranges)
            return places.ranges(view, there, node.owner, own, cluster, former=asked.former, now=now)

        chosen = await self._store.ranges.claim(choose)
        first = {net.version: net for net in reversed([ip_network(r.net) for r in chosen if r.block])}
        node = msgspec.structs.replace(
            node, mesh4=str(blocks.mesh_address(first[4])), mesh6=str(blocks.mesh_address(first[6]))
        )
        asked_before = invitation.admitted
        try:
            invitation = self._guests.use(invitation, asked.public_key, node.owner)
            await self._store.commit([Put(records.key(records.NODES, node.owner), records.encode(node))])
            self._guests.admit(invitation.id, node.owner)
        except StackpadError as error:
            # Without an answer the store may have its record: then the next request with this token finds all of it.
            if not asked_before and (isinstance(error, InvalidRequest | Rejected) or not invitation.used_by):
                await self._give_back(node.owner, chosen)
            raise
        gateway = self._node()
        return tokens.JoinAnswer(
            node=node.owner,
            name=node.name,
            cluster=cluster,
            secret=membership.secret,
            mesh4=node.mesh4,
            mesh6=node.mesh6,
            ranges=tuple(chosen),
            store=self._store_addresses,
            gateway=gateway,
            gateway_ranges=membership.ranges,
            observed=await self._observed(invitation.public_key),
        )

    async def _give_back(self, node_id: str, ranges: Sequence[records.Range]) -> None:
        """Free the place of a node that was not let in after all, as when its token was taken back meanwhile."""
        freed = [msgspec.structs.replace(record, freed=time.time()) for record in ranges]
        operations: list[Op] = [Delete(records.key(records.NODES, node_id))]
        operations += [Put(records.range_key(record.net), records.encode(record)) for record in freed]
        try:
            await self._store.commit(operations)
            # Somebody else may have had it just before, and it cools down for others; one that was nobody's goes, after
            # all have seen that it was given back: what is only missing is taken for lost.
            await self._store.ranges.collect([record for record in freed if record.generation <= 1])
        except Unavailable as error:
            nets = [record.net for record in ranges]
            self._log.error("ranges of a node that was not let in stay claimed", ranges=nets, reason=str(error))

    def _refusal(self, error: StackpadError, address: str) -> web.Response:
        if not self._telling.wait(address):
            self._telling.spend(address, 1)
            self._log.warning("a node was not let in", reason=str(error))
        return _answer(_status(error), {"error": str(error)})


async def _last(_: web.BaseRequest, response: web.StreamResponse) -> None:
    """Whoever has more to say connects anew, and connections are counted."""
    response.force_close()
    response.headers["Connection"] = "close"


async def _heard(request: web.Request) -> bytes:
    """The body; how long it may take is how long a connection may."""
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise InvalidRequest(
            f"the joining node says more than {MOST >> 10} KiB of itself; remove networks that are not needed (docker "
            "network prune) and join again"
        ) from error
    except (OSError, aiohttp.ClientError, web.RequestPayloadError) as error:
        raise InvalidRequest("the joining node's request broke off") from error


def _understood(body: bytes) -> tokens.JoinRequest:
    try:
        return jsontext.decode(body, type=tokens.JoinRequest)
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"the joining node asks in a way not known here ({error}); use one version") from error


def _id(invitation: Invitation) -> str:
    return invitation.node or places.node_id(invitation.digest)


def _status(error: StackpadError) -> int:
    match error:
        case _Busy():
            return 429
        case Conflict():
            return 409
        case InvalidRequest():
            return 400
        case _:
            return 503


def _answer(status: int, value: tokens.JoinAnswer | dict[str, str]) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")
