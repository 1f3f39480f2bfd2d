"""Which public key another node is a peer under, while it changes its key pair; pure.

WireGuard lets an address belong to one peer only, and what arrives from another one is dropped. What loses no packet is
an order. The node that changes its key says so in its record, goes on sending under the old key for :data:`SWITCH`
seconds, and then takes the new one. From then on what it sends waits in WireGuard (128 packets for each peer) for a
handshake, while it still receives what comes under the old key. The others move its ranges to the new key
:data:`LINGER` seconds after they have heard of it: by then nothing under the old one is on its way any more. They begin
the handshake at once, and what has waited goes out. The peer of the old key stays for another :data:`LINGER` seconds
without ranges: a peer that is removed takes along what it has begun to encrypt.

Beside that there is a slow way for whoever did not hear of it: an announced key that is not taken up within
:data:`STUCK` seconds becomes a second peer without ranges, and gets them when the node is heard under it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from plugin.mesh import Choice
from plugin.wireguard.model import Observed, has_session
from stackpad import records

SWITCH = 0.1
"""Seconds between the word that the key changes and the change itself: others are to have heard the word."""

LINGER = 0.4
"""Seconds between hearing of it and moving the ranges: longer than ``SWITCH`` and the way of a packet, by a margin.

And between moving them and removing the peer that had them.
"""

STUCK = 10.0
"""Seconds until a key that was announced and not taken up is tried."""


class Handover:
    """Remembers since when each key has its place in its node's record.

    ``due`` is when to choose again (Unix time), 0 for never.
    """

    def __init__(self) -> None:
        self.due = 0.0
        self._choices: dict[str, Choice] = {}
        self._since: dict[tuple[str, int, str], float] = {}
        self._moved: dict[str, float] = {}

    def choose(self, nodes: Iterable[records.Node], observed: Observed | None, now: float) -> dict[str, Choice]:
        """The key for each node that has one, by node id; ``now`` is Unix time."""
        known = [node for node in nodes if node.public_keys]
        places = {(node.owner, place, key) for node in known for place, key in enumerate(node.public_keys)}
        self._since = {one: self._since.get(one, now) for one in places}
        moments: list[float] = []
        chosen = {node.owner: self._choice(node, observed, now, moments) for node in known}
        moved = {node for node, choice in chosen.items() if choice.key != self._choices.get(node, choice).key}
        self._moved = {node: now if node in moved else self._moved.get(node, 0.0) for node in chosen}
        self._choices = {node: self._leave(node, choice, observed, now, moments) for node, choice in chosen.items()}
        self.due = min(moments, default=0.0)
        return self._choices

    def _leave(self, node: str, choice: Choice, observed: Observed | None, now: float, moments: list[float]) -> Choice:
        end = self._moved[node] + LINGER
        there = observed is not None and choice.former in observed.peers
        if not there or now >= end:
            return replace(choice, leaving="")
        moments.append(end)
        return replace(choice, leaving=choice.former)

    def _choice(self, node: records.Node, observed: Observed | None, now: float, moments: list[float]) -> Choice:
        first, announced = (*node.public_keys, "")[:2]
        before = self._choices.get(node.owner, Choice(first))
        if announced == before.key:
            return before  # it was heard under the new key before its record said that this is the only one
        if first != before.key:
            in_use = observed is not None and has_session(observed.peers.get(before.key), now)
            ready = self._since[node.owner, 0, first] + LINGER
            if in_use and now < ready:
                moments.append(ready)
                return Choice(before.key, before.former)
            return Choice(first, former=before.key)
        if announced:
            ready = self._since[node.owner, 1, announced] + STUCK
            if now < ready:
                moments.append(ready)
                return Choice(first, before.former)
            if observed is not None and has_session(observed.peers.get(announced), now):
                return Choice(announced, former=first)
            return Choice(first, before.former, standby=announced)
        return Choice(first, before.former)
