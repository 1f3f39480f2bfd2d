"""The IPAM driver: pools and addresses.

Docker's own bookkeeping decides what is right here. It asks again for everything it holds when the daemon starts
(``RequiresRequestReplay``), with the same words as for something new; it gives a pool back *before* it deletes the
network; and it keeps using the pool id of long ago. Hence: a pool's id follows from its range, asking for what is
held already succeeds, and whether a range or an address may really be used is decided where the network or the
endpoint is made (:mod:`plugin.docker.driver`). What a live network or endpoint uses is never given away, whatever is
released.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from plugin.docker import protocol
from plugin.kernel.node import Route
from plugin.model import AddressKind, Allocation, IPAddress, IPNet, Network, Pool, ip_network
from plugin.ranges import addresses
from plugin.ranges.grounds import Grounds
from plugin.ranges.notation import range_of
from plugin.settings import Settings
from plugin.state import State
from plugin.steady import Moments
from stackpad.errors import Conflict, Exhausted, InvalidRequest, NotFound

SPACE = "stackpad"
"""Our address space; the same for both of Docker's, which spares its check of our answer against host routes."""

IPV6_PREFIX = 64


class Ranges(Protocol):
    """What belongs to this node among the addresses of a cluster."""

    def blocks(self, version: int, /) -> Sequence[IPNet]:
        """Where networks are carved from; none: this node is in no cluster, and everything is its own."""

    def reserved(self) -> Sequence[IPNet]:
        """Ranges that are no network's, such as this node's own addresses in the tunnel."""

    def beyond(self, version: int, /) -> Sequence[IPNet]:
        """What a container on an internal network must have a route to: the resolver, and the cluster's ranges."""

    def refuse(self, net: IPNet, /) -> None:
        """Raise :class:`Conflict` if no network may have ``net``, whoever holds it."""

    async def grow(self, version: int, full: Sequence[IPNet], /) -> bool:
        """Get one more block beside those that are ``full``, unless there are others by now; returns whether it did.

        Raises :class:`Exhausted` or :class:`Unavailable`.
        """

    async def claim(self, network: Network, /) -> None:
        """Make a new network's ranges this node's; raises :class:`Conflict` or :class:`Unavailable`."""

    async def release(self, network_id: str, /) -> None:
        """Give back what was claimed for a network."""


class Alone:
    """The ranges of a node that is in no cluster and will never be: there is nobody to ask or to tell."""

    def blocks(self, _: int) -> Sequence[IPNet]:
        """None."""
        return ()

    def reserved(self) -> Sequence[IPNet]:
        """None."""
        return ()

    def beyond(self, _: int) -> Sequence[IPNet]:
        """None."""
        return ()

    def refuse(self, net: IPNet) -> None:
        """What is not private."""
        refuse_ground(net, Grounds())

    async def grow(self, _: int, __: Sequence[IPNet]) -> bool:
        """Nothing to be had."""
        return False

    async def claim(self, _: Network) -> None:
        """Nothing to do."""

    async def release(self, _: str) -> None:
        """Nothing to do."""


