"""What callers of the store hold in their hands. Pure, frozen values, and the store's own errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stackpad.errors import NotFound, Unavailable
from stackpad.etcd.messages import (
    DeleteRequest,
    PutRequest,
    RangeRequest,
    RawCompare,
    RawEvent,
    RawKeyValue,
    RequestOp,
    ResponseOp,
    from_wire,
    to_wire,
)


class Undecided(Unavailable):
    """A write was sent and its answer never came: it may have happened. Read before you write again."""


class LeaseGone(NotFound):
    """The lease has expired or was revoked, and the keys bound to it are gone."""


class Compacted(Unavailable):
    """The changes asked for are no longer there: list again.

    ``revision`` is the oldest that can still be watched; 0 when the store is not the one it was.
    """

    def __init__(self, message: str, revision: int = 0) -> None:
        super().__init__(message)
        self.revision = revision


Stamp = tuple[int, int]
"""The revision that a key was written in, and a digest of its value which is good in this process only."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key and what it held at ``mod_revision``; ``lease`` is 0 for a key that stays."""

    key: str
    value: bytes
    mod_revision: int
    create_revision: int
    version: int
    lease: int

    @classmethod
    def of(cls, raw: RawKeyValue) -> KeyValue:
        """From the wire."""
        key = from_wire(raw.key)
        return cls(key, raw.value, raw.mod_revision, raw.create_revision, raw.version, raw.lease)

    @property
    def stamp(self) -> Stamp:
        """What tells it from another value, and from the same one written at another time."""
        return self.mod_revision, hash(self.value)


@dataclass(frozen=True, slots=True)
class Origin:
    """Which store an answer came from. The term of one cluster never sinks; one that did was made anew."""

    cluster: int
    term: int


@dataclass(frozen=True, slots=True)
class Listing:
    """All keys of a prefix, in order, as they were at ``revision``."""

    revision: int
    items: tuple[KeyValue, ...]
    origin: Origin


@dataclass(frozen=True, slots=True)
class Event:
    """One change: ``kv`` is what the key holds now, None if it was deleted (or its lease ended)."""

    key: str
    kv: KeyValue | None

    @classmethod
    def of(cls, raw: RawEvent) -> Event:
        """From the wire."""
        kv = KeyValue.of(raw.kv)
        return cls(kv.key, None if raw.type == "DELETE" else kv)


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes up to and with ``revision``, in order; those of one transaction are always in one batch.

    A batch without events, in a following, says that the store is back and nothing was missed.
    """

    revision: int
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything under a prefix: what is not in it is not there any more."""

    revision: int
    items: Mapping[str, KeyValue]


@dataclass(frozen=True, slots=True)
class Lost:
    """The store is away; what was told before still stands as the last that is known."""

    reason: str


@dataclass(frozen=True, slots=True)
class Compare:
    """A condition of :meth:`stackpad.etcd.Etcd.commit`; made by the functions below."""

    wire: RawCompare


def absent(key: str) -> Compare:
    """There is no such key."""
    return Compare(RawCompare("EQUAL", "CREATE", to_wire(key)))


def present(key: str) -> Compare:
    """There is such a key."""
    return Compare(RawCompare("GREATER", "CREATE", to_wire(key)))


def unchanged(key: str, mod_revision: int) -> Compare:
    """The key was last written at ``mod_revision``; 0 means that it is absent."""
    return Compare(RawCompare("EQUAL", "MOD", to_wire(key), mod_revision=mod_revision))


def equals(key: str, value: bytes) -> Compare:
    """The key is there and holds exactly ``value``."""
    return Compare(RawCompare("EQUAL", "VALUE", to_wire(key), value=value))


@dataclass(frozen=True, slots=True)
class Put:
    """Write ``key``; with a lease it goes when the lease does."""

    key: str
    value: bytes
    lease: int = 0

    def wire(self) -> RequestOp:
        """For a transaction."""
        return RequestOp(request_put=PutRequest(to_wire(self.key), self.value, self.lease))


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete ``key``, if it is there."""

    key: str

    def wire(self) -> RequestOp:
        """For a transaction."""
        return RequestOp(request_delete_range=DeleteRequest(to_wire(self.key)))


@dataclass(frozen=True, slots=True)
class Get:
    """Read ``key`` as part of the transaction."""

    key: str

    def wire(self) -> RequestOp:
        """For a transaction."""
        return RequestOp(request_range=RangeRequest(to_wire(self.key)))


Op = Put | Delete | Get


@dataclass(frozen=True, slots=True)
class Answer:
    """What one operation of a transaction gave: the key-value of a Get, the count of a Delete."""

    kv: KeyValue | None = None
    deleted: int = 0

    @classmethod
    def of(cls, raw: ResponseOp) -> Answer:
        """From the wire."""
        if raw.response_range is not None and raw.response_range.kvs:
            return cls(kv=KeyValue.of(raw.response_range.kvs[0]))
        return cls(deleted=raw.response_delete_range.deleted if raw.response_delete_range else 0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A transaction's result: whether its conditions held, and the answers of the branch that was taken."""

    succeeded: bool
    revision: int
    responses: tuple[Answer, ...]
