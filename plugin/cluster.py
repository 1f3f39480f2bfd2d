"""This node's part in a cluster: begins one, joins one, leaves it, and runs what belongs to it meanwhile.

A node that is in no cluster runs none of this. In one, what the others need to know of it is computed here from state,
membership and attachments, and what they say becomes peers, routes, rules and names.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version

import msgspec
import structlog
from aiohttp import web

from plugin import blocks, joining, mesh, meshloop
from plugin.attachments import Attachments
from plugin.guests import Guests, Invitation
from plugin.joiner import Joiner
from plugin.joinservice import JoinService
from plugin.kernel import Kernel
from plugin.member import Member
from plugin.membership import Membership, Memory
from plugin.mesh import MeshPlan, View
from plugin.meshloop import MeshLoop, Wanted
from plugin.model import IPNet, Network, ip_network
from plugin.naming import RESOLVER
from plugin.publisher import own_records
from plugin.reconciler import Reconciler
from plugin.settings import Settings
from plugin.state import State
from plugin.storeloop import StoreLoop
from plugin.storeview import StoreView, Touched
from plugin.wireguard.backend import Backend
from plugin.wireguard.keys import Keys, generate, public_key
from plugin.wireguard.model import Peer
from stackpad import records
from stackpad.engine import Engine
from stackpad.errors import Conflict, InvalidRequest, NotFound, Unavailable
from stackpad.etcd import Delete, Etcd, Op, Put, Tls
from stackpad.runtime import Backoff

READY = 15.0
"""Seconds a join may take from the answer to the first view of the store."""

MESH_FIRST = 5.0
"""Seconds the tunnel may take to be set up."""

FAREWELL = 1.0

_IP_FREEBIND = 15


class Cluster:
    """Membership, the cluster's view, and the loops; ``names_changed`` is called when names may have."""

    def __init__(
        self,
        settings: Settings,
        state: State,
        kernel: Kernel,
        reconciler: Reconciler,
        engine: Engine,
        backend: Callable[[], Awaitable[Backend]],
    ) -> None:
        directory_path = settings.state_file.parent
        self._settings, self._state, self._kernel, self._reconciler = settings, state, kernel, reconciler
        self._engine = engine
        self.names_changed: Callable[[], None] = lambda: None
        self._engine_version = ""
        self.attachments = Attachments(engine, lambda network: network in state.networks, self.networks_changed)
        self._memory, self._guests = Memory(directory_path), Guests(directory_path)
        self._keys = Keys(settings.keys)
        self.membership: Membership | None = self._memory.load()
        self._seen = StoreView()
        if self.membership is not None:
            self._seen.replace(self._memory.load_view())
        self._joining: tuple[joining.Token, str] | None = None
        self._changed, self._running = asyncio.Event(), asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self.mesh = MeshLoop(kernel, reconciler, state, backend, self._wanted)
        self.store: StoreLoop | None = None
        self.member: Member | None = None
        self._log = structlog.get_logger("cluster")

    @property
    def view(self) -> View:
        """Everything known of the cluster."""
        return self._seen.view()

    @property
    def problems(self) -> list[str]:
        """What a person should know."""
        found = list(self._seen.problems.values())
        if self.mesh.problem:
            found.append(f"mesh: {self.mesh.problem}")
        if self.membership is not None:
            for held in self.membership.ranges:
                there = self._seen.raw.get(records.range_key(held.net))
                if there is not None and (other := records.decode(there, records.Range)).owner != held.owner:
                    found.append(f"range {held.net} of this node is now held by node {other.owner}; remove its networks")
        return found

    def networks_changed(self) -> None:
        """Networks, endpoints or attachments of this node have changed."""
        if self.store is not None:
            self.store.touch()
        self.mesh.touch()
        self.names_changed()

    def heard(self, touched: Touched) -> None:
        """The store has changed."""
        if self.membership is not None and self.membership.node in self._seen.view().removed:
            self._log.warning("this node was removed from the cluster; leaving it")
            self._leave()
            return
        if touched.mesh or touched.all:
            self.mesh.touch()
        self.names_changed()

    # What this node is and wants

    def node_record(self, membership: Membership) -> records.Node:
        """This node, as the others see it."""
        return records.Node(
            owner=membership.node,
            name=membership.name,
            public_keys=self._keys.public_keys,
            endpoints=() if membership.nat else self.own_endpoints(),
            mesh4=membership.mesh4,
            mesh6=membership.mesh6,
            mtu=self._reconciler.facts.mtu,
            control=membership.control,
            engine=self._engine_version,
            version=version("stackpad"),
            joined=membership.joined,
        )

    def own_endpoints(self) -> tuple[str, ...]:
        """Where others may reach the tunnel: what the operator says, else every address of the node's."""
        port = self._settings.mesh_port
        if self._settings.endpoints:
            return tuple(_with_port(text, port) for text in self._settings.endpoints)
        addresses = sorted(self._reconciler.facts.addresses, key=lambda ip: (ip.is_private, ip.version, int(ip)))
        return tuple(records.join_endpoint(str(address), port) for address in addresses)

    def _own_records(self) -> Mapping[str, records.Record] | None:
        if self.membership is None or not self._reconciler.ready.is_set():
            return None
        if not self.attachments.complete.is_set():
            # Not yet known is not "none": what the store has of this node stays until the engine has been asked.
            return {records.key(records.NODES, self.membership.node): self.node_record(self.membership)}
        return own_records(
            self.membership,
            self.node_record(self.membership),
            self._state.networks.values(),
            self._state.endpoints,
            self.attachments.by_endpoint,
        )

    def _wanted(self) -> Wanted | None:
        if self._joining is not None:
            return self._wanted_to_join(*self._joining)
        membership = self.membership
        if membership is None:
            return None
        view = self._with_gateway(membership)
        services = [mesh.STORE_PORT] if membership.control and not self._settings.store else []
        services += [mesh.METRICS_PORT] if self._settings.mesh_metrics else []
        now = time.time()
        plan = mesh.plan(
            view,
            me=membership.node,
            public_key=self._keys.public_key,
            secret=membership.key,
            guests=self._guests.peers(now),
            reachable=not membership.nat,
            services=services,
            own_ranges=membership.held(),
            addresses=(membership.mesh4, membership.mesh6),
        )
        return Wanted(plan, self._keys.private_key, self._settings.mesh_port, meshloop.fenced(membership.cluster, plan))

    def _with_gateway(self, membership: Membership) -> View:
        """The view, with the node we joined through in it for as long as the store has not said anything."""
        view = self.view
        if view.nodes or membership.gateway is None:
            return view
        ranges = {records.range_key(record.net): record for record in membership.gateway_ranges}
        return replace(view, nodes={membership.gateway.owner: membership.gateway}, ranges=ranges)

    def _wanted_to_join(self, token: joining.Token, endpoint: str) -> Wanted:
        address, port = records.split_endpoint(endpoint)
        gateway = ip_network(token.gateway_address)
        peer = Peer(
            public_key=token.gateway_key,
            preshared_key=token.preshared_key,
            endpoint=(address, port),
            allowed=frozenset({gateway}),
            keepalive=5,
        )
        plan = MeshPlan(addresses=frozenset({ipaddress.ip_address(token.address)}), routes=frozenset({gateway}))
        return Wanted(plan, token.private_key, self._settings.mesh_port, frozenset(), extra={token.gateway_key: peer})

    # Running

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.mesh.run(), name="mesh")
            tasks.create_task(self.attachments.run(), name="attachments")
            tasks.create_task(self._ask_engine(), name="engine version")
            await self._run_membership()

    async def _ask_engine(self) -> None:
        backoff = Backoff(0.5, 10.0)
        while not self._engine_version:
            try:
                self._engine_version = await self._engine.version()
            except Unavailable:
                await asyncio.sleep(next(backoff))
        self.networks_changed()

    async def _run_membership(self) -> None:
        """Run what belongs to the membership, whenever there is one."""
        while True:
            membership = self.membership
            if membership is None:
                await self._changed.wait()
                self._changed.clear()
                continue
            async with contextlib.AsyncExitStack() as stack:
                tasks = await stack.enter_async_context(asyncio.TaskGroup())
                background = []
                if membership.control and not self._settings.store:
                    member = await self._member(membership)
                    background.append(tasks.create_task(member.run(), name="etcd"))
                etcd = await stack.enter_async_context(self._client(membership))
                self.store = StoreLoop(etcd, self._memory, self._seen, membership.node, self._own_records, self.heard)
                background.append(tasks.create_task(self.store.run(), name="store"))
                background.append(tasks.create_task(self._tidy(self.store), name="ranges"))
                await self._serve_joins(stack, membership, self.store)
                self._running.set()
                await self._changed.wait()
                self._changed.clear()
                for task in background:
                    task.cancel()
            self._running.clear()
            self.store = None

    async def _member(self, membership: Membership) -> Member:
        """The embedded store; in the tunnel as well, once that has its address."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MESH_FIRST):
                await self.mesh.settled.wait()
        self.member = Member(
            self._settings.store_directory,
            self._settings.store_sockets,
            listen=(f"http://{membership.mesh4}:{mesh.STORE_PORT}",),
            name=membership.node,
        )
        return self.member

    def _client(self, membership: Membership) -> Etcd:
        settings = self._settings
        if settings.store:
            tls = None
            if settings.store_ca or settings.store_cert:
                tls = Tls(ca=settings.store_ca, certificate=settings.store_cert, key=settings.store_key)
            return Etcd(settings.store, tls=tls, user=settings.store_user, password=settings.store_password)
        if membership.control and self.member is not None:
            return Etcd([self.member.url])
        return Etcd(membership.store)

    async def _serve_joins(self, stack: contextlib.AsyncExitStack, membership: Membership, store: StoreLoop) -> None:
        addresses = self._settings.store or membership.store or (f"http://{membership.mesh4}:{mesh.STORE_PORT}",)
        service = JoinService(
            lambda: self._member_of(),
            lambda: self.node_record(self._member_of()),
            lambda: self.view,
            self._guests,
            store,
            addresses,
            self._observed_at,
        )
        runner = web.AppRunner(service.application(), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.SockSite(runner, _listen(membership.mesh4, mesh.JOIN_PORT)).start()

    def _observed_at(self, key: str) -> str:
        """The address outside of the tunnel at which a peer was last seen; empty if it was not."""
        seen = self.mesh.observed.peers.get(key) if self.mesh.observed is not None else None
        return seen.endpoint[0] if seen is not None and seen.endpoint is not None else ""

    def _member_of(self) -> Membership:
        if self.membership is None:
            raise NotFound(
                "this node is in no cluster; begin one with stackpad node init, or join one with stackpad node join"
            )
        return self.membership

    # What a person asks for

    async def init(self, name: str) -> Membership:
        """Begin a cluster of this one node; raises :class:`Conflict` if it is in one."""
        async with self._one_at_a_time:
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
            joining.refuse_overlap(await self._other_routes(), cluster)
            first = [_first_block(ip_network(cluster.range4), cluster.block_prefix, self._own_networks(), cluster)]
            length6 = max(blocks.BLOCK6_PREFIX, ip_network(cluster.range6).prefixlen)
            first.append(_first_block(ip_network(cluster.range6), length6, self._own_networks(), cluster))
            held = [records.Range(owner=node, net=str(block), block=True) for block in first]
            held += [
                records.Range(owner=node, net=str(net), network=network.id)
                for network in self._state.networks.values()
                for net in _outside(network, first)
            ]
            await self._adopt(
                Membership(
                    node=node,
                    name=joining.name(name or await self._default_name()),
                    cluster=cluster,
                    secret=base64.b64encode(os.urandom(32)).decode(),
                    mesh4=str(blocks.mesh_address(first[0])),
                    mesh6=str(blocks.mesh_address(first[1])),
                    control=True,
                    ranges=tuple(held),
                    joined=time.time(),
                )
            )
            await self._wait_for_store()
            return self._member_of()

    async def token(self, lifetime: float) -> str:
        """A new token, good for ``lifetime`` seconds."""
        membership = self._member_of()
        if membership.nat and not self._settings.endpoints:
            raise InvalidRequest(
                "others cannot call this node, it is behind a NAT; make the token on another node, or set ENDPOINT"
            )
        now = time.time()
        private = generate()
        token = joining.Token(
            id=secrets.token_hex(4),
            private_key=private,
            preshared_key=base64.b64encode(os.urandom(32)).decode(),
            address=str(self._guests.next_address(membership.blocks(4)[0], membership.cluster.network_prefix, now)),
            gateway_key=self._keys.public_key,
            gateway_address=membership.mesh4,
            endpoints=self.own_endpoints(),
            expires=now + lifetime,
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
        self.mesh.touch()
        await self._settled()
        return joining.write(token)

    def tokens(self) -> list[Mapping[str, object]]:
        """The tokens this node has given out and that have not expired."""
        return self._guests.listed(time.time())

    def revoke(self, token_id: str) -> None:
        """Take a token back."""
        self._guests.remove(token_id)
        self.mesh.touch()

    async def join(self, text: str, name: str, say: Callable[[str], None]) -> Membership:
        """Join with a token; raises :class:`StackpadError` with the reason, and then nothing has changed."""
        async with self._one_at_a_time:
            self._refuse_second()
            token = joining.read(text)
            own = tuple(str(net) for net in self._own_networks())
            request = joining.JoinRequest(
                token=token.id,
                digest=token.digest,
                name=joining.name(name or await self._default_name()),
                public_key=self._keys.public_key,
                time=time.time(),
                endpoints=self.own_endpoints(),
                ranges=own,
                mtu=self._reconciler.facts.mtu,
                engine=self._engine_version,
                version=version("stackpad"),
            )
            joiner = Joiner(self._open_tunnel, self._handshake, self._other_routes)
            try:
                answer = await joiner.join(token, request, say)
            except BaseException:
                self._joining = None
                self.mesh.touch()
                raise
            nat = bool(answer.observed) and answer.observed not in map(str, self._reconciler.facts.addresses)
            say(f"in as {answer.name}, {answer.mesh4}; waiting for the store through the tunnel")
            await self._adopt(
                Membership(
                    node=answer.node,
                    name=answer.name,
                    cluster=answer.cluster,
                    secret=answer.secret,
                    mesh4=answer.mesh4,
                    mesh6=answer.mesh6,
                    store=answer.store,
                    ranges=answer.ranges,
                    nat=nat and not self._settings.endpoints,
                    joined=time.time(),
                    gateway=answer.gateway,
                    gateway_ranges=answer.gateway_ranges,
                )
            )
            await self._wait_for_store()
            return self._member_of()

    async def remove(self, name: str) -> None:
        """Free everything a node holds, also one that is gone for good; it leaves by itself if it is not."""
        store, view = self._store(), self.view
        found = [node for node in view.nodes.values() if name in {node.name, node.owner}]
        if not found:
            raise NotFound(f"there is no node {ascii(name)[:80]}; stackpad node ls lists them")
        node = found[0]
        if node.control and not self._settings.store and len(view.nodes) > 1:
            raise Conflict(f"node {node.name} holds the cluster's store; remove the other nodes first")
        gone = records.Removed(owner=node.owner, name=node.name, since=time.time())
        await store.commit([Put(records.key(records.REMOVED, node.owner), records.encode(gone))])
        # A moment in which it can still see that it was removed, and leave.
        await asyncio.sleep(FAREWELL)
        operations: list[Op] = [
            Delete(records.key(records.NODES, node.owner)),
            Delete(records.key(records.ALIVE, node.owner)),
        ]
        for key, held in view.ranges.items():
            if held.owner == node.owner and not held.freed:
                freed = msgspec.structs.replace(held, freed=time.time())
                operations.append(Put(key, records.encode(freed, self._seen.raw.get(key))))
        for kind in (records.NETWORKS, records.ENDPOINTS):
            prefix = records.key(kind, node.owner) + "/"
            operations += [Delete(key) for key in self._seen.raw if key.startswith(prefix)]
        await store.commit(operations)

    def leave(self) -> None:
        """Forget the cluster, on this node only; the others free what it held with :meth:`remove`."""
        self._member_of()
        self._leave()

    # Ranges

    def blocks(self, version_: int) -> Sequence[IPNet]:
        """This node's blocks; none without a cluster."""
        return () if self.membership is None else self.membership.blocks(version_)

    def reserved(self) -> Sequence[IPNet]:
        """This node's own part of its first block, also while it is in no cluster: it may begin one later."""
        if self.membership is None:
            first = next(iter(self._settings.range4.subnets(new_prefix=self._settings.block_prefix)))
            return [blocks.own_part(first, self._settings.network_prefix)]
        membership = self.membership
        return [
            blocks.own_part(held[0], membership.cluster.network_prefix)
            for version_ in (4, 6)
            if (held := membership.blocks(version_))
        ]

    def beyond(self, version_: int) -> Sequence[IPNet]:
        """What an internal network needs routes to."""
        if self.membership is None:
            return ()
        cluster = self.membership.cluster
        own = (
            [ip_network(cluster.range4), ip_network(f"{RESOLVER}/32")] if version_ == 4 else [ip_network(cluster.range6)]
        )
        claimed = [net for net in self.mesh.routes if not any(net.version == o.version and net.overlaps(o) for o in own)]
        return [*own, *(net for net in claimed if net.version == version_)]

    async def claim(self, network: Network) -> None:
        """Make a new network's ranges this node's, cluster-wide.

        Ranges in this node's blocks are already. Raises :class:`Conflict` naming who has one, and
        :class:`Unavailable` if nobody can tell now.
        """
        membership = self.membership
        if membership is None:
            return
        self._refuse_own_part(network, membership)
        wanted = _outside(network, [*membership.blocks(4), *membership.blocks(6)])
        if not wanted:
            return
        names = {node.owner: node.name for node in self.view.nodes.values()}

        def choose(_: View, held: Sequence[records.Range]) -> Sequence[records.Range]:
            chosen = []
            for net in wanted:
                blocks.refuse_claim(net, held, owner=membership.node, names=names, now=time.time(), network=network.id)
                generation = max((r.generation for r in held if r.net == str(net)), default=0) + 1
                chosen.append(
                    records.Range(owner=membership.node, net=str(net), network=network.id, generation=generation)
                )
            return chosen

        await self._hold(await self._store().claim(choose))

    async def grow(self, version_: int) -> None:
        """Claim one more block for networks of a family; raises :class:`Exhausted` or :class:`Unavailable`."""
        membership = self._member_of()
        text = membership.cluster.range4 if version_ == 4 else membership.cluster.range6
        prefix = membership.cluster.block_prefix if version_ == 4 else blocks.BLOCK6_PREFIX
        routes = [net for net in await self._other_routes() if net.prefixlen]

        def choose(_: View, held: Sequence[records.Range]) -> Sequence[records.Range]:
            block = blocks.choose_block(
                ip_network(text), prefix, held, avoid=routes, now=time.time(), owner=membership.node
            )
            generation = max((r.generation for r in held if r.net == str(block)), default=0) + 1
            return [records.Range(owner=membership.node, net=str(block), block=True, generation=generation)]

        chosen = await self._store().claim(choose)
        await self._hold(chosen)
        self._log.info("this node has another block", block=chosen[0].net)

    async def release(self, network_id: str) -> None:
        """Give back what was claimed for a network that is no more."""
        membership = self.membership
        self.networks_changed()
        if membership is None or not any(r.network == network_id and not r.freed for r in membership.ranges):
            return
        freed = tuple(
            msgspec.structs.replace(r, freed=time.time()) if r.network == network_id and not r.freed else r
            for r in membership.ranges
        )
        await self._keep(msgspec.structs.replace(membership, ranges=freed))
        self.networks_changed()

    async def _hold(self, chosen: Sequence[records.Range]) -> None:
        membership = self._member_of()
        nets = {record.net for record in chosen}
        kept = tuple(record for record in membership.ranges if record.net not in nets)
        await self._keep(msgspec.structs.replace(membership, ranges=(*kept, *chosen)))

    async def _tidy(self, store: StoreLoop) -> None:
        """Forget ranges given back, when their cool-down is over."""
        while True:
            await asyncio.sleep(blocks.COOL_DOWN / 10)
            membership, now = self._member_of(), time.time()
            over = [r for r in membership.ranges if r.freed and now - r.freed > blocks.COOL_DOWN]
            if over:
                with contextlib.suppress(Unavailable):
                    await store.commit([Delete(records.range_key(record.net)) for record in over])
                    kept = tuple(record for record in membership.ranges if record not in over)
                    await self._keep(msgspec.structs.replace(membership, ranges=kept))

    def _refuse_own_part(self, network: Network, membership: Membership) -> None:
        for version_ in (4, 6):
            for block in membership.blocks(version_)[:1]:
                own = blocks.own_part(block, membership.cluster.network_prefix)
                for subnet in network.subnets:
                    if subnet.net.version == own.version and subnet.net.overlaps(own):
                        raise Conflict(
                            f"range {subnet.pool} overlaps {own}, this node's own addresses in the tunnel; "
                            "choose another with --subnet, or leave it out"
                        )

    # Small parts

    def _refuse_second(self) -> None:
        if self.membership is not None:
            raise Conflict(
                f"this node is {self.membership.name} of cluster {self.membership.cluster.id} already; "
                "stackpad node leave takes it out of it"
            )

    async def _default_name(self) -> str:
        return self._settings.node_name or await self._engine.host_name()

    def _own_networks(self) -> list[IPNet]:
        return [subnet.net for network in self._state.networks.values() for subnet in network.subnets]

    async def _other_routes(self) -> list[IPNet]:
        return [route.net for route in await self._kernel.routes()]

    async def _adopt(self, membership: Membership) -> None:
        await self._keep(membership)
        self._joining = None
        self._changed.set()
        self.mesh.touch()

    async def _keep(self, membership: Membership) -> None:
        await asyncio.to_thread(self._memory.save, membership)
        self.membership = membership

    def _leave(self) -> None:
        self._memory.save(None)
        self.membership = None
        self._seen.replace({})
        self._changed.set()
        self.mesh.touch()
        self.names_changed()

    async def _open_tunnel(self, token: joining.Token, endpoint: str) -> None:
        self._joining = (token, endpoint)
        self.mesh.touch()
        await self._settled()

    async def _handshake(self, key: str) -> float:
        seen = self.mesh.observed.peers.get(key) if self.mesh.observed is not None else None
        return seen.last_handshake if seen is not None else 0.0

    async def _settled(self) -> None:
        try:
            async with asyncio.timeout(MESH_FIRST):
                await self.mesh.settled.wait()
        except TimeoutError as error:
            reason = self.mesh.problem or "the kernel takes longer than usual; try again"
            raise Unavailable(f"the tunnel could not be set up: {reason}") from error

    async def _wait_for_store(self) -> None:
        try:
            async with asyncio.timeout(READY):
                await self._running.wait()
                if self.store is not None:
                    await self.store.connected.wait()
        except TimeoutError as error:
            reason = self.store.reason if self.store is not None else self.mesh.problem
            raise Unavailable(
                f"in the cluster, but its store does not answer yet: {reason}; stackpad status shows when it does"
            ) from error

    def _store(self) -> StoreLoop:
        self._member_of()
        if self.store is None or not self.store.connected.is_set():
            reason = self.store.reason if self.store is not None else "it is starting"
            raise Unavailable(f"the cluster's store does not answer ({reason}); try again when stackpad status says so")
        return self.store


