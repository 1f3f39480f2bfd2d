"""Deletes flows from connection tracking, over netlink (linux/netfilter/nfnetlink_conntrack.h). Blocking.

A flow has two tuples, one of the packets that it began with and one of its answers. The kernel goes through its table and
tells of the flows that have an address as the source in one of them (``CTA_FILTER``, Linux 5.8; an older kernel tells of
all), and deletes those that are named to it. A walk through the table takes some ten milliseconds however little is
found, so for many addresses everything is read once.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Collection, Container, Iterable, Iterator
from typing import NamedTuple

import structlog

_NETLINK_NETFILTER = 12
_SOL_NETLINK, _CAP_ACK = 270, 10
_GET, _DELETE = (1 << 8) | 1, (1 << 8) | 2
_REQUEST, _DUMP = 1, 0x300
_ERROR, _DONE = 2, 3
_MESSAGE = struct.Struct("=IHHII")
_FAMILY = struct.Struct("=BBH")
_ATTRIBUTE = struct.Struct("=HH")
_CODE = struct.Struct("=i")
_NESTED = 0x8000

_ORIGINAL, _REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25
_IP, _PROTO = 1, 2
_SOURCE = {4: 1, 6: 3}
_NUMBER, _TO_PORT = 1, 3
_GLANCE = {4: struct.Struct("=HH2xH2xH4s"), 6: struct.Struct("=HH2xH2xH16s")}
"""How a tuple begins: three headers one in the other, then its source."""

_INNERMOST = {version: [_IP | _NESTED, kind] for version, kind in _SOURCE.items()}
_FLAGS = {_ORIGINAL: 1, _REPLY: 2}
_BY_SOURCE, _BY_PROTOCOL, _BY_PORT = 1 << 0, 1 << 3, 1 << 5

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_FEW = 8
"""Addresses up to which the kernel is asked for each."""

_BATCH = 100
"""Deletions in one request; what the kernel has to say to them fits a socket's buffer."""

_TIMEOUT = 5.0
"""Seconds until a kernel that says nothing is given up."""

_WHOLE = 20.0
"""Seconds after which nothing more is begun."""


class Selection(NamedTuple):
    """Flows that ``address`` (packed) began or answers; or, where there is none, those to the UDP port ``port``."""

    version: int
    address: bytes = b""
    port: int = 0


class _Flow(NamedTuple):
    """Who sends, who answers, what is asked for, and the attributes by which the kernel knows the flow."""

    source: bytes
    answers: bytes
    protocol: int
    port: bytes
    name: bytes

    def is_of(self, ends: Container[bytes]) -> bool:
        return self.source in ends or self.answers in ends

    def asks_for(self, port: bytes) -> bool:
        return self.protocol == socket.IPPROTO_UDP and self.port == port


def forget(selections: Collection[Selection]) -> set[Selection]:
    """Delete the flows of each, and return those of which there are none any more.

    Failures are in the log; one does not keep the others. A kernel that cannot be asked at all keeps nobody waiting.
    """
    done: set[Selection] = set()
    deadline = time.monotonic() + _WHOLE
    for group in _groups(selections):
        if time.monotonic() > deadline:
            break
        kept: Collection[Selection] = ()
        try:
            kept = _forget(group)
        except OSError as error:
            structlog.get_logger("flows").warning("flows not forgotten", number=len(group), reason=str(error))
            if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT}:
                continue
        done.update(each for each in group if each not in kept)
    return done


def _groups(selections: Collection[Selection]) -> Iterator[list[Selection]]:
    for version in _FAMILIES:
        of_version = sorted(each for each in selections if each.version == version and each.address)
        if len(of_version) > _FEW:
            yield of_version
        else:
            yield from ([each] for each in of_version)
    yield from ([each] for each in selections if not each.address)


def _forget(group: list[Selection]) -> Collection[Selection]:
    """Delete the flows of all in ``group``, and return those of which the kernel keeps some."""
    version = group[0].version
    try:
        found = _found(group, _filters(group[0]) if len(group) == 1 else [b""])
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        found = _found(group, [b""])  # it has no such filters
    with _channel() as channel:
        kept = [
            (found[start + number], code)
            for start in range(0, len(found), _BATCH)
            for number, code in _delete(channel, version, [flow.name for flow in found[start : start + _BATCH]])
        ]
    if not kept:
        return ()
    reasons = ", ".join({os.strerror(code) for _, code in kept})
    structlog.get_logger("flows").warning("the kernel keeps flows", number=len(kept), reason=reasons)
    return [each for each in group if any(not each.address or flow.is_of({each.address}) for flow, _ in kept)]


def _found(group: list[Selection], dumps: Iterable[bytes]) -> list[_Flow]:
    """The flows of ``group``, each once, though it may begin one to itself."""
    version, ends = group[0].version, frozenset(each.address for each in group)
    port = b"" if group[0].address else _port(group[0])
    read = (flow for filters in dumps for flow in _flows(version, filters, None if port else ends))
    return list({flow.name: flow for flow in read if (flow.asks_for(port) if port else flow.is_of(ends))}.values())


