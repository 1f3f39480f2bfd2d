"""What nodes tell each other through the store: one JSON object per key, each written by one node only.

Pure. The layout is described in ``docs/store.md``. Every record carries its ``owner`` (the id of the node that
writes it) and the ``schema`` it was written with. A reader takes the fields it knows; a writer that changes a record
keeps the fields that it does not (:func:`encode`), so that nodes of two versions can share a store.

What comes from the store was written by a machine that holds the cluster's keys, but it is checked all the same:
:func:`decode` refuses what does not fit, and a reader then goes on without that record.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from stackpad import jsontext
from stackpad.errors import InvalidRequest, plain

SCHEMA = 1
"""Version of the layout of every record here."""

ROOT = "/stackpad/1/"
"""Prefix of all keys; its number changes only with a layout that older nodes could not live with."""

NODES, ALIVE, RANGES, NETWORKS, ENDPOINTS, REMOVED, INGRESSES, WEB, HOSTS = (
    f"{ROOT}{kind}/"
    for kind in ("nodes", "alive", "ranges", "networks", "endpoints", "removed", "ingresses", "web", "hosts")
)
PER_NODE = (NETWORKS, ENDPOINTS, WEB)
"""Kinds of which a node has many, below its id."""

CLUSTER = f"{ROOT}cluster"
RANGES_LOCK = f"{ROOT}ranges-lock"
"""Changes whenever a range is claimed or freed: who claims one compares it, and so sees every other claim."""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """What all records have in common."""

    owner: str
    schema: int = SCHEMA


class Cluster(Record, frozen=True, kw_only=True):
    """The cluster itself: its address ranges, and how long a block and a network carved from it are (prefix lengths)."""

    id: str
    range4: str
    range6: str
    block_prefix: int
    network_prefix: int

    @property
    def ranges(self) -> tuple[str, str]:
        """The address ranges of both families."""
        return self.range4, self.range6


class Node(Record, frozen=True, kw_only=True):
    """A member. ``owner`` is its id.

    ``public_keys`` are WireGuard's, base64; the first one is in use.
    ``endpoints`` are where others may reach it, ``address:port``, best first; none means that it can only call others.
    ``mesh4`` and ``mesh6`` are its own addresses in the tunnel. ``mtu`` is of its link to the outside, in bytes.
    ``left`` is when it left by itself (Unix time, 0 for a member): a tombstone is not its own to write.
    """

    name: str
    public_keys: tuple[str, ...]
    endpoints: tuple[str, ...] = ()
    mesh4: str = ""
    mesh6: str = ""
    mtu: int = 1500
    control: bool = False
    engine: str = ""
    version: str = ""
    joined: float = 0.0
    left: float = 0.0


class Alive(Record, frozen=True, kw_only=True):
    """There as long as its node is: the key hangs on a lease of :data:`LEASE` seconds."""

    since: float = 0.0


LEASE = 10
"""Seconds until a node that says nothing any more counts as gone."""


class RangesLock(Record, frozen=True, kw_only=True):
    """Who claimed last. Only that it changes matters; older nodes write a bare id there."""


class Range(Record, frozen=True, kw_only=True):
    """A range of addresses that is one node's: a ``block`` it carves networks from, or the range of one network.

    ``generation`` counts how often the range has been given out, ``freed`` is when it was given back (Unix time;
    0 while it is held): it is not given out again for a while.
    """

    net: str
    block: bool = False
    network: str = ""
    generation: int = 1
    freed: float = 0.0


class Network(Record, frozen=True, kw_only=True):
    """One node's part of an environment."""

    id: str
    environment: str
    subnets: tuple[str, ...]
    internal: bool = False


class Endpoint(Record, frozen=True, kw_only=True):
    """A running container's attachment to an environment, with the names that others know it by."""

    id: str
    network: str
    environment: str
    names: tuple[str, ...]
    addresses: tuple[str, ...]
    ports: tuple[str, ...] = ()
    container: str = ""


class Ingress(Record, frozen=True, kw_only=True):
    """The ingress of a node: whether visitors come in there (``control``), and what it knows of its containers.

    ``complete`` says that it has listed them all since it began, ``stale`` that its engine does not answer now.
    ``proofs`` says whether it wants proofs of custom domains; ``None`` of one that does not say.
    """

    control: bool = False
    complete: bool = False
    stale: bool = False
    proofs: bool | None = None


class Web(Record, frozen=True, kw_only=True):
    """A web container, as the ingress of its own node sees it.

    ``labels`` are its labels that concern us; what they ask for is decided by whoever reads. ``network`` is its
    network's name and ``org`` its node's default organisation; ``environment`` is the one that an option of the network
    names, empty without one, and ``None`` of a writer that does not say. ``state`` is one of ``up``, ``starting``,
    ``unhealthy`` and ``down``, with its ``reason``; ``since`` is when it was made (Unix time, seconds). Only what is
    ``up`` is reached from other nodes, at ``address`` and ``port`` and nowhere else.
    """

    id: str
    name: str
    network: str
    org: str
    labels: dict[str, str]
    state: str
    address: str = ""
    port: int = 0
    reason: str = ""
    since: float = 0.0
    environment: str | None = None