class Ipam:
    """Handlers of the ``IpamDriver`` calls; all return what goes into the answer."""

    def __init__(
        self,
        state: State,
        settings: Settings,
        routes: Callable[[], Awaitable[list[Route]]],
        ranges: Ranges | None = None,
        moments: Moments | None = None,
    ) -> None:
        self._state, self._settings, self._routes = state, settings, routes
        self._ranges: Ranges = ranges or Alone()
        self._range6 = settings.range6 or state.unique_local_range
        self._last_carved: dict[int, IPNet] = {}
        self._last_given: dict[str, IPAddress] = {}
        self._moments = moments or Moments()

    async def request_pool(self, request: protocol.RequestPool) -> dict[str, object]:
        """A range: the one asked for, or the next free one of the node's."""
        version = 6 if request.v6 else 4
        sub_pool = range_of(request.sub_pool, version) if request.sub_pool else None
        if request.pool:
            pool = await self._named(range_of(request.pool, version), sub_pool)
        elif sub_pool is not None:
            raise InvalidRequest(f"--ip-range {sub_pool} goes with --subnet; name both, or neither")
        else:
            pool = await self._carved(version)
        return {"PoolID": pool.id, "Pool": pool.pool, "Data": {}}

    async def release_pool(self, request: protocol.ReleasePool) -> dict[str, object]:
        """Take a range back; while its network lives it is only noted, and done with the network."""
        pool = self._state.pools.get(request.pool_id)
        if pool is not None:
            if self._user(pool) is None:
                await self._state.drop_pool(pool.id)
            else:
                await self._state.put_pool(replace(pool, released=True))
        return {}

    async def request_address(self, request: protocol.RequestAddress) -> dict[str, object]:
        """An address of a pool: the one asked for, or the next free one."""
        pool = self._pool(request.pool_id)
        is_gateway = (request.options or {}).get(protocol.REQUEST_TYPE) == protocol.GATEWAY_REQUEST
        kind = AddressKind.GATEWAY if is_gateway else AddressKind.ENDPOINT
        taken = self._state.allocations_of(pool.id)
        if request.address:
            address = _address(request.address)
            addresses.check_host(pool.net, address)
            held = taken.get(address)
            if held is not None and held.kind is AddressKind.GATEWAY and not is_gateway:
                raise Conflict(f"address {address} is the gateway of {pool.pool}; take another with --ip")
        else:
            within = pool.net if is_gateway else pool.range
            held_here = taken.keys() | self._in_use(pool)
            address = addresses.allocate(
                pool.net, within, held_here, None if is_gateway else self._last_given.get(pool.id)
            )
            if not is_gateway:
                self._last_given[pool.id] = address
        if address not in taken:
            given = Allocation(pool.id, str(address), kind, time.time())
            self._moments.age((pool.id, address), given.created)
            await self._state.put_allocation(address, given)
        return {"Address": f"{address}/{pool.net.prefixlen}", "Data": {}}

    async def release_address(self, request: protocol.ReleaseAddress) -> dict[str, object]:
        """Take an address back, unless somebody live has it: then Docker is undoing a call that we refused."""
        pool = self._state.pools.get(request.pool_id)
        if pool is not None:
            address = _address(request.address)
            if address not in self._in_use(pool):
                await self._state.drop_allocation(pool.id, address)
        return {}

    async def network_deleted(self, network: Network) -> None:
        """Drop the pools that were given back while ``network`` still used them."""
        for subnet in network.subnets:
            pool = self._state.pools.get(pool_id(subnet.net))
            if pool is not None and pool.released:
                await self._state.drop_pool(pool.id)

    async def collect(self, grace: float) -> None:
        """Drop what no network or endpoint has taken up within ``grace`` seconds: Docker died in between.

        What this process has given away itself keeps its grace, however the clock is set meanwhile.
        """
        over = self._moments
        for pool in list(self._state.pools.values()):
            if over.age(pool.id, pool.created) > grace and self._user(pool) is None:
                await self._state.drop_pool(pool.id)
                continue
            in_use = self._in_use(pool)
            for address, allocation in list(self._state.allocations_of(pool.id).items()):
                if allocation.kind is not AddressKind.ENDPOINT or address in in_use:
                    continue
                if over.age((pool.id, address), allocation.created) > grace:
                    await self._state.drop_allocation(pool.id, address)
        pools = self._state.pools
        over.keep([*pools, *((pool, address) for pool in pools for address in self._state.allocations_of(pool))])

    async def _named(self, net: IPNet, sub_pool: IPNet | None) -> Pool:
        if sub_pool is not None and (sub_pool.prefixlen < net.prefixlen or not sub_pool.overlaps(net)):
            raise InvalidRequest(f"--ip-range {sub_pool} does not lie in --subnet {net}")
        held = self._state.pools.get(pool_id(net))
        if held is not None:
            if self._user(held) is None:
                # Nobody has taken it up yet, so the latest word on it counts, and its grace begins anew.
                return await self._keep(replace(held, sub_pool=None if sub_pool is None else str(sub_pool)))
            return held
        refuse_holders(net, self._state)
        refuse_routes(net, await self._routes())
        self._ranges.refuse(net)
        return await self._keep(Pool(pool_id(net), str(net), None if sub_pool is None else str(sub_pool)))

    async def _carved(self, version: int) -> Pool:
        prefix = self._settings.network_prefix if version == 4 else IPV6_PREFIX
        routes = await self._routes()
        grown = False
        while True:
            own = self._ranges.blocks(version)
            try:
                net = self._next_free(version, own, prefix, routes)
                break
            except Exhausted:
                if not own or grown:
                    raise
                # Another call may have got a block meanwhile, and others may have filled it: then it is looked again.
                grown = await self._ranges.grow(version, own)
        # From the choice to the write there is no await: two calls at once cannot choose the same.
        self._last_carved[version] = net
        return await self._keep(Pool(pool_id(net), str(net), dynamic=True))

    def _next_free(self, version: int, own: Sequence[IPNet], prefix: int, routes: Sequence[Route]) -> IPNet:
        # A company's route for all of a private range leaves room for networks in it; see refuse_routes().
        near = (route.net for route in routes if route.on_link or route.net.prefixlen >= prefix)
        taken = [*self._state.ranges(), *near, *map(str, self._ranges.reserved())]
        blocks: Iterable[IPNet] = own
        if not own:
            everything = self._settings.range4.subnets(new_prefix=self._settings.block_prefix)
            blocks = everything if version == 4 else (self._range6,)
        return addresses.carve(blocks, prefix, taken, self._last_carved.get(version))

    async def _keep(self, pool: Pool) -> Pool:
        pool = replace(pool, created=time.time())
        self._moments.age(pool.id, pool.created)
        await self._state.put_pool(pool)
        return pool

    def _pool(self, identifier: str) -> Pool:
        pool = self._state.pools.get(identifier)
        if pool is None:
            raise NotFound(
                f"pool {ascii(identifier)[:80]} is not known here: the plugin's state was lost or this is another "
                "node's; remove the network and create it again"
            )
        return pool

    def _user(self, pool: Pool) -> Network | None:
        return self._state.network_of_pool(pool.pool)

    def _in_use(self, pool: Pool) -> set[IPAddress]:
        """Addresses of a pool that a live network or endpoint has."""
        network = self._user(pool)
        if network is None:
            return set()
        used: set[IPAddress] = {ip for e in self._state.endpoints_of(network.id) for ip in e.addresses}
        used.update(ipaddress.ip_address(text) for text in network.reserved)
        used.update(s.gateway_interface.ip for s in network.subnets if s.gateway_interface is not None)
        return {ip for ip in used if ip in pool.net}


