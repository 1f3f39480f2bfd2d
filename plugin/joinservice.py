"""The join service: on the node that gave out the token, on its address in the tunnel, for guests only.

Who asks is known before the first byte: WireGuard lets a guest send from its one address only, and the firewall lets
that address reach nothing but this service.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog
from aiohttp import web

from plugin import blocks, joining
from plugin.guests import Guests
from plugin.membership import Membership
from plugin.mesh import View
from plugin.model import ip_network
from plugin.storeloop import StoreLoop
from stackpad import jsontext, records
from stackpad.errors import Conflict, InvalidRequest, StackpadError, Unavailable
from stackpad.etcd import Delete, Op, Put

MOST = 64 * 1024
"""Bytes of a request."""


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
        self._log = structlog.get_logger("join")

    def application(self) -> web.Application:
        """The application to be served in the tunnel."""
        application = web.Application(client_max_size=MOST)
        application.router.add_post("/join", self._join)
        return application

    async def _join(self, request: web.Request) -> web.Response:
        try:
            asked = jsontext.decode(await request.read(), type=joining.JoinRequest)
            async with self._one_at_a_time:
                answer = await self._admit(asked, request.remote or "")
        except msgspec.MsgspecError as error:
            return _refusal(InvalidRequest(f"the joining node asks in a way not known here ({error}); use one version"))
        except ValueError:
            return _refusal(InvalidRequest("the joining node names a range that is none; use one version on all nodes"))
        except StackpadError as error:
            self._log.warning("a node was not let in", reason=str(error))
            return _refusal(error)
        self._log.info("a node has joined", node=answer.name)
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")

    async def _admit(self, asked: joining.JoinRequest, address: str) -> joining.JoinAnswer:
        seen = self._view()
        invitation = self._guests.check(asked, address, seen.alive | seen.removed)
        joining.refuse_clock(asked.time, time.time())
        name = joining.name(asked.name)
        membership, cluster = self._membership(), self._membership().cluster
        node_id = invitation.node or secrets.token_hex(6)
        chosen: list[records.Range] = []

        def choose(view: View, held: Sequence[records.Range]) -> Sequence[records.Range]:
            chosen.clear()
            chosen.extend(_ranges(view, held, node_id, asked, cluster))
            return chosen

        _refuse_name(self._view(), name, node_id)
        refuse_key(self._view(), asked.public_key, node_id)
        # Checked before anything is claimed for it: what is refused leaves nothing behind.
        node = records.check(
            records.Node(
                owner=node_id,
                name=name,
                public_keys=(asked.public_key,),
                endpoints=asked.endpoints,
                mtu=asked.mtu,
                engine=asked.engine,
                version=asked.version,
                joined=time.time(),
            )
        )
        mine = [r for r in self._view().ranges.values() if r.owner == node_id and not r.freed]
        if invitation.node and mine:
            chosen = mine  # its first answer got lost
        else:
            await self._store.ranges.claim(choose)
        first = {net.version: net for net in reversed([ip_network(r.net) for r in chosen if r.block])}
        node = msgspec.structs.replace(
            node, mesh4=str(blocks.mesh_address(first[4])), mesh6=str(blocks.mesh_address(first[6]))
        )
        try:
            self._guests.use(invitation, asked.public_key, node_id)
            await self._store.commit([Put(records.key(records.NODES, node_id), records.encode(node))])
            self._guests.admit(invitation.id, node_id)
        except InvalidRequest:
            await self._give_back(node_id, chosen)
            raise
        gateway = self._node()
        return joining.JoinAnswer(
            node=node_id,
            name=name,
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
        """Free the place of a node whose token was taken back while it was being made."""
        operations: list[Op] = [Delete(records.key(records.NODES, node_id))]
        for record in ranges:
            key, freed = records.range_key(record.net), msgspec.structs.replace(record, freed=time.time())
            # Somebody else may have had it just before, and it cools down for others; one that was nobody's goes.
            operations.append(Put(key, records.encode(freed)) if record.generation > 1 else Delete(key))
        try:
            await self._store.commit(operations)
        except Unavailable as error:
            nets = [record.net for record in ranges]
            self._log.error("ranges of a node that was not let in stay claimed", ranges=nets, reason=str(error))


def _ranges(
    view: View, held: Sequence[records.Range], node_id: str, asked: joining.JoinRequest, cluster: records.Cluster
) -> list[records.Range]:
    """A block of each family for a new node, and the ranges its networks have already."""
    now = time.time()
    names = {node.owner: node.name for node in view.nodes.values()}
    own = [ip_network(text) for text in asked.ranges]
    # What the node gave back when it was last a member cools down for others, not for itself.
    back = [record.net for record in held if record.freed and asked.former and record.owner == asked.former]
    held = [record for record in held if record.net not in back]
    for net in own:
        try:
            blocks.refuse_claim(net, held, owner=node_id, names=names, now=now)
        except Conflict as error:
            raise Conflict(f"a network of the joining node is in the way: {error}") from error
    found = []
    lengths = ((cluster.range4, cluster.block_prefix), (cluster.range6, blocks.BLOCK6_PREFIX))
    for text, prefix in lengths:
        whole = ip_network(text)
        block = blocks.former_block(whole, prefix, back, held) or blocks.choose_block(
            whole, prefix, held, avoid=own, now=now, owner=node_id
        )
        found.append(block)
    outside = [net for net in own if not any(blocks.within(net, block) for block in found)]
    return [
        *(_claimed(str(block), held, node_id, block=True) for block in found),
        *(_claimed(str(net), held, node_id, block=False) for net in outside),
    ]


def _claimed(net: str, held: Sequence[records.Range], owner: str, *, block: bool) -> records.Range:
    generation = max((r.generation for r in held if r.net == net), default=0) + 1
    return records.Range(owner=owner, net=net, block=block, generation=generation)


def _refuse_name(view: View, name: str, node_id: str) -> None:
    for node in view.nodes.values():
        if node.name == name and node.owner not in {node_id, *view.removed}:
            hint = "give another one with --name" if node.owner in view.alive else f"stackpad node rm {name} frees it"
            raise Conflict(f"there is a node {name} already; {hint}")


def refuse_key(view: View, key: str, node_id: str) -> None:
    """Two nodes with one key would be one peer to all others: the second would take the first one's place."""
    for node in view.nodes.values():
        if key in node.public_keys and node.owner not in {node_id, *view.removed}:
            raise Conflict(
                f"node {node.name} has this node's WireGuard key: if this machine is a copy of that one, remove "
                "/var/lib/stackpad/keys here and enable the plugin anew; if that one is gone, stackpad node rm "
                f"{node.name} frees it"
            )


def _refusal(error: StackpadError) -> web.Response:
    status = 409 if isinstance(error, Conflict) else 400 if isinstance(error, InvalidRequest) else 503
    body = msgspec.json.encode({"error": str(error)})
    return web.Response(status=status, body=body, content_type="application/json")
