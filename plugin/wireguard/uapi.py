"""The cross-platform configuration protocol of userspace WireGuard (wireguard.com/xplatform), as text.

Pure. A ``get`` answers with lines of ``key=value``; a ``set`` is the same the other way. Keys are hexadecimal there and
base64 everywhere else. A ``set`` is not atomic, so nothing is sent that has not been checked.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Iterator

from plugin.model import IPNet, ip_network
from plugin.wireguard.model import Address, Changes, Observed, PeerState
from stackpad.errors import InvalidRequest, Unavailable

_ZERO = base64.b64encode(bytes(32)).decode()


def request(changes: Changes) -> str:
    """The ``set`` that carries out ``changes``; raises :class:`InvalidRequest` for a key or value that cannot be."""
    return "set=1\n" + "".join(f"{name}={value}\n" for name, value in _lines(changes)) + "\n"


def _lines(changes: Changes) -> Iterator[tuple[str, str | int]]:
    if changes.private_key is not None:
        yield "private_key", _hex(changes.private_key)
    if changes.port is not None:
        yield "listen_port", _number(changes.port, "port")
    for change in changes.changed:
        yield "public_key", _hex(change.public_key)
        if change.anew:
            yield "remove", "true"
            yield "public_key", _hex(change.public_key)
        if not change.new:
            yield "update_only", "true"
        if change.preshared_key is not None:
            yield "preshared_key", _hex(change.preshared_key or _ZERO)
        if change.endpoint is not None:
            yield "endpoint", _endpoint(change.endpoint)
        if change.new:
            # wireguard-go drops what is for a peer that has not begun its work, and that begins where the next one is
            # named. So it is named twice: it has its ranges only then.
            yield "public_key", _hex(change.public_key)
            yield "update_only", "true"
        if change.only:
            yield "replace_allowed_ips", "true"
        for net in sorted(map(str, change.allowed or ())):
            yield "allowed_ip", net
        if change.keepalive is not None:
            yield "persistent_keepalive_interval", _number(change.keepalive, "keepalive interval")
    for key in changes.gone:
        yield "public_key", _hex(key)
        yield "remove", "true"


def read(answer: str) -> Observed:
    """The device in the answer to ``get=1``; raises :class:`Unavailable` if it is an error or no answer."""
    private, port, code = "", 0, -1
    peers: dict[str, _Reading] = {}
    peer = _Reading()
    for line in answer.splitlines():
        name, _, value = line.partition("=")
        if name == "private_key":
            private = _base64(value)
        elif name == "listen_port":
            port = int(value)
        elif name == "public_key":
            peer = peers.setdefault(_base64(value), _Reading())
        elif name == "errno":
            code = int(value)
        else:
            peer.take(name, value)
    if code:
        raise Unavailable(f"wireguard-go answered with error {code}; it is started anew")
    return Observed(private, port, {key: reading.state() for key, reading in peers.items()})


class _Reading:
    """One peer while its lines come in."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._allowed: list[IPNet] = []

    def take(self, name: str, value: str) -> None:
        """One line."""
        if name == "allowed_ip":
            self._allowed.append(ip_network(value))
        else:
            self._values[name] = value

    def state(self) -> PeerState:
        """All lines together."""
        given = self._values
        preshared = _base64(given.get("preshared_key", "")) if given.get("preshared_key") else _ZERO
        nanoseconds = int(given.get("last_handshake_time_nsec", 0))
        return PeerState(
            preshared_key="" if preshared == _ZERO else preshared,
            endpoint=_address(given["endpoint"]) if given.get("endpoint") else None,
            allowed=frozenset(self._allowed),
            keepalive=int(given.get("persistent_keepalive_interval", 0)),
            last_handshake=int(given.get("last_handshake_time_sec", 0)) + nanoseconds / 1e9,
            received=int(given.get("rx_bytes", 0)),
            sent=int(given.get("tx_bytes", 0)),
        )


def _hex(key: str) -> str:
    try:
        raw = base64.b64decode(key, validate=True)
    except ValueError as error:
        raise InvalidRequest("a WireGuard key is not base64") from error
    if len(raw) != 32:
        raise InvalidRequest(f"a WireGuard key has {len(raw)} bytes instead of 32")
    return raw.hex()


def _base64(key: str) -> str:
    return base64.b64encode(bytes.fromhex(key)).decode()


def _endpoint(address: Address) -> str:
    try:
        ip = ipaddress.ip_address(address[0])
    except ValueError as error:
        raise InvalidRequest(f"the endpoint {address[0]} is not an IP address") from error
    port = _number(address[1], "port")
    return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"


def _number(value: int, what: str) -> int:
    if not 0 <= value <= 0xFFFF:
        raise InvalidRequest(f"the {what} {value} of a WireGuard device is not between 0 and 65535")
    return value


def _address(text: str) -> Address:
    address, _, port = text.rpartition(":")
    return address.strip("[]").split("%")[0], int(port)
