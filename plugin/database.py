"""A file of tables of records: SQLite with a full sync at each commit, so that what is written survives a power cut.

The node's own range of IPv6 addresses is in it, too, chosen when the file is made.

Writes happen in one thread, in the order they are asked for; what was there is read once, when the file is opened. That
works while the disk is full, too, and is written again as soon as there is room.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import sqlite3
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import structlog

from stackpad.errors import Unavailable

SCHEMA = 1
"""Version of the layout below; a newer one is refused, an older one would be migrated here."""

Statement = tuple[str, tuple[Any, ...]]

_NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMOPEN, sqlite3.SQLITE_IOERR_WRITE}
"""What SQLite says where it needs room: it makes files beside the database also to read it."""

_REPAIR = (
    "make it root's, repair the disk or put a copy back, and the plugin goes on; or move the file away and restart the "
    "plugin to begin anew (networks must then be created again)"
)
_INSTALL = "install that version again, or put a copy of before the upgrade back"


class Damaged(Exception):
    """The file cannot be used, and why."""

    remedy = _REPAIR


class Newer(Damaged):
    """A layout of the future."""

    remedy = _INSTALL


class Database:
    """``tables`` of records by key; ``rows`` has what was in them, ``unique_local_range`` the node's own of IPv6."""

    def __init__(self, path: Path, tables: Sequence[str]) -> None:
        """Open or create the file at ``path``; raises :class:`Damaged`, :class:`sqlite3.Error` or :class:`OSError`."""
        self._path, self._tables = path, tables
        self._cramped = False
        self.rows: dict[str, list[tuple[str, bytes]]] = {}
        self.unique_local_range = ""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Docker makes it for everybody to enter, where the ingress's container comes first.
        path.parent.chmod(0o700)
        self.connection = self._connect()
        try:
            path.chmod(0o600)
            self._open()
        except BaseException:
            self.connection.close()
            raise
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="state")

    def close(self) -> None:
        """Finish what is being written and close the file."""
        self._writer.shutdown()
        self.connection.close()

    async def write(self, statements: Iterable[Statement]) -> None:
        """Carry all of them out or none; raises :class:`Unavailable` if the disk refuses."""
        await asyncio.get_running_loop().run_in_executor(self._writer, self._commit, list(statements))

    def _commit(self, statements: Iterable[Statement]) -> None:
        try:
            if self._cramped:
                self.connection.execute("PRAGMA synchronous = FULL")
                self._make_tables()
                self._cramped = False
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                for sql, values in statements:
                    self.connection.execute(sql, values)
            except BaseException:
                self.connection.execute("ROLLBACK")
                raise
            self.connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise Unavailable(
                f"{self._path} cannot be written: {_why(error)}; make room or repair the disk, then try again"
            ) from error

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)

    def _open(self) -> None:
        try:
            self._prepare()
            self._read(self.connection)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode not in _NO_ROOM:
                raise
            self.connection.close()
            # A connection that shares the file with nobody needs no room to read it.
            with contextlib.closing(sqlite3.connect(self._path, isolation_level=None)) as alone:
                alone.execute("PRAGMA locking_mode = EXCLUSIVE")
                if alone.execute("PRAGMA user_version").fetchone()[0] != SCHEMA:
                    raise
                self._read(alone)
            self.connection = self._connect()  # which opens the file only when it is first used
            self._cramped = True
            log = structlog.get_logger("state")
            log.error("no room to write the state; going on with what it says", file=str(self._path), reason=_why(error))

    def _prepare(self) -> None:
        version = self.connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA:
            raise Newer(f"it was written by a newer version of the plugin (layout {version}, known is {SCHEMA})")
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = FULL")
        self._make_tables()
        if version != SCHEMA:
            # Saying it again would be a write each time, also to a file that turns out to be damaged further on.
            self.connection.execute(f"PRAGMA user_version = {SCHEMA}")
        self.connection.execute("CREATE TABLE IF NOT EXISTS node (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
        # RFC 4193 §3.2.2: 40 random bits, chosen once, make the node's own range of IPv6 addresses.
        chosen = str(ipaddress.IPv6Network((b"\xfd" + os.urandom(5) + bytes(10), 48)))
        self.connection.execute("INSERT OR IGNORE INTO node VALUES ('unique_local_range', ?)", (chosen,))

    def _make_tables(self) -> None:
        for name in self._tables:
            self.connection.execute(f"CREATE TABLE IF NOT EXISTS {name} (key TEXT PRIMARY KEY, record BLOB NOT NULL)")

    def _read(self, connection: sqlite3.Connection) -> None:
        row = connection.execute("SELECT value FROM node WHERE name = 'unique_local_range'").fetchone()
        if row is None:
            raise Damaged("it is not whole: the node's own range is missing")
        self.unique_local_range = row[0]
        # One that a version before this has left, on a disk too full to make it, is empty.
        there = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        for name in self._tables:
            select = f"SELECT key, record FROM {name}"  # noqa: S608 - the state's own names
            self.rows[name] = connection.execute(select).fetchall() if name in there else []


def insert(table: str, key: str, record: bytes) -> Statement:
    """A record, new or changed."""
    return f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", (key, record)  # noqa: S608 - the state's own names


def delete(table: str, key: str) -> Statement:
    """A record less, if it is there."""
    return f"DELETE FROM {table} WHERE key = ?", (key,)  # noqa: S608 - the state's own names


def _why(error: sqlite3.Error) -> str:
    return "the disk is full" if getattr(error, "sqlite_errorcode", None) in _NO_ROOM else str(error)