def _delete(channel: socket.socket, version: int, names: Iterable[bytes]) -> Iterator[tuple[int, int]]:
    """Have the kernel delete flows, and yield the place of each that it did not, with the error.

    It has done so when the request is sent, and speaks of what it could not do only.
    """
    messages = (_message(_DELETE, _REQUEST, version, name, number) for number, name in enumerate(names))
    channel.send(b"".join(messages))
    channel.setblocking(False)
    while True:
        try:
            answer = channel.recv(1 << 16)
        except BlockingIOError:
            return
        _, _, _, number, _ = _MESSAGE.unpack_from(answer)
        (code,) = _CODE.unpack_from(answer, _MESSAGE.size)
        if code not in {0, -errno.ENOENT}:  # one that has ended by itself
            yield number, -code


def _filters(wanted: Selection) -> Iterator[bytes]:
    """What asks for the flows in question only: the attributes of a dump each."""
    if wanted.address:
        source = _attribute(_IP | _NESTED, _attribute(_SOURCE[wanted.version], wanted.address))
        for side in (_ORIGINAL, _REPLY):
            yield _filter(side, source, _BY_SOURCE)
    else:
        udp = _attribute(_NUMBER, bytes([socket.IPPROTO_UDP])) + _attribute(_TO_PORT, _port(wanted))
        yield _filter(_ORIGINAL, _attribute(_PROTO | _NESTED, udp), _BY_PROTOCOL | _BY_PORT)


def _filter(side: int, fields: bytes, flags: int) -> bytes:
    both = b"".join(_attribute(kind, struct.pack("=I", flags if each == side else 0)) for each, kind in _FLAGS.items())
    return _attribute(side | _NESTED, fields) + _attribute(_FILTER | _NESTED, both)


def _flows(version: int, filters: bytes, ends: Container[bytes] | None) -> Iterator[_Flow]:
    """The flows that pass the filters, without most of those that have none of ``ends``."""
    with _channel() as channel:
        channel.send(_message(_GET, _REQUEST | _DUMP, version, filters))
        while True:
            data = channel.recv(1 << 18)
            position = 0
            while position + _MESSAGE.size <= len(data):
                length, kind, *_ = _MESSAGE.unpack_from(data, position)
                start, end = position + _MESSAGE.size, position + max(length, _MESSAGE.size)
                if kind in {_DONE, _ERROR}:
                    _raise(data[start:end])
                    return
                if ends is None or not _of_others(version, data, start + _FAMILY.size, ends):
                    flow = _flow(version, data[start + _FAMILY.size : end])
                    if flow is not None:
                        yield flow
                position = _aligned(end)


def _of_others(version: int, data: bytes, position: int, ends: Container[bytes]) -> bool:
    """Whether a flow is surely none of these addresses', seen at a glance: a large table is full of such."""
    for side in (_ORIGINAL, _REPLY):
        try:
            length, *kinds, source = _GLANCE[version].unpack_from(data, position)
        except struct.error:
            return False
        if kinds != [side | _NESTED, *_INNERMOST[version]] or source in ends:
            return False
        position += _aligned(length)
    return True


def _raise(body: bytes) -> None:
    code = _CODE.unpack_from(body)[0] if len(body) >= _CODE.size else 0
    if code < 0:
        raise OSError(-code, f"the kernel does not tell of flows: {errno.errorcode.get(-code, code)}")


def _flow(version: int, data: bytes) -> _Flow | None:
    parts = dict(_attributes(data))
    if _ORIGINAL not in parts or _REPLY not in parts:
        return None
    original, reply = (dict(_attributes(parts[side])) for side in (_ORIGINAL, _REPLY))
    asked = dict(_attributes(original.get(_PROTO, b"")))
    name = _attribute(_ORIGINAL | _NESTED, parts[_ORIGINAL])
    name += b"".join(_attribute(kind, parts[kind]) for kind in (_ID, _ZONE) if kind in parts)
    return _Flow(
        source=dict(_attributes(original.get(_IP, b""))).get(_SOURCE[version], b""),
        answers=dict(_attributes(reply.get(_IP, b""))).get(_SOURCE[version], b""),
        protocol=asked.get(_NUMBER, b"\0")[0],
        port=asked.get(_TO_PORT, b""),
        name=name,
    )


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        if length < _ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, data[position + _ATTRIBUTE.size : position + length]
        position += _aligned(length)


def _attribute(kind: int, body: bytes) -> bytes:
    return (_ATTRIBUTE.pack(_ATTRIBUTE.size + len(body), kind) + body).ljust(_aligned(_ATTRIBUTE.size + len(body)), b"\0")


def _message(kind: int, flags: int, version: int, attributes: bytes, number: int = 1) -> bytes:
    """A request; the kernel's answer has its ``number``."""
    body = _FAMILY.pack(_FAMILIES[version], 0, 0) + attributes
    return _MESSAGE.pack(_MESSAGE.size + len(body), kind, flags, number, 0) + body


def _channel() -> socket.socket:
    channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    channel.settimeout(_TIMEOUT)
    channel.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
    channel.bind((0, 0))
    return channel


def _port(wanted: Selection) -> bytes:
    return wanted.port.to_bytes(2, "big")


def _aligned(length: int) -> int:
    return (length + 3) & ~3
