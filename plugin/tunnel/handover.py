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

A key is one node's. To the others two nodes with one key are one peer, and the second would take the first one's place: a
member could have everybody drop a neighbour by writing its key into the member's own record. So a key is whose it was
first, as far as this node knows, for as long as that one is there; where nobody was first, it is nobody's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from msgspec import structs

from plugin.store.mesh import Choice
from plugin.wireguard.model import Observed, has_session
from stackpad import records
from stackpad.errors import plain

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

    ``due`` is when to choose again (:func:`plugin.steady.now`), 0 for never. ``problems`` are keys that two nodes say are
    theirs.
    """

    def __init__(self) -> None:
        self.due = 0.0
        self.problems: tuple[str, ...] = ()
        self._holders: dict[str, str] = {}
        self._choices: dict[str, Choice] = {}
        self._since: dict[tuple[str, int, str], float] = {}
        self._moved: dict[str, float] = {}

    def choose(
        self, nodes: Iterable[records.Node], observed: Observed | None, now: float, first: Sequence[str] = ()
    ) -> dict[str, Choice]:
        """The key for each node that says it has one, by node id: an empty one, if none of these is its own.

        ``now`` is of :func:`plugin.steady.now`. ``first`` are nodes that a key belongs to before all others, where nobody
        had it first.
        """
        said = [node for node in nodes if node.public_keys]
        known = [node for node in self._own(said, first) if node.public_keys]
        places = {(node.owner, place, key) for node in known for place, key in enumerate(node.public_keys)}
        self._since = {one: self._since.get(one, now) for one in places}
        moments: list[float] = []
        chosen = {node.owner: self._choice(node, observed, now, moments) for node in known}
        moved = {node for node, choice in chosen.items() if choice.key != self._choices.get(node, choice).key}
        self._moved = {node: now if node in moved else self._moved.get(node, 0.0) for node in chosen}
        self._choices = {node: self._leave(node, choice, observed, now, moments) for node, choice in chosen.items()}
        self.due = min(moments, default=0.0)
        return {**{node.owner: Choice("") for node in said}, **self._choices}

    def _own(self, nodes: Sequence[records.Node], first: Sequence[str]) -> Iterator[records.Node]:
        """The nodes, each with those keys that are its own."""
        claims: dict[str, set[str]] = {}
        for node in nodes:
            before = self._choices.get(node.owner, Choice(""))
            had = (before.key, before.former, before.standby, before.leaving)
            for key in filter(None, (*node.public_keys[:2], *had)):
                claims.setdefault(key, set()).add(node.owner)
        self._holders = {key: _holder(who, self._holders.get(key, ""), first) for key, who in claims.items()}
        names = {node.owner: plain(node.name) for node in nodes}
        problems = []
        for node in nodes:
            own = tuple(key for key in node.public_keys[:2] if self._holders[key] == node.owner)
            for key in node.public_keys[:2]:
                if key not in own:
                    holder = names.get(self._holders[key], "")
                    others = sorted(names[one] for one in claims[key] - {node.owner})
                    problems.append(
                        f"node {names[node.owner]} says that WireGuard key {plain(key)} is its own, "
                        + (f"which is that of node {holder}" if holder else f"and so does node {', '.join(others)}")
                        + "; it is not called under it: remove the node that is not to be trusted, or is a copy of the "
                        "other (stackpad node rm)"
                    )
            yield structs.replace(node, public_keys=own)
        self.problems = tuple(problems)

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


def _holder(claimants: Collection[str], before: str, first: Sequence[str]) -> str:
    """Whose a key is, by node id; empty for nobody's."""
    if before in claimants or len(claimants) == 1:
        return before if before in claimants else next(iter(claimants))
    return next((node for node in first if node in claimants), "")
