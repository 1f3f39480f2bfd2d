"""At which address each peer is called, and what is learnt of it by looking again and again.

Pure. Three things are remembered of a peer: the address it was last *heard* at, which outlives a device, since a peer
behind a NAT announces none; the one that was *configured* last; and whether it is *silent*: more is sent to it, and
nothing comes back. WireGuard answers whatever carries data within ten seconds, with an empty packet if need be (paper
§6.5), so a peer that has been silent for :data:`QUIET` cannot be reached where it is called, however good the session.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from plugin.wireguard.model import Address, Observed, PeerState, failover, has_session

QUIET = 15.0
"""Seconds without an answer after which WireGuard itself doubts a session (``KEEPALIVE_TIMEOUT + REKEY_TIMEOUT``)."""

_INSIST = 10.0
"""Seconds over which something must have been sent meanwhile: a single packet proves nothing."""

_EMPTY = 32
"""Bytes of a keepalive, which nobody answers."""

_INITIATION = 148
"""Bytes of a handshake's first message. Who sends nothing else does not hear us, and is no answer."""


@dataclass(frozen=True, slots=True)
class Ear:
    """The counters of a peer at the last look; more was sent ``since`` then (by a clock that does not jump, 0: it was
    answered) and ``until`` then, and nothing has come back. ``heard`` is when an answer was seen last, since the first
    look, ``moved`` when anything was, a handshake's first message among it; 0 for never.
    """

    received: int = 0
    sent: int = 0
    since: float = 0.0
    until: float = 0.0
    heard: float = 0.0
    moved: float = 0.0

    def listen(self, state: PeerState, now: float) -> Ear:
        """After another look."""
        moved = now if state.received != self.received else self.moved
        if (state.received - self.received) % _INITIATION or state.received < self.received or state.sent < self.sent:
            heard = now if state.received > self.received else self.heard
            return Ear(state.received, state.sent, heard=heard, moved=moved)
        if state.sent - self.sent in {0, _EMPTY}:
            return replace(self, received=state.received, sent=state.sent, moved=moved)
        return Ear(state.received, state.sent, self.since or now, now, self.heard, moved)

    def silent(self, now: float) -> bool:
        """Whether a peer that should have answered has not."""
        return bool(self.since) and now - self.since >= QUIET and self.until - self.since >= _INSIST


class Calling:
    """Remembers: ``heard`` is where nodes were last heard, by their id; ``configured`` what was set, by public key."""

    def __init__(self, heard: Mapping[str, Address] | None = None) -> None:
        self.heard: dict[str, Address] = dict(heard or {})
        self.configured: dict[str, Address] = {}
        self._ears: dict[str, Ear] = {}
        self._since: dict[str, float] = {}
        self._before: dict[str, Address] = {}

    def look(self, nodes: Mapping[str, str], observed: Observed, now: float) -> None:
        """Take in what is observed at ``now`` (a clock that never jumps); ``nodes`` are the peers' ids by public key."""
        for key, node in nodes.items():
            state = observed.peers.get(key)
            if state is None:
                self._ears.pop(key, None)
                continue
            before = self._ears.get(key)
            if before is None:
                # What is there at the first look came at some time before it: it may be an answer of long ago, and a
                # handshake's message of just now.
                before, moved = Ear(), now if state.received else 0.0
                self._ears[key] = Ear(state.received, state.sent, moved=moved)
            else:
                self._ears[key] = before.listen(state, now)
            if node and state.received != before.received and state.endpoint is not None and has_session(state, now):
                # WireGuard calls a peer where its last packet came from, and one has come since the last look.
                self.heard[node] = state.endpoint

    def ear(self, key: str) -> Ear:
        """What was heard of a peer."""
        return self._ears.get(key, Ear())

    def keep(self, nodes: Iterable[str], keys: Iterable[str]) -> None:
        """Forget all but these."""
        there, known = set(nodes), set(keys)
        self.heard = {node: address for node, address in self.heard.items() if node in there}
        for table in (self._ears, self._since, self._before):
            for key in table.keys() - known:
                del table[key]

    def clear(self) -> None:
        """Forget everything."""
        self.keep((), ())
        self.configured.clear()

    def candidates(self, key: str, node: str, announced: Sequence[Address], state: PeerState | None) -> list[Address]:
        """Where a peer may be: what its node announces, and first of all where it was heard before its peer was made.

        Not where it was heard since: it may have moved again by now, and what WireGuard has learnt is never set back.
        """
        if state is None and node in self.heard:
            self._before[key] = self.heard[node]
        first = self._before.get(key)
        return [*announced] if first is None else [first, *(one for one in announced if one != first)]

    def endpoint(self, key: str, candidates: Sequence[Address], state: PeerState | None, now: float) -> Address | None:
        """The endpoint for a peer: the one that was set last, or another after it has been silent."""
        # What was set of a peer that is made anew is as gone as the peer was.
        current = None if state is None else self.configured.get(key)
        since = self._since.setdefault(key, now)
        silent = self._ears.get(key, Ear()).silent(now)
        chosen = failover(candidates, state, current, now, since, silent=silent)
        if chosen is not None and chosen != current:
            self._since[key] = now
        return chosen or current
