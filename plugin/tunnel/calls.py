"""What WireGuard is told of each peer: where it is called, and when it is made to call.

Where others were heard is kept on disk, so that the next process can call them there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import structlog

from plugin import steady
from plugin.store import mesh
from plugin.store.mesh import MeshPeer
from plugin.tunnel.renewal import Ended, Renewal
from plugin.tunnel.sightings import Sightings
from plugin.tunnel.wants import Wanted
from plugin.wireguard.calling import Calling
from plugin.wireguard.model import Address, Observed, Peer, PeerState, has_session
from stackpad import records
from stackpad.errors import Unavailable

KEEP = 5.0
"""Least seconds between two writes of where others were heard."""


@dataclass(frozen=True, slots=True)
class Told:
    """Peers by public key, and the endpoints that stand. ``taken`` are those that take another one's place now."""

    peers: Mapping[str, Peer]
    configured: Mapping[str, Address]
    taken: frozenset[str]
    ended: Ended
    again: bool
    """Whether there has to be another round at once."""


class Calls:
    """Chooses by what is observed, and by what it has told before."""

    def __init__(self, sightings: Sightings) -> None:
        self._sightings, self._calling, self._renewal = sightings, Calling(), Renewal()
        self._kept, self._keep_at = dict[str, Address](), 0.0
        self._log = structlog.get_logger("mesh")

    @property
    def heard(self) -> Mapping[str, Address]:
        """Where other nodes were heard last, by id; also before this process."""
        return self._calling.heard

    def whole(self, key: str, seen: PeerState) -> PeerState:
        """A peer as it is, with what is known of it from before it began anew."""
        return self._renewal.whole(key, seen)

    async def load(self) -> None:
        """Read where they were heard by the process before."""
        self._kept = await asyncio.to_thread(self._sightings.load)
        self._calling.heard.update(self._kept)

    def choose(self, wanted: Wanted, observed: Observed, *, made: bool) -> Told:
        """What to tell now; ``made`` says that the device has just been made."""
        planned = wanted.plan.peers
        nodes = {**{key: peer.node for key, peer in planned.items()}, **dict.fromkeys(wanted.extra, "")}
        self._calling.keep(nodes.values(), nodes)
        self._calling.look(nodes, observed, now := steady.now())
        peers = {**{key: self._peer(peer, observed) for key, peer in planned.items()}, **wanted.extra}
        taken = frozenset(key for key, peer in planned.items() if _taken_over(peer, observed))
        configured = dict(self._calling.configured)
        for key, at in self._renewal.moved(observed).items():
            if key in peers and peers[key].endpoint in {None, configured.get(key)}:
                peers[key] = replace(peers[key], endpoint=at)
                configured.pop(key, None)
        ended = self._renewal.ended(peers, observed, wanted.private_key, self._calling.ear, now)
        # What has waited for this goes out with the handshake, which a keepalive begins.
        awaited = taken | ended.called
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
        return Told(peers, configured, taken, ended, again)

    def told(self, told: Told, wanted: Wanted, before: Observed, after: Observed) -> None:
        """WireGuard has it: it was so before, and is so now."""
        configured = {key: peer.endpoint for key, peer in told.peers.items() if peer.endpoint is not None}
        elsewhere = {key for key, at in configured.items() if told.configured.get(key) != at}
        self._renewal.told(told.ended.anew, elsewhere, before, after)
        for key in told.taken:
            # It stays where it was last seen; calling it at a candidate has its turn when it is silent there.
            for text in wanted.plan.peers[key].endpoints[:1]:
                configured[key] = records.split_endpoint(text)
        self._calling.configured = configured

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
        self._renewal.clear()
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


def _taken_over(peer: MeshPeer, observed: Observed) -> bool:
    """Whether a peer takes another one's place now."""
    return peer.public_key not in observed.peers and peer.former in observed.peers
