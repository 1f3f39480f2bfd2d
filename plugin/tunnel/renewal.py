"""Peers whose session has ended begin anew, so that a node whose clock was set back is heard.

WireGuard has a handshake's first message carry the sender's time of day, and drops one that is not later than the last
(paper §5.1, against replays). A node whose clock was set back by an hour could call nobody for that hour; a peer that is
made anew has no last one. What waits for a handshake of ours at that moment goes with it.

Both ends do so when a session ends, in an order: the end with the greater key a moment later. Two first messages that
cross on the way are none, and are tried again after five seconds. Whoever has something to send calls by itself; where
that was not heard, the later end, which has just heard the other, calls it.

Somebody who recorded an earlier first message can have it answered once more, and WireGuard then calls the peer where
that came from. Nobody has proved to be there until there is a session; so the endpoint is set back to what it was.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from plugin.wireguard.calling import Ear
from plugin.wireguard.keys import public_key
from plugin.wireguard.model import STALE, Address, Observed, PeerState

RECENT = 20.0
"""Seconds since it was heard in which a peer whose session has ended is taken for one that wants to go on."""

LATER = 0.2
"""Seconds by which the end with the greater key is later: longer than a handshake takes, as a rule.

What this end has to send in between is lost, since it is of no session.
"""

PAUSE = 0.1
"""Seconds in which nothing must have come: a handshake that is under way would be lost."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Public keys of peers that begin ``anew`` now, and of those among them that are called.

    ``due`` is when the session of the next one in use ends (:func:`plugin.steady.now`), as far as is known; 0 for never.
    """

    anew: frozenset[str] = frozenset()
    called: frozenset[str] = frozenset()
    due: float = 0.0


class Renewal:
    """Remembers what there was of a peer before it began anew, and where it is to be called since."""

    def __init__(self) -> None:
        self._began = 0.0
        self._own = "", ""
        self._former: dict[str, PeerState] = {}
        self._stood: dict[str, Address | None] = {}

    def ended(
        self, keys: Collection[str], observed: Observed, private_key: str, ear: Callable[[str], Ear], now: float
    ) -> Ended:
        """Which of the peers ``keys`` begin anew at ``now``; ``ear`` says what was heard of one."""
        self._began = self._began or now
        self._former = {key: state for key, state in self._former.items() if key in keys}
        self._stood = {key: at for key, at in self._stood.items() if _unproved(key, observed)}
        if observed.private_key not in {"", private_key}:
            return Ended()  # all sessions end with the key, and everybody is called in the next round
        own = self._own_key(private_key)
        later = {key for key in keys if own > key}
        ends = dict[str, float]()
        for key in keys:
            state, heard = observed.peers.get(key), ear(key)
            last = 0.0 if state is None else state.last_handshake or (heard.moved if state.received else 0.0)
            if state is not None and last and not _on_link(state.endpoint):
                # What was before this process may be long ago only by a clock that was set in between.
                end = max(last, self._began) + STALE + LATER * (key in later)
                ends[key] = max(end, heard.moved + PAUSE)
        anew = frozenset(key for key, end in ends.items() if end <= now)
        in_use = {key for key in ends if ear(key).heard > now - RECENT}
        due = min((end for key, end in ends.items() if key in in_use - anew), default=0.0)
        return Ended(anew, anew & in_use & later, due)

    def moved(self, observed: Observed) -> dict[str, Address]:
        """Peers that have begun anew and are not called where they should be, with where that is."""
        return {
            key: at
            for key, at in self._stood.items()
            if at is not None and _unproved(key, observed) and observed.peers[key].endpoint != at
        }

    def told(self, anew: Collection[str], called_elsewhere: Collection[str], before: Observed, after: Observed) -> None:
        """WireGuard was ``before`` it was told, and is so ``after``; some peers were given another endpoint."""
        self._former |= {key: self.whole(key, before.peers[key]) for key in anew}
        for key in {*anew, *(self._stood.keys() & called_elsewhere)}:
            if key in after.peers:
                self._stood[key] = after.peers[key].endpoint

    def whole(self, key: str, seen: PeerState) -> PeerState:
        """A peer as it is, with what is known of it from before it began anew."""
        former = self._former.get(key, PeerState())
        return replace(
            seen,
            last_handshake=seen.last_handshake or former.last_handshake,
            received=former.received + seen.received,
            sent=former.sent + seen.sent,
        )

    def clear(self) -> None:
        """There are no peers any more."""
        self._former.clear()
        self._stood.clear()

    def _own_key(self, private: str) -> str:
        if self._own[0] != private:
            self._own = private, public_key(private)
        return self._own[1]


def _unproved(key: str, observed: Observed) -> bool:
    """Whether a peer has had no session since it was made."""
    return key in observed.peers and not observed.peers[key].last_handshake


def _on_link(endpoint: Address | None) -> bool:
    """Whether an endpoint is good on one link only, which is not said: it could not be set again."""
    return endpoint is not None and ipaddress.ip_address(endpoint[0]).is_link_local
