"""Tokens, and what is said when a node joins.

Pure. A token is a leave to join for one node, once, until it expires. It carries a WireGuard key pair's private half
and a preshared key for a tunnel that leads to the issuing node's join service and nowhere else, so that whoever joins
is authenticated, and everything encrypted, from the first packet. The node's own key replaces it in the same minute.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from collections.abc import Iterable

import msgspec

from plugin.model import IPNet
from stackpad import records
from stackpad.errors import Conflict, InvalidRequest

PREFIX = "stackpad-1-"
"""So that a token is recognised where it should not be, and an older node can say that it is too old."""

CLOCK = 60.0
"""Seconds by which two nodes' clocks may differ: leases do not depend on them, but expiry and logs do."""

LIFETIME = 3600.0
"""Seconds a token is good for, unless said otherwise."""

_CHECK = 4


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a token.

    ``expires`` is Unix time; ``address`` is the one the guest has in the tunnel meanwhile. ``ranges`` are the cluster's;
    a token made before they were part of it has none.
    """

    id: str
    private_key: str
    preshared_key: str
    address: str
    gateway_key: str
    gateway_address: str
    endpoints: tuple[str, ...]
    expires: float
    ranges: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Without the keys."""
        return f"Token(id={self.id!r}, expires={self.expires!r})"

    @property
    def digest(self) -> str:
        """What the issuing node keeps, to know the token again without having its key."""
        return hashlib.sha256(f"{self.id}\0{self.private_key}".encode()).hexdigest()


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a node that wants to join says of itself; ``ranges`` are its networks', ``time`` its clock.

    ``former`` is the id it had when it was last a member.
    """

    token: str
    digest: str
    name: str
    public_key: str
    time: float
    endpoints: tuple[str, ...] = ()
    ranges: tuple[str, ...] = ()
    former: str = ""
    mtu: int = 1500
    engine: str = ""
    version: str = ""


class JoinAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A place in the cluster. ``observed`` is the address the node was seen at from outside the tunnel."""

    node: str
    name: str
    cluster: records.Cluster
    secret: str
    mesh4: str
    mesh6: str
    ranges: tuple[records.Range, ...]
    store: tuple[str, ...]
    gateway: records.Node
    gateway_ranges: tuple[records.Range, ...]
    observed: str = ""


def check(answer: JoinAnswer) -> JoinAnswer:
    """``answer`` if all it says can be meant; raises :class:`InvalidRequest`. It is kept for good."""
    place = records.Node(owner=answer.node, name=answer.name, public_keys=(), mesh4=answer.mesh4, mesh6=answer.mesh6)
    for record in (answer.cluster, answer.gateway, *answer.ranges, *answer.gateway_ranges, place):
        records.check(record)
    records.key(records.NODES, answer.node)
    return answer


def write(token: Token) -> str:
    """The text a user copies."""
    body = msgspec.msgpack.encode(token)
    text = base64.urlsafe_b64encode(body + hashlib.sha256(body).digest()[:_CHECK]).decode().rstrip("=")
    return PREFIX + text


def read(text: str) -> Token:
    """The token in ``text``; raises :class:`InvalidRequest` if it is none, or damaged."""
    text = "".join(text.split())
    if not text.startswith(PREFIX):
        raise InvalidRequest(f"this is no join token: one begins with {PREFIX} (stackpad node token prints it)")
    try:
        packed = base64.urlsafe_b64decode(text.removeprefix(PREFIX) + "=" * (-len(text.removeprefix(PREFIX)) % 4))
        body, check = packed[:-_CHECK], packed[-_CHECK:]
        if hashlib.sha256(body).digest()[:_CHECK] != check:
            raise ValueError("its check sum does not fit")
        token = msgspec.msgpack.decode(body, type=Token)
        ipaddress.IPv4Address(token.address)
        ipaddress.IPv4Address(token.gateway_address)
        for key in (token.private_key, token.preshared_key, token.gateway_key):
            if len(base64.b64decode(key, validate=True)) != 32:
                raise ValueError("a key in it is too short")
        for endpoint in token.endpoints:
            records.split_endpoint(endpoint)
        for net in token.ranges:
            records.check(records.Range(owner=token.id, net=net))
    except (ValueError, RecursionError, msgspec.MsgspecError, InvalidRequest) as error:
        raise InvalidRequest(
            f"the token is damaged ({error}); copy it again, all of it, or make a new one with stackpad node token"
        ) from error
    return token


def refuse_expired(token: Token, now: float) -> None:
    """Raise :class:`InvalidRequest` if the token is too old by this node's clock."""
    if now > token.expires:
        raise InvalidRequest(
            f"the token expired {_ago(now - token.expires)} ago by this node's clock; make a new one with "
            "stackpad node token, and look at the clock (timedatectl) if it should still be good"
        )


def refuse_clock(theirs: float, ours: float) -> None:
    """Raise :class:`InvalidRequest` if two nodes' clocks are too far apart."""
    if abs(theirs - ours) > CLOCK:
        side = "ahead of" if theirs > ours else "behind"
        raise InvalidRequest(
            f"this node's clock is {_ago(abs(theirs - ours))} {side} the cluster's; set it (timedatectl set-ntp true) "
            "and join again, the token is still good"
        )


def refuse_overlap(routes: Iterable[IPNet], ranges: Iterable[str]) -> None:
    """Raise :class:`Conflict` if the cluster's ``ranges`` cover something this node reaches in another way."""
    routes = list(routes)
    for text in ranges:
        net = ipaddress.ip_network(text)
        for route in routes:
            # A wider route, such as a company's for all of 10.0.0.0/8, leaves room for a range in it.
            if route.version == net.version and route.prefixlen >= net.prefixlen and route.overlaps(net):
                raise Conflict(
                    f"this node has a route for {route}, which overlaps the cluster's range {net}; remove that route, "
                    "or begin the cluster with another range (docker plugin set stackpad/net RANGE=… before "
                    "stackpad node init)"
                )


def name(text: str) -> str:
    """``text`` as a node's name: letters, digits, ``-`` and ``.``, at most 63; raises :class:`InvalidRequest`."""
    lowered = text.strip().lower()
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789-.")
    if not 0 < len(lowered) <= 63 or not set(lowered) <= allowed or not lowered[0].isalnum():
        raise InvalidRequest(
            f"{ascii(text)[:80]} cannot be a node's name: 1 to 63 letters, digits, '-' or '.'; give one with --name"
        )
    return lowered


def _ago(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