def pool_id(net: IPNet) -> str:
    """The id of a range's pool; it follows from the range, because Docker keeps it for longer than we live."""
    return f"{SPACE}/{net}"


def refuse_ground(net: IPNet, grounds: Grounds) -> None:
    """Raise :class:`Conflict` if a network may not have ``net``."""
    if reason := grounds.against(net):
        raise Conflict(f"range {reason}")


def refuse_holders(net: IPNet, state: State) -> None:
    """Raise :class:`Conflict` if ``net`` overlaps a range of another network or pool, naming it."""
    other = addresses.first_overlap(net, state.network_ranges()) or addresses.first_overlap(net, state.ranges())
    if other is not None:
        holder = state.network_of_pool(other)
        name = f"network {holder.environment or holder.id[:12]}" if holder else "a network that is being created"
        addresses.refuse_overlap(net, [(ip_network(other), name)])


def refuse_routes(net: IPNet, routes: list[Route]) -> None:
    """Raise :class:`Conflict` where a new network would take traffic away from a route of the node's.

    A route through a gateway that covers more than the network is left aside: a part of a private range is a
    sensible choice in a company that routes the whole of it.
    """
    for route in routes:
        if route.net.version != net.version or not route.net.overlaps(net):
            continue
        if route.on_link or route.net.prefixlen >= net.prefixlen:
            raise Conflict(
                f"range {net} overlaps {route.net}, which this node reaches by {route}; "
                "choose another with --subnet, or leave it out to have a free one chosen"
            )


def _address(text: str) -> IPAddress:
    try:
        return ipaddress.ip_address(addresses.unzoned(text))
    except ValueError as error:
        raise InvalidRequest(f"{ascii(text)[:80]} is not an IP address") from error