def _with_port(text: str, port: int) -> str:
    try:
        return records.join_endpoint(str(ipaddress.ip_address(text)), port)
    except ValueError:
        return text


def _outside(network: Network, held: Sequence[IPNet]) -> list[IPNet]:
    """The ranges of a network that do not lie in one of ``held``."""
    return [
        subnet.net
        for subnet in network.subnets
        if not any(
            block.version == subnet.net.version and block.overlaps(subnet.net) and block.prefixlen <= subnet.net.prefixlen
            for block in held
        )
    ]


def _first_block(within: IPNet, prefix: int, networks: Sequence[IPNet], cluster: records.Cluster) -> IPNet:
    """The first block whose own part no network of this node has."""
    for block in within.subnets(new_prefix=prefix):
        own = blocks.own_part(block, cluster.network_prefix)
        if not any(net.version == own.version and net.overlaps(own) for net in networks):
            return block
    raise Conflict(f"this node's networks cover all of {within}; remove some, or set another RANGE")


def _listen(address: str, port: int) -> socket.socket:
    """A listening socket on an address that may come later (ip(7), ``IP_FREEBIND``)."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_IP, _IP_FREEBIND, 1)
    try:
        listening.bind((address, port))
    except OSError as error:
        listening.close()
        raise Unavailable(f"{address}:{port} cannot be listened on: {error.strerror}") from error
    return listening
