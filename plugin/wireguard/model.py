"""What a WireGuard device should be, what it is, and the steps from one to the other.

Pure. Peers are changed one by one and never replaced as a whole, so that a change of one does not touch the sessions of
the others. A peer's endpoint is set when it is new or when the caller names another one than it last set; where the peer
has moved since, what WireGuard learnt from its packets stands.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from plugin.model import IPNet

Address = tuple[str, int]
"""IP address and UDP port."""

STALE = 180.0
"""Seconds after which a session is rejected (WireGuard paper §6.1, ``REJECT_AFTER_TIME``)."""

PATIENCE = 5.0
"""Seconds for one endpoint; a handshake is tried again after five (``REKEY_TIMEOUT``)."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer as it is wanted. Keys are base64; ``keepalive`` in seconds, 0 for none."""

    public_key: str
    preshared_key: str = field(default="", repr=False)
    endpoint: Address | None = None
    allowed: frozenset[IPNet] = frozenset()
    keepalive: int = 0


@dataclass(frozen=True, slots=True)
class Device:
    """A device as it is wanted, with its peers by public key."""

    private_key: str = field(repr=False)
    port: int
    peers: Mapping[str, Peer]


@dataclass(frozen=True, slots=True)
class PeerState:
    """A peer as it is. ``last_handshake`` is Unix time (0: never), the counters are bytes.

    As observed it is by the clock of the day; :mod:`plugin.wireguard.handshakes` makes of it one that does not jump.
    """

    preshared_key: str = field(default="", repr=False)
    endpoint: Address | None = None
    allowed: frozenset[IPNet] = frozenset()
    keepalive: int = 0
    last_handshake: float = 0.0
    received: int = 0
    sent: int = 0


@dataclass(frozen=True, slots=True)
class Observed:
    """A device as it is."""

    private_key: str = field(default="", repr=False)
    port: int = 0
    peers: Mapping[str, PeerState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PeerChange:
    """What is to be set of one peer; ``None`` leaves a value as it is. ``new`` peers are made, others must be there.

    One that begins ``anew`` is removed first, and is new, too.

    ``allowed`` are the ranges to add. With ``only`` the peer gives up all others first, and so is without any for a
    moment, in which packets are lost.
    """

    public_key: str
    new: bool = False
    preshared_key: str | None = field(default=None, repr=False)
    endpoint: Address | None = None
    allowed: frozenset[IPNet] | None = None
    only: bool = False
    keepalive: int | None = None
    anew: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """The steps, in this order: device, peers changed and new, peers gone.

    A range belongs to whoever was given it last, so one that moves is taken over, and is never without a peer. Only who
    has ranges that nobody takes over gives them up, after the others have taken theirs. Peers go last.
    """

    private_key: str | None = field(default=None, repr=False)
    port: int | None = None
    gone: tuple[str, ...] = ()
    changed: tuple[PeerChange, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return self.private_key is not None or self.port is not None or bool(self.gone or self.changed)


def plan(wanted: Device, observed: Observed, configured: Mapping[str, Address], anew: Collection[str] = ()) -> Changes:
    """The steps from ``observed`` to ``wanted``; ``configured`` are the endpoints that were set before, by public key.

    Peers that begin ``anew`` are removed and made again: WireGuard forgets what it knows of their sessions.
    """
    changes = []
    held = {net for peer in wanted.peers.values() for net in peer.allowed}
    for key, peer in wanted.peers.items():
        there = observed.peers.get(key)
        if there is None:
            made = PeerChange(key, True, peer.preshared_key, peer.endpoint, peer.allowed, keepalive=peer.keepalive)
            changes.append(made)
            continue
        if key in anew:
            # Where it was heard last stands, unless it is to be called elsewhere.
            moved = peer.endpoint is not None and peer.endpoint != configured.get(key, there.endpoint)
            endpoint = peer.endpoint if moved else there.endpoint
            allowed, keepalive = peer.allowed, peer.keepalive
            changes.append(PeerChange(key, True, peer.preshared_key, endpoint, allowed, keepalive=keepalive, anew=True))
            continue
        # A process that has just begun remembers nothing of what was set: an endpoint that is there is left alone.
        known = configured.get(key, there.endpoint)
        gives_up = bool(there.allowed - peer.allowed - held)
        change = PeerChange(
            key,
            preshared_key=peer.preshared_key if peer.preshared_key != there.preshared_key else None,
            endpoint=peer.endpoint if peer.endpoint != known else None,
            allowed=peer.allowed if gives_up or peer.allowed - there.allowed else None,
            only=gives_up,
            keepalive=peer.keepalive if peer.keepalive != there.keepalive else None,
        )
        if change != PeerChange(key):
            changes.append(change)
    return Changes(
        private_key=wanted.private_key if wanted.private_key != observed.private_key else None,
        port=wanted.port if wanted.port != observed.port else None,
        gone=tuple(key for key in observed.peers if key not in wanted.peers),
        changed=tuple(sorted(changes, key=lambda change: change.only)),
    )


def has_session(state: PeerState | None, now: float) -> bool:
    """Whether a peer has answered a handshake that is still good at ``now``, by the same clock."""
    return state is not None and now - state.last_handshake < STALE


def failover(
    candidates: Sequence[Address],
    state: PeerState | None,
    current: Address | None,
    now: float,
    since: float,
    *,
    silent: bool = False,
) -> Address | None:
    """The endpoint to call a peer at, ``None`` to leave it as it is.

    ``current`` was set at ``since`` (seconds, by the clock of ``now``). While there is a session nothing is changed;
    without one, or when the peer is ``silent`` in spite of it, the next candidate has its turn after :data:`PATIENCE`.
    Without ``current``, after a restart of this process, a session that has outlived it stays at its endpoint.
    """
    answers = has_session(state, now) and not silent
    if not candidates or (current is None and answers):
        return None
    if current not in candidates:
        return candidates[0]
    if answers or now - since < PATIENCE or len(candidates) == 1:
        return None
    return candidates[(candidates.index(current) + 1) % len(candidates)]
