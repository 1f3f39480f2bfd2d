"""Who owns which host name, as a value: claims, what the operator has said, and what was released; pure.

A claim says who asked first and how control of the name was proved, for a while also after the last who asked has gone. A
ruling is the operator's word about a domain, with or without a claim. What was released leaves a mark for a while, so
that a ledger of another node, or one restored from a copy, does not bring it back: :func:`merge` is the same whichever of
the two is named first.

What comes later has the later time, also where the clock was set back in between: else the word before it would stand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, TypeVar

from stackpad.errors import Conflict, InvalidRequest, NotFound
from stackpad.hosts import LABEL

Owner = str
"""Organisation, project and environment, as ``acme/my-app/production``."""

HERE = ""
"""This node, where there is no other."""

REMEMBERED, MOST_REMEMBERED = 30 * 86400.0, 10_000
"""How long (seconds), and how many, marks of what was released are kept."""

MOST_KEPT = 10_000
"""How many claims are kept that nobody asks for any more."""


class How(StrEnum):
    """What makes a claim good."""

    PLATFORM = "platform"
    DNS = "dns"
    HTTP = "http"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True, order=True)
class Proof:
    """That the owner controls the name; ``at`` is Unix time, seconds."""

    at: float
    how: How


@dataclass(frozen=True, slots=True)
class Claim:
    """Who owns a host name, and which of its services each path; ``since`` is Unix time, seconds.

    ``nodes`` are the ids of the nodes whose containers asked for it when they were last heard. ``gone`` is since when no
    container does, where it is kept for its owner all the same. ``networks`` says of each path from which network it is
    served; of a path that is not among them the first container says it, as of all paths in a ledger from before that was
    kept. ``left`` says of a path since when (Unix time, seconds) no container on its network asks for it, while others do
    and it is kept for that network all the same.
    """

    owner: Owner
    since: float
    paths: Mapping[str, str] = field(default_factory=dict)
    proof: Proof | None = None
    nodes: tuple[str, ...] = (HERE,)
    gone: float | None = None
    networks: Mapping[str, str] = field(default_factory=dict)
    left: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ruling:
    """The operator's word: the domain is ``owner``'s without any proof, or (not ``allowed``) nobody's."""

    allowed: bool
    owner: Owner
    at: float


@dataclass(frozen=True, slots=True)
class Released:
    """That ``owner`` has lost the name: claims from before ``at`` are void. ``by_hand``: the operator has ended it."""

    owner: Owner
    at: float
    by_hand: bool = False

    def voids(self, claim: Claim) -> bool:
        """Whether ``claim`` is one of those that ended; a successor's may begin in the same moment."""
        return claim.since < self.at or (claim.since == self.at and claim.owner == self.owner)

    def after(self, owner: Owner, now: float) -> float:
        """Since when a claim is that ``owner`` makes ``now``, so that it is none of those that ended."""
        return _later_than(now, self.at) if owner == self.owner else max(now, self.at)


@dataclass(frozen=True, slots=True)
class Ledger:
    """All of it, by host name."""

    claims: Mapping[str, Claim] = field(default_factory=dict)
    rulings: Mapping[str, Ruling] = field(default_factory=dict)
    released: Mapping[str, Released] = field(default_factory=dict)

    @property
    def nodes(self) -> frozenset[str]:
        """The nodes whose containers have asked for anything."""
        return frozenset(node for claim in self.claims.values() for node in claim.nodes)


