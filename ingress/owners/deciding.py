"""Who gets a host name: the decision for one name, from who asks for it and what is known of it already; pure.

First come, first served, and a claim ends on positive evidence only: when every node whose containers asked for the name
has been heard, and none of its owner's does any more. Then it is kept for a while: else who waits for a name would have
it in the moment in which its owner's containers are made anew. A custom domain has to be proved, and as long as nobody
has proved it, having asked first keeps nobody else from proving it.

A path of a name is one service's, and that service's on one network: what networks keep apart does not share visitors
because it is called alike. That, too, is first come, first served, for as long as a container there asks for it and a
while longer: who takes all of them away to make them anew does not leave his visitors to another network.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from ingress.owners.ledger import HERE, Claim, How, Owner, Proof, Released, Ruling

KEPT, KEPT_PLATFORM = 30 * 86400.0, 86400.0
"""Seconds for which a proved domain, and a platform's name, is its owner's after the last container that asks for it."""

KEPT_NETWORK = 300.0
"""Seconds for which a path is its network's after the last container there that asks for it."""


class Standing(StrEnum):
    """Whether a claimed name is served."""

    ACTIVE = "active"
    UNPROVED = "unproved"
    FORBIDDEN = "forbidden"


@dataclass(frozen=True, slots=True)
class Ask:
    """One container's wish for a name: for which of its paths, on which node and which network (``None``: not known)."""

    owner: Owner
    path: str
    service: str
    node: str = HERE
    network: str | None = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What holds from now on; no claim where nobody has one. ``released`` is what to remember of one that ended."""

    claim: Claim | None
    standing: Standing
    released: Released | None = None


def decide(
    asks: Sequence[Ask],
    before: Claim | None,
    *,
    now: float,
    platform: bool,
    ruling: Ruling | None = None,
    released: Released | None = None,
    heard: Collection[str] = (HERE,),
    believe: bool = False,
) -> Decision:
    """Decide one name. ``asks`` are in the order in which they count, the oldest first.

    ``platform`` says that the name follows from its owner's, ``believe`` that no domain needs a proof; ``heard`` are the
    nodes all of whose containers are known.
    """
    owners = [asks[0].owner] if len(asks) == 1 else list(dict.fromkeys(ask.owner for ask in asks))
    if released is not None and released.by_hand:
        # Somebody has ended that owner's claim by hand: whoever else asks comes first now.
        owners.sort(key=lambda owner: owner == released.owner)
    allowed = ruling.owner if ruling is not None and ruling.allowed else None
    ended: Released | None = None
    if before is not None and before.owner not in owners and all(node in heard for node in before.nodes):
        left = replace(before, paths={}, networks={}, left={}, nodes=(), gone=now if before.gone is None else before.gone)
        # What the operator has allowed is kept by his word.
        if is_kept(left, now=now, platform=platform) and allowed != before.owner:
            before = left
        else:
            ended, before = Released(before.owner, max(now, before.since)), None
    if allowed in owners and not platform and (before is None or before.owner != allowed):
        before, owners = None, [str(allowed)]
    if before is None and not owners:
        return Decision(None, Standing.ACTIVE, ended)
    claim = _claim(asks, before or Claim(owners[0], _since(owners[0], ended or released, now), nodes=()), heard, now)
    proof = claim.proof
    if platform:
        proof = Proof(claim.since, How.PLATFORM)
    elif proof is not None and proof.how is How.PLATFORM:
        proof = None  # it was one, under another base domain
    elif proof is None and ruling is not None and allowed == claim.owner:
        proof = Proof(ruling.at, How.OPERATOR)
    if proof != claim.proof:
        claim = replace(claim, proof=proof)
    return Decision(claim, _standing(claim, ruling, platform=platform, believe=believe), ended)


def is_kept(claim: Claim, *, now: float, platform: bool) -> bool:
    """Whether a claim nobody asks for is kept: what would be served at once, and not for ever."""
    if claim.gone is None or claim.nodes:
        return False
    # Set back, the clock would have what is not kept at all kept until then.
    return max(0.0, now - claim.gone) < kept_for(claim, platform=platform)


def kept_for(claim: Claim, *, platform: bool) -> float:
    """Seconds that a claim is kept after nobody asks for it any more."""
    proved = claim.proof is not None and claim.proof.how is not How.PLATFORM
    return KEPT_PLATFORM if platform else KEPT if proved else 0.0


def until_free(claims: Iterable[Claim], now: float) -> float | None:
    """Seconds until the next path is another network's to take; ``None`` where none is kept for one that has left it."""
    left = [at + KEPT_NETWORK - now for claim in claims if claim.left for at in claim.left.values() if _is_fresh(at, now)]
    return min(left, default=None)


def _is_fresh(left: float, now: float) -> bool:
    """Whether a path is still kept; a clock that was set back by more than that keeps none for as long as it was."""
    return abs(now - left) < KEPT_NETWORK


def _since(owner: Owner, mark: Released | None, now: float) -> float:
    return now if mark is None else mark.after(owner, now)


def _claim(asks: Sequence[Ask], claim: Claim, heard: Collection[str], now: float) -> Claim:
    """The claim as its owner's containers want it now; what nodes want that are not heard stays as it was."""
    if len(asks) == len(claim.paths) == 1 and not claim.left:
        # Mostly nothing is new, and there are thousands of these at every change.
        (ask,) = asks
        served = claim.networks.get(ask.path, "")
        there = claim.owner, claim.paths.get(ask.path), claim.nodes, served
        if (ask.owner, ask.service, (ask.node,), served if ask.network is None else ask.network) == there:
            return claim
    own = [ask for ask in asks if ask.owner == claim.owner]
    silent = {node for node in claim.nodes if node not in heard}
    paths: dict[str, str] = {}
    networks: dict[str, str] = {}
    left: dict[str, float] = {}
    for path, service in claim.paths.items():
        here, network = [ask for ask in own if ask.path == path], claim.networks.get(path)
        # Who does not say on which network it is may be on this one.
        services = [ask.service for ask in here if network is None or ask.network is None or ask.network == network]
        if service not in services and not silent:
            if network is None or not here:
                continue
            if services:
                service = services[0]  # a new one on the same network
            elif _is_fresh(since := claim.left.get(path, now), now):
                left[path] = since
            else:
                continue
        elif service not in services and path in claim.left:
            left[path] = claim.left[path]  # as long as not all are heard nothing ends
        paths[path] = service
        if network is not None:
            networks[path] = network
    for ask in own:
        if paths.setdefault(ask.path, ask.service) == ask.service and ask.network is not None:
            networks.setdefault(ask.path, ask.network)
    nodes = tuple(sorted(silent | {ask.node for ask in own}))
    gone = None if own or silent else claim.gone
    known = {path: network for path, network in sorted(networks.items()) if network}
    return Claim(
        claim.owner, claim.since, dict(sorted(paths.items())), claim.proof, nodes, gone, known, dict(sorted(left.items()))
    )


def _standing(claim: Claim, ruling: Ruling | None, *, platform: bool, believe: bool) -> Standing:
    if platform:
        return Standing.ACTIVE
    if ruling is not None and not ruling.allowed:
        return Standing.FORBIDDEN
    if claim.proof is not None:
        return Standing.ACTIVE
    if ruling is not None:
        return Standing.FORBIDDEN  # the operator keeps it for somebody else
    return Standing.ACTIVE if believe else Standing.UNPROVED
