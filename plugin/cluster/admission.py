"""What a person asks of a cluster: begin one, let somebody in, join, remove a node, leave."""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version

import msgspec
import structlog

from plugin.cluster.claims import named, outside
from plugin.cluster.cluster import Cluster
from plugin.joining import tokens
from plugin.joining.guests import Guests, Invitation
from plugin.joining.joiner import Joiner
from plugin.kernel.reconciler import Reconciler
from plugin.model import IPNet, ip_network
from plugin.ranges import blocks
from plugin.settings import Settings
from plugin.state import State
from plugin.store import access
from plugin.store.loop import StoreLoop
from plugin.store.membership import Membership
from plugin.wireguard.keys import Keys, generate, public_key
from stackpad import records
from stackpad.engine import Engine
from stackpad.errors import Conflict, InvalidRequest, StackpadError, Unavailable
from stackpad.etcd import Delete, Op, Put, Rejected
from stackpad.nodes import identify

JOIN_AGAIN = 15.0
"""Seconds between two attempts to join with the setting ``JOIN``, while the other node does not answer."""

WITHIN, LEAST = 15.0, 1.5
"""Seconds from the token to the store's first answer, and those of it that are left for the store in any case."""

FAREWELL = 1.0
"""Seconds between the word that a node is removed and the end of its tunnel: it is to hear it."""


