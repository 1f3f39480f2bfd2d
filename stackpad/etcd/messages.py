"""What goes over the wire to etcd and back: the v3 API in the JSON spelling of its gateway. Pure.

Source: etcd's ``rpc.proto`` and ``kv.proto`` under protobuf's JSON mapping: bytes are base64, 64-bit integers come as
strings, and a field with its default value is left out. Keys are text here; one that is not UTF-8 survives the round
trip through ``surrogateescape``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Generic, TypeVar

import msgspec

from stackpad import jsontext

T = TypeVar("T")

NOT_FOUND: Final = 5
OUT_OF_RANGE: Final = 11
UNAUTHENTICATED: Final = 16


class Wire(msgspec.Struct, frozen=True, omit_defaults=True):
    """Base of everything sent or received. A default here is protobuf's own, since it is what is not sent."""


class Header(Wire, frozen=True):
    """``ResponseHeader``: which cluster answered, and how far it was."""

    cluster_id: int = 0
    member_id: int = 0
    revision: int = 0
    raft_term: int = 0


class RawKeyValue(Wire, frozen=True):
    """``mvccpb.KeyValue``."""

    key: bytes = b""
    value: bytes = b""
    mod_revision: int = 0
    create_revision: int = 0
    version: int = 0
    lease: int = 0


class RangeRequest(Wire, frozen=True):
    """One key, or with ``range_end`` all from ``key`` up to it."""

    key: bytes
    range_end: bytes = b""
    limit: int = 0
    revision: int = 0
    sort_order: str = ""
    sort_target: str = ""
    count_only: bool = False


class RangeResponse(Wire, frozen=True):
    """What a range held."""

    header: Header = Header()
    kvs: list[RawKeyValue] = []
    more: bool = False
    count: int = 0
    """Of all in the range, whatever the request's limit."""


class PutRequest(Wire, frozen=True):
    """Write one key, bound to a lease unless that is 0."""

    key: bytes
    value: bytes = b""
    lease: int = 0


class DeleteRequest(Wire, frozen=True):
    """Delete one key, or a range."""

    key: bytes
    range_end: bytes = b""


class DeleteResponse(Wire, frozen=True):
    """How many keys went; of a put, only the header."""

    header: Header = Header()
    deleted: int = 0


class RequestOp(Wire, frozen=True):
    """One operation of a transaction: exactly one field is set."""

    request_range: RangeRequest | None = None
    request_put: PutRequest | None = None
    request_delete_range: DeleteRequest | None = None


class ResponseOp(Wire, frozen=True):
    """The answer to a :class:`RequestOp`."""

    response_range: RangeResponse | None = None
    response_delete_range: DeleteResponse | None = None


class RawCompare(Wire, frozen=True):
    """One condition of a transaction."""

    result: str
    target: str
    key: bytes
    create_revision: int = 0
    mod_revision: int = 0
    value: bytes = b""


class TxnRequest(Wire, frozen=True):
    """``success`` if all of ``compare`` hold, else ``failure``."""

    compare: list[RawCompare] = []
    success: list[RequestOp] = []
    failure: list[RequestOp] = []


class TxnResponse(Wire, frozen=True):
    """Which branch was taken, and its answers in order."""

    header: Header = Header()
    succeeded: bool = False
    responses: list[ResponseOp] = []


class LeaseRequest(Wire, frozen=True):
    """Grant (``TTL`` in seconds), keep alive or revoke (``ID``)."""

    TTL: int = 0
    ID: int = 0


class LeaseResponse(Wire, frozen=True):
    """A lease; ``TTL`` 0 means that there is none of that id."""

    header: Header = Header()
    ID: int = 0
    TTL: int = 0
    error: str = ""


class WatchCreate(Wire, frozen=True):
    """Begin to watch a range, from ``start_revision`` on."""

    key: bytes
    range_end: bytes
    start_revision: int
    progress_notify: bool = False


class WatchRequest(Wire, frozen=True):
    """The one message of ours in a watch."""

    create_request: WatchCreate


class RawEvent(Wire, frozen=True):
    """``mvccpb.Event``: PUT, left out being the default, or DELETE."""

    kv: RawKeyValue
    type: str = "PUT"


class WatchResponse(Wire, frozen=True):
    """Events; or that the watch began, was cancelled, or came this far (neither of these)."""

    header: Header = Header()
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    events: list[RawEvent] = []


class AuthRequest(Wire, frozen=True):
    """Name and password for a token."""

    name: str
    password: str


class AuthResponse(Wire, frozen=True):
    """A token, for the header ``Authorization``."""

    token: str = ""


class CompactRequest(Wire, frozen=True):
    """Forget all that was overwritten before ``revision``; ``physical``: answer when that is done on disk."""

    revision: int
    physical: bool = False


class StatusResponse(Wire, frozen=True, rename={"size": "dbSize", "used": "dbSizeInUse"}):
    """``Maintenance.Status``: bytes of the database file and those in use."""

    header: Header = Header()
    version: str = ""
    size: int = 0
    used: int = 0


class Alarm(Wire, frozen=True, rename={"member_id": "memberID"}):
    """NOSPACE (1) or CORRUPT (2), raised by one member."""

    member_id: int = 0
    alarm: str = "NONE"


class AlarmRequest(Wire, frozen=True, rename={"member_id": "memberID"}):
    """GET or DEACTIVATE."""

    action: str
    member_id: int = 0
    alarm: str = "NONE"


class AlarmResponse(Wire, frozen=True):
    """The alarms that are on."""

    alarms: list[Alarm] = []


class Nothing(Wire, frozen=True):
    """An empty request, or an answer that is not looked at."""


class Refusal(Wire, frozen=True):
    """An error of the gateway; the text is in ``message`` or, before etcd 3.6, in ``error`` as well."""

    code: int = 0
    message: str = ""
    error: str | Refusal = ""

    @property
    def text(self) -> str:
        """What etcd says."""
        return self.message or (self.error.text if isinstance(self.error, Refusal) else self.error)


class Line(msgspec.Struct, Generic[T], frozen=True):
    """One line of a stream."""

    result: T | None = None
    error: Refusal | None = None


def encode(message: Wire) -> bytes:
    """As the gateway reads it."""
    return _ENCODER.encode(message)


def decode(kind: type[T], data: bytes) -> T:
    """A message of this kind; raises :class:`msgspec.DecodeError` on anything else."""
    return jsontext.decode(data, type=kind, strict=False)


def to_wire(key: str) -> bytes:
    """A key as etcd holds it."""
    return key.encode("utf-8", "surrogateescape")


def from_wire(key: bytes) -> str:
    """The key as it is here."""
    return key.decode("utf-8", "surrogateescape")


def prefix_range(prefix: str) -> tuple[bytes, bytes]:
    """The first key and the end of the range of all keys that begin with ``prefix``; of "" all keys there are."""
    start = to_wire(prefix)
    stem = start.rstrip(b"\xff")
    if not stem:
        return start or b"\0", b"\0"
    return start, stem[:-1] + bytes([stem[-1] + 1])


class Lines:
    """Splits a stream into lines, whatever their length and wherever the pieces of it were cut."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> Sequence[bytes]:
        """The lines that ``data`` completed, without their ends and without empty ones."""
        head, *rest = data.split(b"\n")
        self._pieces.append(head)
        if not rest:
            return ()
        lines = [b"".join(self._pieces), *rest[:-1]]
        self._pieces = [rest[-1]]
        return [line for line in lines if line.strip()]


_ENCODER = msgspec.json.Encoder()
