"""What WireGuard is told of each peer: where it is called, and when it is made to call.

Where others were heard is kept on disk, so that the next process can call them there.

A peer whose session has ended begins anew. WireGuard has a handshake's first message carry the sender's time of day, and
drops one that is not later than the last (paper §5.1, against replays). A node whose clock was set back by an hour could
call nobody for that hour; a peer that is made anew has no last one. Nothing is lost with it, since there is no session.
Somebody who recorded an earlier message can have it answered once more: that costs a handshake, and shows nothing.

Both ends do so when a session ends, in an order: the end with the greater key a moment later. Two first messages that
cross on the way are none, and are tried again after five seconds. Whoever has something to send calls by itself; where
that was not heard, the later end, which has just heard the other, calls it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import structlog

from plugin import steady
from plugin.store import mesh
from plugin.store.mesh import MeshPeer
from plugin.tunnel.sightings import Sightings
from plugin.tunnel.wants import Wanted
from plugin.wireguard.calling import Calling
from plugin.wireguard.keys import public_key
from plugin.wireguard.model import STALE, Address, Observed, Peer, PeerState, has_session
from stackpad import records
from stackpad.errors import Unavailable

KEEP = 5.0
"""Least seconds between two writes of where others were heard."""

RECENT = 20.0
"""Seconds since it was heard in which a peer whose session has ended is taken for one that wants to go on."""

LATER = 0.2
"""Seconds by which the end with the greater key is later: longer than a handshake takes, as a rule.

What this end has to send in between is lost, since it is of no session.
"""


@dataclass(frozen=True, slots=True)
class Told:
    """Peers by public key; ``taken`` are those that take another one's place now, ``anew`` those that begin anew."""

    peers: Mapping[str, Peer]
    taken: frozenset[str]
    anew: frozenset[str]
    again: bool
    """Whether there has to be another round at once."""
    due: float
    """When a session that is in use ends (:func:`plugin.steady.now`), as far as is known now; 0 for never."""


