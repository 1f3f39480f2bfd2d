"""This node's part in a cluster: begins one, joins one, leaves it, and runs what belongs to it meanwhile.

A node that is in no cluster runs none of this. In one, what the others need to know of it is computed from state,
membership and attachments (:mod:`plugin.cluster.presence`), and what they say becomes peers, routes, rules and names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

import msgspec
import structlog

from plugin.cluster import troubles
from plugin.cluster.needs import Needs
from plugin.cluster.presence import Presence
from plugin.cluster.services import JoinParts, Services, StoreParts
from plugin.cluster.wishes import Wishes
from plugin.joining import tokens
from plugin.joining.guests import Guests
from plugin.kernel.dataplane import Element
from plugin.kernel.reconciler import Reconciler
from plugin.kernel.writer import Kernel
from plugin.local.attachments import Attachments
from plugin.local.webdesk import WebDesk, elements
from plugin.model import IPNet, Network, ip_network
from plugin.ranges.grounds import Grounds
from plugin.resolver.hostservers import HostServers
from plugin.settings import Settings
from plugin.state import State
from plugin.store.loop import StoreLoop
from plugin.store.member import Member
from plugin.store.membership import Membership, Memory
from plugin.store.mesh import View
from plugin.store.view import StoreView, Touched
from plugin.tunnel import wants
from plugin.tunnel.fence import Fence
from plugin.tunnel.handover import SWITCH
from plugin.tunnel.loop import MeshLoop
from plugin.tunnel.sightings import Sightings
from plugin.tunnel.wants import Wanted
from plugin.wireguard.backend import Backend
from plugin.wireguard.keys import Keys
from stackpad import records
from stackpad.engine import Engine
from stackpad.errors import NotFound, StackpadError, Unavailable
from stackpad.runtime import Backoff

READY = 15.0
"""Seconds the beginning of a cluster may take to the first view of its store."""


SHOWN = 20
"""Ranges that this node and another one have, of which as many are told."""


class Cluster:
    """Membership, the cluster's view, and the loops; ``names_changed`` is told the environments whose records have."""

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
        self.names_changed: Callable[[Iterable[str]], None] = lambda _: None
        self.exposition: Callable[[], bytes] = bytes
        self.attachments = Attachments(engine, lambda network: network in state.networks, self.networks_changed)
        self._memory, self.guests = Memory(directory_path), Guests(directory_path)
        self.keys, self._fence = Keys(settings.keys), Fence(directory_path)
        self._wishes = Wishes(settings, self.keys, self.guests)
        self.damage = ""
        self.membership: Membership | None = self._remembered()
        self._seen = StoreView()
        if self.membership is not None:
            self._seen.replace(self._memory.load_view())
        self.desk = WebDesk(directory_path / "web.json")
        self.presence = Presence(settings, state, reconciler, self.keys, self.attachments, self.desk)
        self._needs = Needs(settings, reconciler, HostServers(settings.host_run))
        self.shown_changed: Callable[[], None] = lambda: None
        self._joining: tuple[tokens.Token, str] | None = None
        self._changed = asyncio.Event()
        self.changing = asyncio.Lock()
        """Held by whoever changes the membership or the key, or gives out a token, from its first look to its end."""
        self.leaving = False
        """Whether this node is just taking itself out: it may see that in the store before it is answered."""
        self.mesh = MeshLoop(kernel, reconciler, state, backend, self._wanted, Sightings(directory_path), self._fence)
        self.mesh.unreached_changed = lambda: self.names_changed(())
        self._services = Services(
            settings,
            self.mesh,
            StoreParts(self._memory, self._seen, self._own_records, self.heard, lambda: self.presence.whole),
            JoinParts(self.member_of, lambda: self.presence.node(self.member_of()), self.guests),
            lambda: self.exposition(),
        )
        self._log = structlog.get_logger("cluster")

    def _remembered(self) -> Membership | None:
        """The membership on the disk; where it cannot be read, the node goes on alone, and the file stays as it is."""
        try:
            return self._memory.load()
        except Unavailable as error:
            self.damage = str(error)
            structlog.get_logger("cluster").error("nothing of the cluster is run", reason=self.damage)
            seen = StoreView()
            seen.replace(self._memory.load_view())
            if (cluster := seen.view().cluster) is not None:
                # Its containers still call those of other nodes.
                self._fence.keep(map(ip_network, (cluster.range4, cluster.range6)), self._state.networks)
            return None

    @property
    def view(self) -> View:
        """Everything known of the cluster."""
        return self._seen.view()

    @property
    def unreached(self) -> Mapping[str, frozenset[IPNet]]:
        """By node, the ranges in which its containers are not reached from here."""
        return self.mesh.unreached

    @property
    def store(self) -> StoreLoop | None:
        """The store as this node sees and writes it, while it is in a cluster."""
        return self._services.store

    @property
    def member(self) -> Member | None:
        """The store that this node runs itself."""
        return self._services.member

    @property
    def problems(self) -> list[str]:
        """What a person should know."""
        found = [*self._seen.problems.values(), *self._services.problems]
        if self.member is not None and self.member.status.phase == "failed":
            found.append(f"store: {self.member.status.reason}")
        found += filter(None, (self.damage, self.guests.problem))
        if self.store is not None:
            found += self.store.problems
        if self.mesh.problem:
            found.append(f"mesh: {self.mesh.problem}")
        found += self.mesh.contested[:SHOWN]
        found += self._wishes.problems[:SHOWN] if self.membership is not None else ()
        if self.membership is not None:
            found += troubles.of_member(self.membership, self.view)
            if self.store is None or not self.store.connected.is_set():
                found += troubles.without_store(self.membership, self._settings.store)
        return found

    def networks_changed(self) -> None:
        """Networks, endpoints or attachments of this node have changed."""
        if self.store is not None:
            self.store.touch()
        self.mesh.touch()
        self.names_changed(())

    def heard(self, touched: Touched) -> None:
        """The store has changed."""
        if self.membership is not None and self.membership.node in self._seen.view().removed:
            if self.leaving:
                return
            self._log.warning("this node was removed from the cluster; leaving it")
            try:
                self.forget()
            except Unavailable as error:
                # Tried again at the next change; a full disk must not end everything else.
                self._log.error("it cannot be left yet", reason=str(error))
            return
        if touched.all:
            self.guests.meet(self.view.alive)
        if touched.buried and self.store is not None:
            self.store.touch()
        if touched.mesh or touched.all:
            self.mesh.touch()
            self._take_key()
        if touched.shown:
            self.shown_changed()
        self.names_changed(touched.environments)

    def _take_key(self) -> None:
        """Use a new key as soon as the others have been told that it is the only one."""
        record = self.view.nodes.get(self.membership.node) if self.membership is not None else None
        if self.keys.changing and record is not None and record.public_keys == self.keys.public_keys:
            asyncio.get_running_loop().call_later(SWITCH, self._use_key)

    def _use_key(self) -> None:
        self.keys.use()
        self.mesh.touch()

    # What this node is and wants

    def _own_records(self) -> Mapping[str, records.Record] | None:
        if self.leaving:
            return None  # what has just been taken out of the store would be written into it again
        wanted = self.presence.records(self.membership)
        if wanted is None or self.membership is None or not self.membership.control:
            return wanted
        return {**wanted, **self._seen.tombstones()}

    def _wanted(self) -> Wanted | None:
        if self._joining is not None:
            return wants.of_guest(*self._joining, self._settings.mesh_port)
        if self.membership is None:
            return None
        return self._wishes.of(self.membership, self.view, self.mesh.observed, self.grounds())

    def grounds(self, *, claiming: bool = False) -> Grounds:
        """What the ranges of networks are judged by: other nodes', or one that this node is ``claiming``."""
        return self._needs.grounds(self.membership, self.view, self.mesh.heard, claiming=claiming)

    # Running

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.mesh.run(), name="mesh")
            tasks.create_task(self.attachments.run(), name="attachments")
            tasks.create_task(self._ask_engine(), name="engine version")
            tasks.create_task(self.desk.run(), name="web report")
            await self._run_membership()

    async def _ask_engine(self) -> None:
        backoff = Backoff(0.5, 10.0)
        while not self.presence.engine_version:
            try:
                self.presence.engine_version = await self._engine.version()
            except StackpadError:
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
            if membership.control and self._settings.store not in {(), membership.store} and not self._has_embedded():
                membership = msgspec.structs.replace(membership, store=self._settings.store)
                try:
                    await self.keep(membership)
                except Unavailable as error:
                    # What the settings say holds all the same; what is kept is for a start without them.
                    self._log.warning("where the store is could not be kept", reason=str(error))
            await self._services.run(membership, self._changed)

    def _has_embedded(self) -> bool:
        """Whether a store of this node's own has run here: then one in the settings may be a mistake."""
        return self._settings.store_directory.exists()

    def member_of(self) -> Membership:
        """The membership; raises :class:`NotFound` without one, :class:`Unavailable` if it cannot be read."""
        if self.damage:
            raise Unavailable(self.damage)
        if self.membership is None:
            raise NotFound(
                "this node is in no cluster; begin one with stackpad node init, or join one with stackpad node join"
            )
        return self.membership

    # For those who change the membership

    async def other_routes(self) -> list[IPNet]:
        """What this node reaches beside its networks and the tunnel."""
        return [route.net for route in await self._kernel.routes()]

    def close_guest_tunnel(self) -> None:
        """A join has failed."""
        self._joining = None
        self.mesh.touch()

    def former(self) -> str:
        """The id this node had when it was last in a cluster."""
        return self._memory.former()

    @property
    def shown(self) -> Mapping[str, bytes]:
        """What the ingress is shown of the store, by key."""
        return self._seen.shown

    def network_in(self, net: IPNet) -> Network | None:
        """A network of this node's that has addresses in ``net``."""
        for network in self._state.networks.values():
            if any(net.version == subnet.net.version and net.overlaps(subnet.net) for subnet in network.subnets):
                return network
        return None

    def in_use(self, claimed: records.Range) -> bool:
        """Whether the network that a range was claimed for is here, or another one that has addresses in it."""
        return claimed.network in self._state.networks or self.network_in(ip_network(claimed.net)) is not None

    def web_elements(self) -> frozenset[Element]:
        """What the firewall admits for this node's web containers."""
        return elements(self.desk.report, [s.net for n in self._state.networks.values() for s in n.subnets])

    def stored(self, key: str) -> bytes | None:
        """A value as the store has it."""
        return self._seen.raw.get(key)

    def stored_under(self, prefix: str) -> list[str]:
        """The keys the store has under a prefix."""
        return [key for key in self._seen.raw if key.startswith(prefix)]

    async def adopt(self, membership: Membership) -> None:
        """Take up a membership; what belongs to it starts."""
        await self.keep(membership)
        self._joining = None
        self._changed.set()
        self.shown_changed()
        self.mesh.touch()

    async def keep(self, membership: Membership) -> None:
        """Keep a changed membership, on the disk first."""
        before = self.membership
        await asyncio.to_thread(self._memory.save, membership)
        if before is not None and self.membership is None:
            self._memory.save(None)  # it has left meanwhile
            return
        self.membership = membership

    def forget(self) -> None:
        """Be in no cluster any more; what belongs to it ends, but for what keeps its connections out of the clear."""
        wanted = self._wanted()
        if wanted is not None:
            self._fence.keep(wanted.fenced, self._state.networks)
        self._memory.save(None)
        self.membership = None
        self._seen.clear()
        self._changed.set()
        self.mesh.touch()
        self.shown_changed()
        self.names_changed(())

    async def open_tunnel(self, token: tokens.Token, endpoint: str) -> None:
        """Set the tunnel up for a guest with ``token``, towards one address of its gateway ("": none yet)."""
        self._joining = (token, endpoint)
        self.mesh.touch()
        await self.mesh.wait_settled()

    async def wait_for_store(self, seconds: float = READY) -> None:
        """Wait until the store has answered; raises :class:`Unavailable` with the reason if it does not."""
        await self._services.wait_for_store(seconds)

    def connected_store(self) -> StoreLoop:
        """The store, for something that cannot do without; raises :class:`Unavailable` while it is away."""
        self.member_of()
        if self.store is None or not self.store.connected.is_set():
            reason = self.store.reason if self.store is not None else "it is starting"
            raise Unavailable(f"the cluster's store does not answer ({reason}); try again when stackpad status says so")
        return self.store
