"""What Docker told us, on disk before it is answered.

Docker sends ``CreateNetwork`` once in a network's life, not after a restart and not after a reboot, so this is the
only record of it. SQLite with a full sync at each commit: an answered call survives a power cut. Writes happen in
one thread, in the order of the calls; reads come from memory.

A plugin that starts while the disk is full reads all of it, too, and writes again as soon as there is room.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import structlog

from plugin import upstreams
from plugin.model import Allocation, Endpoint, IPAddress, Network, Pool, decode, encode
from plugin.upstreams import Target
from stackpad.errors import Unavailable

SCHEMA = 1
"""Version of the layout below; a newer one is refused, an older one would be migrated here."""

_TABLES = {"networks": Network, "endpoints": Endpoint, "pools": Pool, "allocations": Allocation}
_Statement = tuple[str, tuple[Any, ...]]

_REPAIR = (
    "make it root's, repair the disk or put a copy back, and the plugin goes on; or move the file away and restart the "
    "plugin to begin anew (networks must then be created again)"
)
_NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMOPEN, sqlite3.SQLITE_IOERR_WRITE}
"""What SQLite says where it needs room: it makes files beside the database also to read it."""

_INSTALL = "install that version again, or put a copy of before the upgrade back"


class _Newer(OSError):
    """A layout of the future."""


class State:
    """Networks, endpoints, pools and allocations by key; every mutator returns after the disk has it.

    Memory changes at once and the disk a moment later: two calls in flight see each other. If the disk refuses
    (:class:`Unavailable`), memory is taken back to what was there before. ``endpoints_changed`` is called each time.
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
        self._path = path
        self._cramped = False
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="state")
        # What is left open would hold the file for as long as the exception is kept.
        with contextlib.ExitStack() as undo:
            undo.callback(self._writer.shutdown)
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                # Docker makes it for everybody to enter, where the ingress's container comes first.
                path.parent.chmod(0o700)
                self._database = self._connect()
                undo.callback(lambda: self._database.close())
                path.chmod(0o600)
                self._open()
            except (sqlite3.Error, OSError, msgspec.MsgspecError, ValueError) as error:
                remedy = _INSTALL if isinstance(error, _Newer) else _REPAIR
                raise Unavailable(f"the state file {path} cannot be used: {error}; {remedy}") from error
            undo.pop_all()

    async def __aenter__(self) -> State:
        """The state itself; leaving closes the file."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish what is being written and close the file."""
        self._writer.shutdown()
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
        before = self.networks.get(network.id)
        self._index(network)
        try:
            await self._put(self.networks, network.id, network, "networks", network.id)
        except Unavailable:
            self._unindex(network)
            if before is not None:
                self._index(before)
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
            await self._write(
                _delete("upstreams", str(number))
                if targets is None
                else _insert("upstreams", str(number), upstreams.encode(targets))
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
            await self._write([_delete("networks", network_id), *(_delete("endpoints", e.id) for e in endpoints)])
        except Unavailable:
            if network is not None:
                self.networks.setdefault(network_id, network)
                self._index(network)
            for endpoint in endpoints:
                self._restore(endpoint)
            raise
        finally:
            self.endpoints_changed()

    async def drop_endpoint(self, endpoint_id: str) -> None:
        """Forget an endpoint."""
        endpoint = self.endpoints.pop(endpoint_id, None)
        if endpoint is None:
            return
        self._endpoints_of[endpoint.network_id].discard(endpoint_id)
        try:
            await self._write([_delete("endpoints", endpoint_id)])
        except Unavailable:
            self._restore(endpoint)
            raise
        finally:
            self.endpoints_changed()

    async def drop_pool(self, pool_id: str) -> None:
        """Forget a pool and its addresses."""
        addresses = self.allocations.pop(pool_id, {})
        pool = self.pools.pop(pool_id, None)
        if pool is None and not addresses:
            return
        keys = [_delete("allocations", _allocation_key(pool_id, address)) for address in addresses]
        try:
            await self._write([_delete("pools", pool_id), *keys])
        except Unavailable:
            if pool is not None:
                self.pools.setdefault(pool_id, pool)
            self.allocations[pool_id] = addresses | self.allocations.get(pool_id, {})
            raise

    async def drop_allocation(self, pool_id: str, address: IPAddress) -> None:
        """Forget that an address is taken."""
        allocation = self.allocations_of(pool_id).pop(address, None)
        if allocation is None:
            return
        try:
            await self._write([_delete("allocations", _allocation_key(pool_id, address))])
        except Unavailable:
            self.allocations.setdefault(pool_id, {}).setdefault(address, allocation)
            raise

    def _index(self, network: Network) -> None:
        self._network_of.update((subnet.pool, network.id) for subnet in network.subnets)

    def _unindex(self, network: Network) -> None:
        for subnet in network.subnets:
            if self._network_of.get(subnet.pool) == network.id:
                del self._network_of[subnet.pool]

    def _restore(self, endpoint: Endpoint) -> None:
        self.endpoints.setdefault(endpoint.id, endpoint)
        self._endpoints_of.setdefault(endpoint.network_id, set()).add(endpoint.id)

    async def _put(self, table: dict[Any, Any], key: Any, record: Any, name: str, stored_key: str) -> None:
        before = table.get(key)
        if before == record:
            return
        table[key] = record
        try:
            await self._write([_insert(name, stored_key, encode(record))])
        except Unavailable:
            if before is None:
                table.pop(key, None)
            else:
                table[key] = before
            raise

    async def _write(self, statements: Iterable[_Statement]) -> None:
        statements = list(statements)
        await asyncio.get_running_loop().run_in_executor(self._writer, self._commit, statements)

    def _commit(self, statements: Iterable[_Statement]) -> None:
        try:
            if self._cramped:
                self._database.execute("PRAGMA synchronous = FULL")
                self._cramped = False
            self._database.execute("BEGIN IMMEDIATE")
            try:
                for sql, values in statements:
                    self._database.execute(sql, values)
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            raise Unavailable(
                f"{self._path} cannot be written: {_why(error)}; make room or repair the disk, then try again"
            ) from error

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)

    def _open(self) -> None:
        try:
            self._prepare()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode not in _NO_ROOM:
                raise
            self._database.close()
            # A connection that shares the file with nobody needs no room to read it.
            with contextlib.closing(sqlite3.connect(self._path, isolation_level=None)) as alone:
                alone.execute("PRAGMA locking_mode = EXCLUSIVE")
                if alone.execute("PRAGMA user_version").fetchone()[0] != SCHEMA:
                    raise
                self._read(alone)
            self._database = self._connect()  # which opens the file only when it is first used
            self._cramped = True
            log = structlog.get_logger("state")
            log.error("no room to write the state; going on with what it says", file=str(self._path), reason=_why(error))

    def _prepare(self) -> None:
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA:
            raise _Newer(f"it was written by a newer version of the plugin (layout {version}, known is {SCHEMA})")
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        for name in (*_TABLES, "upstreams"):
            self._database.execute(f"CREATE TABLE IF NOT EXISTS {name} (key TEXT PRIMARY KEY, record BLOB NOT NULL)")
        if version != SCHEMA:
            # Saying it again would be a write each time, also to a file that turns out to be damaged further on.
            self._database.execute(f"PRAGMA user_version = {SCHEMA}")
        self._database.execute("CREATE TABLE IF NOT EXISTS node (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
        # RFC 4193 §3.2.2: 40 random bits, chosen once, make the node's own range of IPv6 addresses.
        chosen = str(ipaddress.IPv6Network((b"\xfd" + os.urandom(5) + bytes(10), 48)))
        self._database.execute("INSERT OR IGNORE INTO node VALUES ('unique_local_range', ?)", (chosen,))
        self._read(self._database)

    def _read(self, database: sqlite3.Connection) -> None:
        row = database.execute("SELECT value FROM node WHERE name = 'unique_local_range'").fetchone()
        if row is None:
            raise ValueError("it is not whole: the node's own range is missing")
        self.unique_local_range = ipaddress.IPv6Network(row[0])
        for network in _load(database, "networks", Network):
            self.networks[network.id] = network
            self._index(network)
        for endpoint in _load(database, "endpoints", Endpoint):
            self._restore(endpoint)
        for pool in _load(database, "pools", Pool):
            self.pools[pool.id] = pool
        for allocation in _load(database, "allocations", Allocation):
            self.allocations.setdefault(allocation.pool_id, {})[allocation.ip] = allocation
        for key, record in database.execute("SELECT key, record FROM upstreams"):
            self._lead({int(key): upstreams.decode(record)})


def _load(database: sqlite3.Connection, table: str, kind: Any) -> list[Any]:
    rows = database.execute(f"SELECT record FROM {table}")  # noqa: S608 - a constant of this module
    return [decode(record, kind) for (record,) in rows]


def _why(error: sqlite3.Error) -> str:
    return "the disk is full" if getattr(error, "sqlite_errorcode", None) in _NO_ROOM else str(error)


def _insert(table: str, key: str, record: bytes) -> _Statement:
    return f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", (key, record)  # noqa: S608 - a constant of this module


def _delete(table: str, key: str) -> _Statement:
    return f"DELETE FROM {table} WHERE key = ?", (key,)  # noqa: S608 - a constant of this module


def _allocation_key(pool_id: str, address: IPAddress) -> str:
    return f"{pool_id} {address}"
