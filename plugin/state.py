"""What Docker told us, on disk before it is answered.

Docker sends ``CreateNetwork`` once in a network's life, not after a restart and not after a reboot, so this is the
only record of it. Writes go to the disk in the order of the calls (:mod:`plugin.database`); reads come from memory.
"""

from __future__ import annotations

import contextlib
import ipaddress
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from plugin import upstreams
from plugin.database import Damaged, Database, delete, insert
from plugin.model import Allocation, Endpoint, IPAddress, Network, Pool, decode, encode
from plugin.upstreams import Target
from stackpad.errors import Unavailable

_TABLES = ("networks", "endpoints", "pools", "allocations", "upstreams")


@dataclass(eq=False, slots=True)
class _Change:
    """A record's change that is under way to the disk, and what memory is taken back to if that refuses."""

    before: Any


class State:
    """Networks, endpoints, pools and allocations by key; every mutator returns after the disk has it.

    Memory changes at once and the disk a moment later: two calls in flight see each other. If the disk refuses
    (:class:`Unavailable`), memory is taken back to what was there before, but for what has been changed again since.
    ``endpoints_changed`` is called each time.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file at ``path``; raises :class:`Unavailable` if it cannot be used."""
        self.networks: dict[str, Network] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.pools: dict[str, Pool] = {}
        self.allocations: dict[str, dict[IPAddress, Allocation]] = {}
        self.unique_local_range = ipaddress.IPv6Network("::/128")
        self.upstreams: dict[int, tuple[Target, ...]] = {}
        self.endpoints_changed: Callable[[], None] = lambda: None
        self._endpoints_of: dict[str, set[str]] = {}
        self._network_of: dict[str, str] = {}
        self._numbers_on: dict[str, set[int]] = {}
        self._under_way: dict[tuple[str, str], list[_Change]] = {}
        # What is left open would hold the file for as long as the exception is kept.
        with contextlib.ExitStack() as undo:
            try:
                self._database = Database(path, _TABLES)
                undo.callback(self._database.close)
                self._read()
            except (Damaged, sqlite3.Error, OSError, msgspec.MsgspecError, ValueError) as error:
                remedy = error.remedy if isinstance(error, Damaged) else Damaged.remedy
                raise Unavailable(f"the state file {path} cannot be used: {error}; {remedy}") from error
            undo.pop_all()

    async def __aenter__(self) -> State:
        """The state itself; leaving closes the file."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish what is being written and close the file."""
        self._database.close()

    def endpoints_of(self, network_id: str) -> list[Endpoint]:
        """The endpoints of one network."""
        return [self.endpoints[endpoint_id] for endpoint_id in self._endpoints_of.get(network_id, ())]

    def network_of_pool(self, pool: str) -> Network | None:
        """The network one of whose ranges is ``pool``, in CIDR form."""
        return self.networks.get(self._network_of.get(pool, ""))

    def ranges(self) -> set[str]:
        """Every range of a network or pool, in CIDR form."""
        return self._network_of.keys() | {pool.pool for pool in self.pools.values()}

    def network_ranges(self) -> list[str]:
        """The ranges of networks alone."""
        return list(self._network_of)

    def allocations_of(self, pool_id: str) -> dict[IPAddress, Allocation]:
        """The addresses of one pool that are not free."""
        return self.allocations.get(pool_id, {})

    async def put_network(self, network: Network) -> None:
        """Keep a network, new or changed."""
        self._index(network)
        try:
            await self._put(self.networks, network.id, network, "networks", network.id)
        except Unavailable:
            self._unindex(network)
            if (there := self.networks.get(network.id)) is not None:
                self._index(there)
            raise

    def upstreams_on(self, network_id: str) -> Iterable[int]:
        """Numbers that lead into a network; with an empty id, those that lead beyond this node."""
        return self._numbers_on.get(network_id, ())

    async def put_upstreams(self, changes: Mapping[int, tuple[Target, ...] | None]) -> None:
        """Keep where these numbers of web services lead, and forget those that are ``None``."""
        before = {number: self.upstreams.get(number) for number in changes}
        fresh = {number: targets for number, targets in changes.items() if targets != before[number]}
        self._lead(fresh)
        try:
            await self._database.write(
                delete("upstreams", str(number))
                if targets is None
                else insert("upstreams", str(number), upstreams.encode(targets))
                for number, targets in fresh.items()
            )
        except Unavailable:
            self._lead({number: before[number] for number in fresh})
            raise

    def _lead(self, changes: Mapping[int, tuple[Target, ...] | None]) -> None:
        for number, targets in changes.items():
            for target in self.upstreams.pop(number, ()):
                self._numbers_on[target.network].discard(number)
            if targets is not None:
                self.upstreams[number] = targets
            for target in targets or ():
                self._numbers_on.setdefault(target.network, set()).add(number)

    async def put_endpoint(self, endpoint: Endpoint) -> None:
        """Keep an endpoint, new or changed."""
        known = self._endpoints_of.setdefault(endpoint.network_id, set())
        known.add(endpoint.id)
        try:
            await self._put(self.endpoints, endpoint.id, endpoint, "endpoints", endpoint.id)
        except Unavailable:
            if endpoint.id not in self.endpoints:
                known.discard(endpoint.id)
            raise
        finally:
            self.endpoints_changed()

    async def put_pool(self, pool: Pool) -> None:
        """Keep a pool, new or changed."""
        await self._put(self.pools, pool.id, pool, "pools", pool.id)

    async def put_allocation(self, address: IPAddress, allocation: Allocation) -> None:
        """Keep an address of a pool as taken."""
        table = self.allocations.setdefault(allocation.pool_id, {})
        key = _allocation_key(allocation.pool_id, address)
        await self._put(table, address, allocation, "allocations", key)

    async def drop_network(self, network_id: str) -> None:
        """Forget a network and its endpoints."""
        network = self.networks.pop(network_id, None)
        endpoints = self.endpoints_of(network_id)
        self._endpoints_of.pop(network_id, None)
        if network is not None:
            self._unindex(network)
        for endpoint in endpoints:
            del self.endpoints[endpoint.id]
        try:
            with contextlib.ExitStack() as changes:
                changes.enter_context(self._changing("networks", network_id, network, self._restore_network))
                for endpoint in endpoints:
                    changes.enter_context(self._changing("endpoints", endpoint.id, endpoint, self._restore))
                await self._database.write(
                    [delete("networks", network_id), *(delete("endpoints", e.id) for e in endpoints)]
                )
        finally:
            self.endpoints_changed()

    async def drop_endpoint(self, endpoint_id: str) -> None:
        """Forget an endpoint."""
        endpoint = self.endpoints.pop(endpoint_id, None)
        if endpoint is None:
            return
        self._endpoints_of[endpoint.network_id].discard(endpoint_id)
        try:
            with self._changing("endpoints", endpoint_id, endpoint, self._restore):
                await self._database.write([delete("endpoints", endpoint_id)])
        finally:
            self.endpoints_changed()

    async def drop_pool(self, pool_id: str) -> None:
        """Forget a pool and its addresses."""
        addresses = self.allocations.pop(pool_id, {})
        pool = self.pools.pop(pool_id, None)
        if pool is None and not addresses:
            return
        keys = {_allocation_key(pool_id, address): allocation for address, allocation in addresses.items()}
        with contextlib.ExitStack() as changes:
            changes.enter_context(self._changing("pools", pool_id, pool, self._restore_pool))
            for key, allocation in keys.items():
                changes.enter_context(self._changing("allocations", key, allocation, self._restore_allocation))
            await self._database.write([delete("pools", pool_id), *(delete("allocations", key) for key in keys)])

    async def drop_allocation(self, pool_id: str, address: IPAddress) -> None:
        """Forget that an address is taken."""
        allocation = self.allocations_of(pool_id).pop(address, None)
        if allocation is None:
            return
        key = _allocation_key(pool_id, address)
        with self._changing("allocations", key, allocation, self._restore_allocation):
            await self._database.write([delete("allocations", key)])

    def _index(self, network: Network) -> None:
        self._network_of.update((subnet.pool, network.id) for subnet in network.subnets)

    def _unindex(self, network: Network) -> None:
        for subnet in network.subnets:
            if self._network_of.get(subnet.pool) == network.id:
                del self._network_of[subnet.pool]

    def _restore_network(self, network: Network) -> None:
        self.networks[network.id] = network
        self._index(network)

    def _restore(self, endpoint: Endpoint) -> None:
        self.endpoints[endpoint.id] = endpoint
        self._endpoints_of.setdefault(endpoint.network_id, set()).add(endpoint.id)

    def _restore_pool(self, pool: Pool) -> None:
        self.pools[pool.id] = pool

    def _restore_allocation(self, allocation: Allocation) -> None:
        self.allocations.setdefault(allocation.pool_id, {})[allocation.ip] = allocation

    @contextlib.contextmanager
    def _changing(
        self,
        name: str,
        stored_key: str,
        before: Any,
        restore: Callable[[Any], object],
        forget: Callable[[], object] = lambda: None,
    ) -> Iterator[None]:
        """While the disk is told of a change that memory has already; if it refuses, ``before`` is there again.

        Where the record has been changed again by then, what is there now is that later change's: should the disk refuse
        that as well, it is taken back to before this one.
        """
        changes = self._under_way.setdefault((name, stored_key), [])
        changes.append(change := _Change(before))
        try:
            yield
        except Unavailable:
            later = changes[changes.index(change) + 1 :]
            if later:
                later[0].before = change.before
            elif change.before is None:
                forget()
            else:
                restore(change.before)
            raise
        finally:
            changes.remove(change)
            if not changes:
                del self._under_way[name, stored_key]

    async def _put(self, table: dict[Any, Any], key: Any, record: Any, name: str, stored_key: str) -> None:
        before = table.get(key)
        if before == record and (name, stored_key) not in self._under_way:
            return
        table[key] = record
        with self._changing(name, stored_key, before, partial(table.__setitem__, key), lambda: table.pop(key, None)):
            await self._database.write([insert(name, stored_key, encode(record))])

    def _read(self) -> None:
        rows = self._database.rows
        self.unique_local_range = ipaddress.IPv6Network(self._database.unique_local_range)
        for _, record in rows["networks"]:
            network = decode(record, Network)
            self.networks[network.id] = network
            self._index(network)
        for _, record in rows["endpoints"]:
            self._restore(decode(record, Endpoint))
        for _, record in rows["pools"]:
            pool = decode(record, Pool)
            self.pools[pool.id] = pool
        for _, record in rows["allocations"]:
            allocation = decode(record, Allocation)
            self.allocations.setdefault(allocation.pool_id, {})[allocation.ip] = allocation
        for key, record in rows["upstreams"]:
            self._lead({int(key): upstreams.decode(record)})
        rows.clear()


def _allocation_key(pool_id: str, address: IPAddress) -> str:
    return f"{pool_id} {address}"