class Admission:
    """Each of these raises a :class:`~stackpad.errors.StackpadError` with the reason if it cannot be done."""

    def __init__(
        self, cluster: Cluster, settings: Settings, state: State, reconciler: Reconciler, engine: Engine
    ) -> None:
        self._cluster, self._settings, self._state = cluster, settings, state
        self._reconciler, self._engine = reconciler, engine
        self._guests: Guests = cluster.guests
        self._keys: Keys = cluster.keys
        self.problem = ""

    async def init(self, name: str) -> Membership:
        """Begin a cluster of this one node; raises :class:`Conflict` if it is in one."""
        async with self._cluster.changing:
            self._refuse_second()
            node, settings = secrets.token_hex(6), self._settings
            cluster = records.Cluster(
                owner=node,
                id=secrets.token_hex(8),
                range4=str(settings.range4),
                range6=str(settings.range6 or self._state.unique_local_range),
                block_prefix=settings.block_prefix,
                network_prefix=settings.network_prefix,
            )
            tokens.refuse_overlap(await self._cluster.other_routes(), cluster.ranges)
            await access.refuse_taken(self._settings)
            first = [_first_block(ip_network(cluster.range4), cluster.block_prefix, self._own_networks(), cluster)]
            length6 = max(blocks.BLOCK6_PREFIX, ip_network(cluster.range6).prefixlen)
            first.append(_first_block(ip_network(cluster.range6), length6, self._own_networks(), cluster))
            held = [records.Range(owner=node, net=str(block), block=True) for block in first]
            held += [
                records.Range(owner=node, net=str(net), network=network.id)
                for network in self._state.networks.values()
                for net in outside(network, first)
            ]
            await self._cluster.adopt(
                Membership(
                    node=node,
                    name=tokens.name(name or await self._default_name()),
                    cluster=cluster,
                    secret=base64.b64encode(os.urandom(32)).decode(),
                    mesh4=str(blocks.mesh_address(first[0])),
                    mesh6=str(blocks.mesh_address(first[1])),
                    control=True,
                    store=settings.store,
                    ranges=tuple(held),
                    joined=time.time(),
                )
            )
            await self._cluster.wait_for_store()
            return self._cluster.member_of()

    async def token(self, lifetime: float) -> str:
        """A new token, good for ``lifetime`` seconds."""
        async with self._cluster.changing:
            membership = self._cluster.member_of()
            if membership.nat and not self._settings.endpoints:
                raise InvalidRequest(
                    "others cannot call this node, it is behind a NAT; make the token on another node, or set ENDPOINT"
                )
            now = time.time()
            private = generate()
            token = tokens.Token(
                id=secrets.token_hex(4),
                private_key=private,
                preshared_key=base64.b64encode(os.urandom(32)).decode(),
                address=str(self._guests.next_address(membership.blocks(4)[0], membership.cluster.network_prefix, now)),
                gateway_key=self._keys.public_keys[0],
                gateway_address=membership.mesh4,
                endpoints=self._cluster.presence.endpoints(),
                expires=now + lifetime,
                ranges=membership.cluster.ranges,
            )
            self._guests.add(
                Invitation(
                    id=token.id,
                    digest=token.digest,
                    public_key=public_key(private),
                    preshared_key=token.preshared_key,
                    address=token.address,
                    expires=token.expires,
                ),
                now,
            )
            self._cluster.mesh.touch()
            await self._cluster.mesh.wait_settled()
            return tokens.write(token)

    def tokens(self) -> list[Mapping[str, object]]:
        """The tokens this node has given out and that have not expired."""
        return self._guests.listed(time.time())

    def revoke(self, token_id: str) -> None:
        """Take a token back; raises :class:`Conflict` if a node is in with it."""
        self._guests.remove(token_id)
        self._cluster.mesh.touch()

    async def join(self, text: str, name: str, say: Callable[[str], None]) -> Membership:
        """Join with a token; raises :class:`StackpadError` with the reason, and then nothing has changed."""
        async with self._cluster.changing:
            self._refuse_second()
            token = tokens.read(text)
            own = tuple(str(net) for net in self._own_networks())
            request = tokens.JoinRequest(
                token=token.id,
                digest=token.digest,
                name=tokens.name(name or await self._default_name()),
                public_key=self._keys.public_keys[0],
                time=time.time(),
                endpoints=self._cluster.presence.endpoints(),
                ranges=own,
                former=self._cluster.former(),
                mtu=self._reconciler.facts.mtu,
                engine=self._cluster.presence.engine_version,
                version=version("stackpad"),
            )
            began = time.monotonic()
            joiner = Joiner(self._cluster.open_tunnel, self._cluster.mesh.last_handshake, self._cluster.other_routes)
            try:
                answer = await joiner.join(token, request, say)
            except BaseException:
                self._cluster.close_guest_tunnel()
                raise
            nat = bool(answer.observed) and answer.observed not in map(str, self._reconciler.facts.addresses)
            say(f"in as {answer.name}, {answer.mesh4}; waiting for the store through the tunnel")
            await self._cluster.adopt(
                Membership(
                    node=answer.node,
                    name=answer.name,
                    cluster=answer.cluster,
                    secret=answer.secret,
                    mesh4=answer.mesh4,
                    mesh6=answer.mesh6,
                    store=answer.store,
                    ranges=named(answer.ranges, self._state.networks.values(), time.time()),
                    nat=nat and not self._settings.endpoints,
                    joined=time.time(),
                    gateway=answer.gateway,
                    gateway_ranges=answer.gateway_ranges,
                )
            )
            await self._cluster.wait_for_store(max(began + WITHIN - time.monotonic(), LEAST))
            return self._cluster.member_of()

    async def join_as_set(self) -> None:
        """Join with the token of the setting ``JOIN``, if there is one and this node is in no cluster yet."""
        log = structlog.get_logger("join")
        while self._settings.join and self._cluster.membership is None and not self._cluster.damage:
            try:
                await self.join(self._settings.join, self._settings.node_name, lambda text: log.info(text))
            except Unavailable as error:
                self.problem = f"JOIN: {error}"
                log.warning("could not join, trying again", reason=str(error), retry_in=JOIN_AGAIN)
                await asyncio.sleep(JOIN_AGAIN)
            except StackpadError as error:
                self.problem = f"JOIN: {error}"
                log.error("could not join", reason=str(error))
                return
        self.problem = ""

    async def remove(self, name: str) -> bool:
        """Free everything a node holds, also one that is gone for good; it leaves by itself if it is not.

        Returns whether all of it is free again, as :meth:`leave` does, for this node may be asked to remove itself.
        """
        async with self._cluster.changing:
            store, view = self._cluster.connected_store(), self._cluster.view
            node = view.nodes[identify(name, {node.owner: node.name for node in view.nodes.values()})]
            if node.owner == self._cluster.member_of().node:
                return await self._leave()
            # Whose the store is says the cluster's record: of itself a node may say anything.
            owner = self._cluster.member_of().cluster.owner
            if node.owner == owner and self._embedded(node) and len(view.nodes) > 1:
                raise Conflict(f"node {node.name} holds the cluster's store; remove the other nodes first")
            gone = records.Removed(owner=node.owner, name=node.name, since=time.time())
            await store.commit([Put(records.key(records.REMOVED, node.owner), records.encode(gone))])
            # A moment in which it can still see that it was removed, and leave.
            await asyncio.sleep(FAREWELL)
            await store.commit(self._ending(node.owner))
            return True

    def _embedded(self, control: records.Node) -> bool:
        """Whether the cluster's store is on the node that began it: then the others have its address in the mesh."""
        membership = self._cluster.member_of()
        elsewhere = self._settings.store or membership.store
        return not elsewhere or any(control.mesh4 and f"//{control.mesh4}:" in address for address in elsewhere)

    def _ending(self, node: str) -> list[Op]:
        """What takes everything of a node out of the store."""
        operations: list[Op] = [
            Delete(records.key(records.NODES, node)),
            Delete(records.key(records.ALIVE, node)),
            Delete(records.key(records.INGRESSES, node)),
        ]
        for key, held in self._cluster.view.ranges.items():
            if held.owner == node and not held.freed:
                freed = msgspec.structs.replace(held, freed=time.time())
                operations.append(Put(key, records.encode(freed, self._cluster.stored(key))))
        for kind in records.PER_NODE:
            prefix = records.key(kind, node) + "/"
            operations += [Delete(key) for key in self._cluster.stored_under(prefix)]
        return operations

    async def leave(self) -> bool:
        """Take this node out of its cluster; returns whether all it held is free again.

        It is while the store answers. Else the others free it with :meth:`remove`.
        """
        async with self._cluster.changing:
            return await self._leave()

    async def _leave(self) -> bool:
        membership, store = self._cluster.member_of(), self._cluster.store
        if membership.embeds(self._settings.store) and len(self._cluster.view.nodes) > 1:
            raise Conflict("this node holds the cluster's store; remove the other nodes first (stackpad node rm NAME)")
        freed = store is not None and store.connected.is_set()
        if store is not None and freed:
            gone = records.Removed(owner=membership.node, name=membership.name, since=time.time())
            tombstone = Put(records.key(records.REMOVED, membership.node), records.encode(gone))
            self._cluster.leaving = True
            try:
                async with store.writing:
                    await self._farewell(store, membership, tombstone)
            except Unavailable:
                # The others end the tunnel as soon as they see it, and the answer may have been in it.
                freed = False
            finally:
                self._cluster.leaving = False
                store.touch()
        self._cluster.forget()
        return freed

    async def _farewell(self, store: StoreLoop, membership: Membership, tombstone: Put) -> None:
        """Take everything of this node's out of the store; raises :class:`Unavailable`."""
        ending, key = self._ending(membership.node), records.key(records.NODES, membership.node)
        try:
            await store.commit([*ending, tombstone])
        except Rejected:
            # With a role of its own it may not write that, and says so in its own record; others count it as gone.
            last = msgspec.structs.replace(self._cluster.presence.node(membership), left=time.time())
            word = Put(key, records.encode(last, self._cluster.stored(key)))
            await store.commit([*(one for one in ending if one.key != key), word])

    def _refuse_second(self) -> None:
        if self._cluster.damage:
            raise Conflict(self._cluster.damage)  # what it says may be restored; it is not written over
        if self._cluster.membership is not None:
            raise Conflict(
                f"this node is {self._cluster.membership.name} of cluster {self._cluster.membership.cluster.id} already; "
                "what Docker should know of it is written by stackpad node configure, and stackpad node leave takes this "
                "node out of it"
            )

    async def _default_name(self) -> str:
        return self._settings.node_name or await self._engine.host_name()

    def _own_networks(self) -> list[IPNet]:
        return [subnet.net for network in self._state.networks.values() for subnet in network.subnets]


def _first_block(within: IPNet, prefix: int, networks: Sequence[IPNet], cluster: records.Cluster) -> IPNet:
    """The first block whose own part no network of this node has."""
    for block in within.subnets(new_prefix=prefix):
        own = blocks.own_part(block, cluster.network_prefix)
        if not any(net.version == own.version and net.overlaps(own) for net in networks):
            return block
    raise Conflict(f"this node's networks cover all of {within}; remove some, or set another RANGE")