class Host(Record, frozen=True, kw_only=True):
    """Who owns a host name: ``claim`` as the ingress of a control node wrote it; ``owner`` is that node's id."""

    claim: dict[str, Any]


class Removed(Record, frozen=True, kw_only=True):
    """A node that was removed. Its id is never used again; if it is still there, it sees this and leaves.

    Who has seen it once holds on to it, whatever becomes of the key, and a control node writes it again.
    """

    name: str
    since: float = 0.0


_R = TypeVar("_R", bound=Record)


def key(prefix: str, *parts: str) -> str:
    """The key of a record; a part that could leave its place in the tree is refused."""
    for part in parts:
        if not part or "/" in part or not part.isprintable():
            raise InvalidRequest(f"{ascii(part)[:80]} cannot be part of a key")
    return prefix + "/".join(parts)


def range_key(net: str) -> str:
    """The key of a range: ``10.192.0.0/18`` is ``…/ranges/10.192.0.0-18``."""
    return key(RANGES, str(ipaddress.ip_network(net)).replace("/", "-"))


def decode(data: bytes, kind: type[_R]) -> _R:
    """The record in ``data``; raises :class:`InvalidRequest` saying what does not fit."""
    try:
        return jsontext.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"a {kind.__name__.lower()} record in the store does not fit: {error}") from error


def readable(values: Iterable[bytes], kind: type[_R]) -> list[_R]:
    """The records in ``values``, those that do not fit left out: one that somebody has spoilt stops nobody."""
    found = []
    for value in values:
        with contextlib.suppress(InvalidRequest):
            found.append(check(decode(value, kind)))
    return found


def check(record: _R) -> _R:
    """``record`` if all its addresses, ranges and keys are such; raises :class:`InvalidRequest` naming what is not."""
    try:
        match record:
            case Node():
                _printable(record.owner, record.name, record.engine, record.version)
                for text in filter(None, (record.mesh4, record.mesh6)):
                    _address(text)
                for endpoint in record.endpoints:
                    split_endpoint(endpoint)
                if any(len(base64.b64decode(public, validate=True)) != 32 for public in record.public_keys):
                    raise InvalidRequest(f"a public key of node {plain(record.name)} does not have 32 bytes")
            case Range():
                _network(record.net)
            case Network():
                _printable(record.environment)
                list(map(_network, record.subnets))
            case Endpoint():
                _printable(record.environment, record.container, *record.names)
                list(map(_address, record.addresses))
            case Web():
                if record.address:
                    _address(record.address)
                if not 0 <= record.port < 65536:
                    raise InvalidRequest(f"{plain(str(record.port))} is no port")
            case Cluster():
                list(map(_network, (record.range4, record.range6)))
            case _:
                pass
    except ValueError as error:
        what = plain(str(error)[:200])
        raise InvalidRequest(f"a {type(record).__name__.lower()} record in the store does not fit: {what}") from error
    return record


def _address(text: str) -> None:
    """Raise :class:`ValueError` unless ``text`` is an address and nothing else.

    :mod:`ipaddress` lets any text whatever follow a ``%`` as the zone, and what is an address here goes into rules.
    """
    if "%" in text:
        raise ValueError(f"{ascii(text)[:80]} names a zone")
    ipaddress.ip_address(text)


def _printable(*texts: str) -> None:
    """Raise :class:`ValueError` for a name that a terminal would obey instead of showing it."""
    for text in texts:
        if not text.isprintable():
            raise ValueError(f"{ascii(text)[:80]} has characters that cannot be shown")


def _network(text: str) -> None:
    """The same for a range."""
    if "%" in text:
        raise ValueError(f"{ascii(text)[:80]} names a zone")
    ipaddress.ip_network(text)


def split_endpoint(text: str) -> tuple[str, int]:
    """Address and port of ``192.0.2.1:51820`` or ``[2001:db8::1]:51820``; raises :class:`InvalidRequest`."""
    address, colon, port = text.rpartition(":")
    try:
        _address(address.strip("[]"))
        ip = ipaddress.ip_address(address.strip("[]"))
        number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else 0
    except ValueError:
        number = 0
    if not colon or not 0 < number < 65536:
        raise InvalidRequest(f"{ascii(text)[:80]} is not an address with a port, such as 192.0.2.1:51820")
    return str(ip), number


def join_endpoint(address: str, port: int) -> str:
    """The form that :func:`split_endpoint` reads."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def encode(record: Record, before: bytes | None = None) -> bytes:
    """``record`` as it goes into the store; fields of ``before`` that this version does not know are kept."""
    return keep(msgspec.to_builtins(record), before)


def keep(fields: dict[str, Any], before: bytes | None) -> bytes:
    """``fields``, with a ``schema`` among them, as JSON; with those of ``before`` that are not among them."""
    if before is not None:
        try:
            there: Any = jsontext.decode(before)
        except msgspec.MsgspecError:
            there = None
        if isinstance(there, dict):
            fields = {**{name: value for name, value in there.items() if name not in fields}, **fields}
            fields["schema"] = max(fields["schema"], there["schema"] if isinstance(there.get("schema"), int) else 0)
    return msgspec.json.encode(fields, order="sorted")