def merge(a: Ledger, b: Ledger) -> Ledger:
    """One ledger from two that began as the same.

    Of two claims to a name the one that the operator has allowed wins, else a proved one, else the older; of one owner's
    two, the older one's services, with the earliest proof. A later ruling stands; what was released stays so,
    and only what the operator has released takes his earlier word back.
    """
    released = _later(a.released, b.released, lambda mark: (mark.at, mark.owner, mark.by_hand))
    rulings = _later(a.rulings, b.rulings, lambda ruling: (ruling.at, not ruling.allowed, ruling.owner))
    ended = {host: mark.at for host, mark in released.items() if mark.by_hand}
    rulings = {h: r for h, r in rulings.items() if h not in ended or r.at > ended[h]}
    claims: dict[str, Claim] = {}
    for host in sorted(a.claims.keys() | b.claims.keys()):
        mine, theirs = a.claims.get(host), b.claims.get(host)
        if mine == theirs and mine is not None and host not in released:
            # Mostly they agree, and there are thousands of these at every change.
            claims[host] = mine
            continue
        there = [claim for claim in (mine, theirs) if claim is not None]
        left = [claim for claim in there if host not in released or not released[host].voids(claim)]
        if left:
            claims[host] = _one(left, rulings.get(host))
    return Ledger(claims, dict(sorted(rulings.items())), dict(sorted(released.items())))


def prove(ledger: Ledger, host: str, owner: Owner, proof: Proof) -> Ledger:
    """The ledger after ``owner`` has proved control of ``host``.

    Nothing changes where another owner's claim is proved already, or where the operator has decided otherwise: who
    proves second is too late, and who asked first without a proof has kept nobody waiting.
    """
    ruling, claim = ledger.rulings.get(host), ledger.claims.get(host)
    if ruling is not None and (not ruling.allowed or ruling.owner != owner):
        return ledger
    if claim is not None and claim.proof is not None:
        return ledger
    mark = ledger.released.get(host)
    since = proof.at if mark is None else mark.after(owner, proof.at)
    mine = claim if claim is not None and claim.owner == owner else Claim(owner, since, nodes=())
    return replace(ledger, claims={**ledger.claims, host: replace(mine, proof=proof)})


def allow(ledger: Ledger, host: str, owner: Owner, now: float) -> Ledger:
    """The ledger in which ``host`` is ``owner``'s on the operator's word; raises :class:`Conflict` if it is another's."""
    claim = ledger.claims.get(host)
    if claim is not None and claim.owner != owner and claim.proof is not None:
        raise Conflict(
            f"{host} belongs to {claim.owner} ({claim.proof.how}); end that first with stackpad domain release {host}"
        )
    mine = claim if claim is not None and claim.owner == owner else None
    claims, at = dict(ledger.claims), _next_word(ledger, host, now)
    if mine is not None:
        claims[host] = replace(mine, proof=Proof(at, How.OPERATOR))
    return replace(ledger, claims=claims, rulings={**ledger.rulings, host: Ruling(True, owner, at)})


def forbid(ledger: Ledger, host: str, now: float) -> Ledger:
    """The ledger in which nobody is served at ``host``, whatever they can prove."""
    claims = dict(ledger.claims)
    if host in claims:
        claims[host] = replace(claims[host], proof=None)
    at = _next_word(ledger, host, now)
    return replace(ledger, claims=claims, rulings={**ledger.rulings, host: Ruling(False, "", at)})


def release(ledger: Ledger, host: str, now: float) -> Ledger:
    """The ledger in which ``host`` is as if nobody had claimed it, except that its last owner goes last; raises
    :class:`NotFound` if there is nothing to end.
    """
    claim, ruling = ledger.claims.get(host), ledger.rulings.get(host)
    if claim is None and ruling is None:
        raise NotFound(f"{host} is claimed by nobody; stackpad domain ls lists what is")
    loser = claim.owner if claim is not None else ruling.owner if ruling is not None else ""
    at = _next_word(ledger, host, now if claim is None else max(now, claim.since))
    return Ledger(
        {name: claim for name, claim in ledger.claims.items() if name != host},
        {name: ruling for name, ruling in ledger.rulings.items() if name != host},
        {**ledger.released, host: Released(loser, at, by_hand=True)},
    )


def forget(ledger: Ledger, host: str) -> Ledger:
    """The ledger without claim and ruling of ``host``; no mark is left that would end anybody else's."""
    return replace(
        ledger,
        claims={name: claim for name, claim in ledger.claims.items() if name != host},
        rulings={name: ruling for name, ruling in ledger.rulings.items() if name != host},
    )


