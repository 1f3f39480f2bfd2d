"""When the last handshakes were, by a clock that does not jump.

WireGuard says when by the clock of the day. With that set ahead by an hour, every session would look ended,
and their peers would be called elsewhere; with it set back, what has ended would look alive for an hour. Therefore each
handshake is translated when it is first seen, and one that is new since the last look was not before that look.
"""

from __future__ import annotations

from dataclasses import replace

from plugin.steady import Moments
from plugin.wireguard.model import Observed


class Handshakes:
    """Remembers the handshakes of the peers that are there."""

    def __init__(self, moments: Moments | None = None) -> None:
        self._moments = moments or Moments()
        self._looked = 0.0

    def translated(self, observed: Observed, looked: float) -> Observed:
        """``observed`` with its peers' handshakes in :func:`plugin.steady.now`; ``looked`` is when that look began."""
        peers = {
            key: replace(state, last_handshake=self._moments.of(key, state.last_handshake, self._looked))
            if state.last_handshake
            else state
            for key, state in observed.peers.items()
        }
        self._moments.keep(observed.peers.keys())
        self._looked = looked
        return replace(observed, peers=peers)