class Calls:
    """Chooses by what is observed, and by what it has told before."""

    def __init__(self, sightings: Sightings) -> None:
        self._sightings, self._calling = sightings, Calling()
        self._kept, self._keep_at = dict[str, Address](), 0.0
        self._former: dict[str, PeerState] = {}
        self._own = "", ""
        self._log = structlog.get_logger("mesh")

    @property
    def heard(self) -> Mapping[str, Address]:
        """Where other nodes were heard last, by id; also before this process."""
        return self._calling.heard

    @property
    def configured(self) -> Mapping[str, Address]:
        """The endpoints that were told, by public key."""
        return self._calling.configured

    def whole(self, key: str, seen: PeerState) -> PeerState:
        """A peer as it is, with what is known of it from before it began anew."""
        former = self._former.get(key, PeerState())
        return replace(
            seen,
            last_handshake=seen.last_handshake or former.last_handshake,
            received=former.received + seen.received,
            sent=former.sent + seen.sent,
        )

    async def load(self) -> None:
        """Read where they were heard by the process before."""
        self._kept = await asyncio.to_thread(self._sightings.load)
        self._calling.heard.update(self._kept)

    def choose(self, wanted: Wanted, observed: Observed, *, made: bool) -> Told:
        """What to tell now; ``made`` says that the device has just been made."""
        planned = wanted.plan.peers
        nodes = {key: peer.node for key, peer in planned.items()}
        self._calling.keep(nodes.values(), nodes)
        self._former = {key: state for key, state in self._former.items() if key in planned}
        self._calling.look(nodes, observed, now := steady.now())
        peers = {**{key: self._peer(peer, observed) for key, peer in planned.items()}, **wanted.extra}
        taken = frozenset(key for key, peer in planned.items() if _taken_over(peer, observed))
        own = self._own_key(wanted.private_key)
        later = {key for key in peers if own > key}
        ends = {key: end for key, end in _ends(observed, later).items() if key in peers and key not in taken}
        anew = frozenset(key for key, end in ends.items() if end <= now)
        self._former |= {key: self.whole(key, observed.peers[key]) for key in anew}
        # What has waited for this goes out with the handshake, which a keepalive begins.
        heard = {key for key in peers if self._calling.heard_since(key, now - RECENT)}
        awaited = taken | anew & heard & later
        due = min((end for key, end in ends.items() if key in heard - anew), default=0.0)
        peers |= _kept_alive(peers, awaited)
        again = bool(awaited)
        if observed.private_key not in {"", wanted.private_key}:
            # All sessions end with the key. Who keeps a NAT's mapping open has to call anew, and does when its keepalive
            # is switched on again: in the next round.
            peers = {key: replace(peer, keepalive=0) for key, peer in peers.items()}
            again = True
        elif made:
            # Whoever still has a session with what was there before would send into it for 15 seconds. A keepalive that
            # is switched on sends a packet at once, and so begins a new one; the next round switches it off again.
            peers = _kept_alive(peers, peers)
            again = True
        return Told(peers, taken, anew, again, due)

    def told(self, told: Told, wanted: Wanted) -> None:
        """WireGuard has it."""
        configured = {key: peer.endpoint for key, peer in told.peers.items() if peer.endpoint is not None}
        for key in told.taken:
            # It stays where it was last seen; calling it at a candidate has its turn when it is silent there.
            for text in wanted.plan.peers[key].endpoints[:1]:
                configured[key] = records.split_endpoint(text)
        self._calling.configured = configured

    def _own_key(self, private: str) -> str:
        if self._own[0] != private:
            self._own = private, public_key(private)
        return self._own[1]

    async def keep(self) -> None:
        """Keep on disk where the others are heard, now and then."""
        heard = dict(self._calling.heard)
        if heard == self._kept or time.monotonic() < self._keep_at:
            return
        self._keep_at = time.monotonic() + KEEP
        try:
            await asyncio.to_thread(self._sightings.save, heard)
            self._kept = heard
        except Unavailable as error:
            self._log.warning("where the other nodes are heard could not be kept", reason=str(error))

    async def clear(self) -> None:
        """There are no peers any more; forget them, on disk too."""
        self._calling.clear()
        self._former.clear()
        self._keep_at = 0.0
        await self.keep()

    def _peer(self, peer: MeshPeer, observed: Observed) -> Peer:
        """The peer with the endpoint it is to be called at: the one it has, or another after it has been silent."""
        key = peer.public_key
        if _taken_over(peer, observed):
            endpoint = observed.peers[peer.former].endpoint
            if endpoint is not None:
                return Peer(key, peer.preshared_key, endpoint, peer.allowed, peer.keepalive)
        now, state = steady.now(), observed.peers.get(key)
        announced = [records.split_endpoint(text) for text in peer.endpoints]
        candidates = self._calling.candidates(key, peer.node, announced, state)
        return Peer(
            public_key=key,
            preshared_key=peer.preshared_key,
            endpoint=self._calling.endpoint(key, candidates, state, now),
            allowed=peer.allowed,
            # Where there is a choice of addresses a peer without a session is called, so that the choice is made
            # before somebody needs it, and a peer at rest is not taken for one that does not answer.
            keepalive=peer.keepalive or (mesh.KEEPALIVE if len(candidates) > 1 and not has_session(state, now) else 0),
        )


def _kept_alive(peers: Mapping[str, Peer], keys: Iterable[str]) -> dict[str, Peer]:
    return {key: replace(peers[key], keepalive=peers[key].keepalive or mesh.KEEPALIVE) for key in keys}


def _ends(observed: Observed, later: Collection[str]) -> dict[str, float]:
    """When the session of each peer that has had one ends, or has ended; for those in ``later`` a moment later."""
    seen = observed.peers.items()
    return {key: peer.last_handshake + STALE + LATER * (key in later) for key, peer in seen if peer.last_handshake}


def _taken_over(peer: MeshPeer, observed: Observed) -> bool:
    """Whether a peer takes another one's place now."""
    return peer.public_key not in observed.peers and peer.former in observed.peers
