"""The place of a node that comes in: its record, its blocks, and the ranges its networks have already.

Pure. What the node says of itself comes from somebody who has nothing but a token, which may have been found. It is all
read before anything is claimed for it: what is refused leaves nothing behind.
"""

from __future__ import annotations

import hashlib
import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

from plugin.joining import tokens
from plugin.model import IPNet, ip_network
from plugin.ranges import blocks, notation
from plugin.store.mesh import View
from stackpad import records
from stackpad.errors import Conflict, InvalidRequest

RANGES = 1024
"""Ranges of its networks that a node may name. Each is compared with all that are held, while Docker's calls wait."""

CLAIMS = 97
"""Those of them that are not in its blocks: with these and the lock they are one transaction of the store."""

ENDPOINTS = 256
"""Addresses that are kept, the best ones; the node itself writes all of them when it is in."""

WORDS = 200
"""Characters of a version."""

FAMILIES = (4, 6)


def node_id(digest: str) -> str:
    """The id of the node that comes with a token, by the token's digest.

    The same each time it asks: what was claimed for it by a request whose answer got lost is found again.
    """
    return hashlib.sha256(f"node {digest}".encode()).hexdigest()[:12]


def node(asked: tokens.JoinRequest, owner: str, now: float) -> records.Node:
    """The record of the node, without its addresses in the tunnel; raises :class:`InvalidRequest`."""
    if not 0 <= asked.mtu <= 65536:
        raise InvalidRequest("the joining node's link has an MTU that is none; use one version on all nodes")
    return records.check(
        records.Node(
            owner=owner,
            name=tokens.name(asked.name),
            public_keys=(asked.public_key,),
            endpoints=asked.endpoints[:ENDPOINTS],
            mtu=asked.mtu,
            engine=asked.engine[:WORDS],
            version=asked.version[:WORDS],
            joined=now,
        )
    )


def networks(asked: tokens.JoinRequest) -> list[IPNet]:
    """The ranges of the node's networks, each once; raises :class:`InvalidRequest` for what no network can have."""
    if len(asked.ranges) > RANGES:
        raise InvalidRequest(
            f"this node has more than {RANGES} ranges of networks; remove some (docker network prune), then join again"
        )
    try:
        return list(dict.fromkeys(notation.range_of(text) for text in asked.ranges))
    except InvalidRequest as error:
        raise InvalidRequest(f"the joining node has a network that cannot be in a cluster: {error}") from error


def known(held: Sequence[records.Range], *more: Iterable[records.Range]) -> list[records.Range]:
    """``held``, what the store has, and of ``more`` what it has not, or has no longer: a store that was wiped, or a node
    that has not written its own ranges yet, makes no range free.
    """
    found = {record.net: record for records_ in reversed(more) for record in records_ if not record.freed}
    return list((found | {record.net: record for record in held}).values())


def ranges(
    view: View,
    held: Sequence[records.Range],
    owner: str,
    own: Sequence[IPNet],
    cluster: records.Cluster,
    *,
    former: str = "",
    now: float,
) -> list[records.Range]:
    """A block of each family for node ``owner``, and the ranges ``own`` that its networks have already.

    ``held`` are the cluster's ranges; what is ``owner``'s among them stays its own. ``former`` is the id it had before.
    Raises :class:`Conflict` or :class:`~stackpad.errors.Exhausted`.
    """
    names = {node.owner: node.name for node in view.nodes.values()}
    # What the node gave back when it was last a member cools down for others, not for itself.
    back = [record.net for record in held if record.freed and former and record.owner == former]
    mine = {record.net: record for record in held if record.owner == owner and not record.freed}
    ever, held = held, [record for record in held if record.net not in back]
    near = _Near(held)
    for net in own:
        try:
            blocks.refuse_claim(net, near.to(net), owner=owner, names=names, now=now)
        except Conflict as error:
            raise Conflict(f"a network of the joining node is in the way: {error}") from error
    found = [_block(version, cluster, held, back, mine.values(), own, owner, now) for version in FAMILIES]
    outside = [net for net in own if not any(blocks.within(net, block) for block in found)]
    if len(outside) > CLAIMS:
        raise Conflict(
            f"this node's networks have {len(outside)} ranges outside of its blocks, and {CLAIMS} can be claimed at "
            "once; remove some (docker network prune), then join again"
        )
    chosen = [
        *(mine.get(str(block)) or _claimed(str(block), ever, owner, block=True) for block in found),
        *(mine.get(str(net)) or _claimed(str(net), ever, owner, block=False) for net in outside),
    ]
    return [*chosen, *(record for record in mine.values() if record not in chosen)]


def _block(
    version: int,
    cluster: records.Cluster,
    held: Sequence[records.Range],
    back: Iterable[str],
    mine: Iterable[records.Range],
    own: Sequence[IPNet],
    owner: str,
    now: float,
) -> IPNet:
    for record in mine:
        net = ip_network(record.net)
        if record.block and net.version == version:
            return net
    text, prefix = (cluster.range4, cluster.block_prefix) if version == 4 else (cluster.range6, blocks.BLOCK6_PREFIX)
    whole = ip_network(text)
    return blocks.former_block(whole, prefix, back, held) or blocks.choose_block(
        whole, prefix, held, avoid=own, now=now, owner=owner
    )


class _Near:
    """Ranges by what they overlap: a thousand against thousands, each in a few steps."""

    def __init__(self, held: Iterable[records.Range]) -> None:
        bounds: dict[int, list[tuple[int, int, int, records.Range]]] = {version: [] for version in FAMILIES}
        for number, record in enumerate(held):
            net = ip_network(record.net)
            bounds[net.version].append((int(net[0]), int(net[-1]), number, record))
        self._sorted = {version: sorted(entries) for version, entries in bounds.items()}
        self._firsts = {version: [entry[0] for entry in entries] for version, entries in self._sorted.items()}
        # The highest address so far: where it is below a range, so are all before.
        self._tops = {
            version: list(itertools.accumulate((entry[1] for entry in entries), max))
            for version, entries in self._sorted.items()
        }

    def to(self, net: IPNet) -> list[records.Range]:
        """Those that overlap ``net``."""
        low, high = int(net[0]), int(net[-1])
        begin, end = bisect_left(self._tops[net.version], low), bisect_right(self._firsts[net.version], high)
        return [record for _, last, _, record in self._sorted[net.version][begin:end] if last >= low]


def _claimed(net: str, ever: Sequence[records.Range], owner: str, *, block: bool) -> records.Range:
    generation = max((r.generation for r in ever if r.net == net), default=0) + 1
    return records.Range(owner=owner, net=net, block=block, generation=generation)


def refuse_name(view: View, name: str, owner: str) -> None:
    """Raise :class:`Conflict` if another node has the name."""
    for other in view.nodes.values():
        if other.name == name and other.owner not in {owner, *view.removed}:
            hint = "give another one with --name" if other.owner in view.alive else f"stackpad node rm {name} frees it"
            raise Conflict(f"there is a node {name} already; {hint}")


def refuse_key(view: View, key: str, owner: str) -> None:
    """Two nodes with one key would be one peer to all others: the second would take the first one's place."""
    for other in view.nodes.values():
        if key in other.public_keys and other.owner not in {owner, *view.removed}:
            raise Conflict(
                f"node {other.name} has this node's WireGuard key: if this machine is a copy of that one, remove "
                "/var/lib/stackpad/keys here and enable the plugin anew; if that one is gone, stackpad node rm "
                f"{other.name} frees it"
            )