def remembered(released: Mapping[str, Released], now: float) -> Mapping[str, Released]:
    """Those marks that are young enough, and not more than we keep; the same mapping if that is all of them."""
    if len(released) <= MOST_REMEMBERED and all(now - mark.at <= REMEMBERED for mark in released.values()):
        return released
    young = [(host, mark) for host, mark in released.items() if now - mark.at <= REMEMBERED]
    young.sort(key=lambda item: (-item[1].at, item[0]))
    return dict(sorted(young[:MOST_REMEMBERED]))


def kept(claims: Mapping[str, Claim], most: int = MOST_KEPT) -> Mapping[str, Claim]:
    """Without those that nobody asks for any more, where there are too many: names that were not proved go first, then
    those that nobody has asked for the longest.
    """
    left = [(host, claim) for host, claim in claims.items() if claim.gone is not None]
    if len(left) <= most:
        return claims

    def rank(item: tuple[str, Claim]) -> tuple[Any, ...]:
        host, claim = item
        return claim.proof is not None and claim.proof.how is not How.PLATFORM, claim.gone, host

    dropped = {host for host, _ in sorted(left, key=rank)[: len(left) - most]}
    return {host: claim for host, claim in claims.items() if host not in dropped}


def owner(text: str) -> Owner:
    """An owner as an operator writes it; raises :class:`InvalidRequest` naming the value."""
    parts = text.strip().lower().split("/")
    if len(parts) != 3 or not all(LABEL.fullmatch(part) for part in parts):
        raise InvalidRequest(
            f"{ascii(text)[:80]} is no owner; write organisation, project and environment, as in acme/my-app/production"
        )
    return "/".join(parts)


def _next_word(ledger: Ledger, host: str, now: float) -> float:
    """The time of what the operator says ``now``: later than all he has said of the name, and than what has ended."""
    before = [said.at for side in (ledger.rulings, ledger.released) if (said := side.get(host)) is not None]
    return _later_than(now, *before)


def _later_than(now: float, *moments: float) -> float:
    """``now``, or the next moment that is later than all of ``moments``."""
    return max([now, *(math.nextafter(moment, math.inf) for moment in moments)])


T = TypeVar("T", Ruling, Released)


def _later(a: Mapping[str, T], b: Mapping[str, T], order: Callable[[T], Any]) -> dict[str, T]:
    """Of both, entry by entry, the one that comes last in ``order``."""
    return {host: max((side[host] for side in (a, b) if host in side), key=order) for host in sorted(a.keys() | b.keys())}


def _one(there: list[Claim], ruling: Ruling | None) -> Claim:
    """Of one name's claims, the one that stands; in a complete order, so that nothing hangs on who is named first."""

    def rank(claim: Claim) -> tuple[Any, ...]:
        allowed = ruling is not None and ruling.allowed and ruling.owner == claim.owner
        return not allowed, claim.proof is None, claim.since, claim.owner

    first = min(there, key=rank)
    own = sorted(
        (claim for claim in there if claim.owner == first.owner),
        key=lambda c: (c.since, sorted(c.paths.items()), sorted(c.networks.items())),
    )
    paths = {path: service for claim in reversed(own) for path, service in claim.paths.items()}
    networks = {
        path: network
        for claim in reversed(own)
        for path, network in claim.networks.items()
        # That of another service would leave the one that stays without any container of its own.
        if path in paths and claim.paths.get(path) == paths[path]
    }
    left: dict[str, float] = {}
    for claim in own:
        for path, at in claim.left.items():
            if path in networks and claim.networks.get(path) == networks[path]:
                left[path] = max(at, left.get(path, at))
    return Claim(
        first.owner,
        own[0].since,
        dict(sorted(paths.items())),
        min((claim.proof for claim in own if claim.proof is not None), default=None),
        tuple(sorted({node for claim in own for node in claim.nodes})),
        max((claim.gone for claim in own if claim.gone is not None), default=None),
        dict(sorted(networks.items())),
        dict(sorted(left.items())),
    )


def lean(claim: dict[str, Any]) -> dict[str, Any]:
    """A claim's fields as they are stored: as before ``left`` was kept, where there is nothing of it."""
    return claim if claim["left"] else {name: value for name, value in claim.items() if name != "left"}
