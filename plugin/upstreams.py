"""Stable upstreams: from numbers of web services to the containers that the node's own connections are sent to; pure.

The table is the ingress's word, said as a whole and read strictly. An address in it means the endpoint that is named with
it (``10.1.2.3:8080@<id>``), or else the one that has it at that moment. When that endpoint leaves, the address stands for
nobody, so that no visitor of one tenant is ever sent to another tenant's container that got the address next.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from plugin.model import Endpoint, IPAddress
from stackpad import jsontext
from stackpad.errors import InvalidRequest
from stackpad.upstreams import FIRST, LAST, MOST

_T = TypeVar("_T")
_ENDPOINT = re.compile(r"[0-9a-z]{12,64}")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a number leads; ``endpoint`` and ``network`` are ids of who is meant, empty beyond this node."""

    address: str
    port: int
    endpoint: str = ""
    network: str = ""

    @property
    def ip(self) -> IPAddress:
        """The address as an object."""
        return _address(self.address)

    def __str__(self) -> str:
        """Address and port as they stand in the table."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


Table = Mapping[int, tuple[Target, ...]]
"""Targets by number; a number without targets is one whose visitors wait."""


def read(body: bytes) -> dict[int, tuple[Target, ...]]:
    """The table in ``body``, ``{"20001": ["10.1.2.3:8080@1f0c…", …], …}``; raises :class:`InvalidRequest`."""
    return {_number(key): _targets(key, texts) for key, texts in _decode(body, dict[str, list[str]]).items()}


def read_changes(body: bytes) -> dict[int, tuple[Target, ...] | None]:
    """Numbers that lead somewhere else from now on, ``None`` for one that ends; raises :class:`InvalidRequest`."""
    given = _decode(body, dict[str, list[str] | None])
    return {_number(key): None if texts is None else _targets(key, texts) for key, texts in given.items()}


def _decode(body: bytes, kind: type[_T]) -> _T:
    try:
        return jsontext.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise InvalidRequest(
            f'the table of upstreams cannot be read: {error}; it is like {{"20001": ["10.1.2.3:8080"]}}'
        ) from error


def encode(targets: tuple[Target, ...]) -> bytes:
    """Where a number leads, as it is kept."""
    return msgspec.json.encode(targets)


def decode(data: bytes) -> tuple[Target, ...]:
    """What :func:`encode` wrote."""
    return jsontext.decode(data, type=tuple[Target, ...])


def bind(table: Table, endpoints: Iterable[Endpoint]) -> Table:
    """``table`` with each target bound to the endpoint that has its address now."""
    owners = {str(ip): endpoint for endpoint in endpoints if live(endpoint) for ip in endpoint.addresses}

    def bound(target: Target) -> Target:
        owner = owners.get(target.address)
        if owner is None or target.endpoint not in {"", owner.id}:
            return target
        return Target(target.address, target.port, owner.id, owner.network_id)

    return {number: tuple(map(bound, targets)) for number, targets in table.items()}


def live(endpoint: Endpoint) -> bool:
    """Whether a container has the endpoint."""
    return bool(endpoint.sandbox) and not endpoint.left


def reachable(
    targets: Iterable[Target], endpoints: Mapping[str, Endpoint], beyond: Callable[[IPAddress], bool]
) -> list[Target]:
    """Those of ``targets`` that are there: bound to an endpoint that lives, or in a range of another node's."""

    def there(target: Target) -> bool:
        if not target.endpoint:
            return beyond(target.ip)
        endpoint = endpoints.get(target.endpoint)
        # Who is meant and never had the address has no network here.
        return endpoint is not None and live(endpoint) and endpoint.network_id == target.network

    return [target for target in targets if there(target)]


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) == 5 and FIRST <= int(text) <= LAST):
        raise InvalidRequest(f"{text[:40]!r} is no number of an upstream; they go from {FIRST} to {LAST}")
    return int(text)


def _targets(number: str, texts: list[str]) -> tuple[Target, ...]:
    if len(texts) > MOST:
        raise InvalidRequest(f"upstream {number} has {len(texts)} addresses; give at most {MOST}")
    targets = tuple(map(_target, texts))
    if len({target.ip.version for target in targets}) > 1:
        raise InvalidRequest(f"upstream {number} has addresses of both families; give those of one")
    return targets


@functools.lru_cache(maxsize=65536)  # a table of thousands is said whole for each change of one
def _target(text: str) -> Target:
    place, at, endpoint = text.partition("@")
    if at and not _ENDPOINT.fullmatch(endpoint):
        raise InvalidRequest(f"{endpoint[:60]!r} behind {place[:60]!r} is no endpoint's id; leave it out, with its @")
    host, _, port = place.rpartition(":")
    try:
        ip = ipaddress.ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
        bracketed = host.startswith("[")
        if bracketed is not (ip.version == 6) or getattr(ip, "scope_id", None):
            raise ValueError(host)
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
            raise ValueError(port)
    except ValueError:
        raise InvalidRequest(f"{text[:60]!r} is no address and port, such as 10.1.2.3:8080 or [fd00::2]:8080") from None
    if ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified:
        raise InvalidRequest(f"{text} is no container's address; give the one it has on its network")
    return Target(str(ip), int(port), endpoint)


_address = functools.lru_cache(maxsize=65536)(ipaddress.ip_address)
