"""Who holds which range of addresses: choosing blocks and claiming networks' ranges, cluster-wide.

Pure. A *block* is what a node carves its networks from without asking anybody; every other range is claimed for the one
network that has it. All claims of the cluster come in as an argument; the caller writes the chosen one with a
compare-and-swap on :data:`stackpad.records.RANGES_LOCK`, so that nobody can have claimed anything in between.

The first network's worth of a block is the node's own: its first address is the node's in the tunnel, the others are
for those who join through it (:func:`mesh_address`, :func:`guest_address`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping

from plugin.model import IPAddress, IPNet, ip_network
from plugin.ranges import addresses
from stackpad import records
from stackpad.errors import Conflict, Exhausted, InvalidRequest

BLOCK6_PREFIX = 56
"""Prefix length of a node's IPv6 block: 256 networks of /64."""

NETWORK6_PREFIX = 64

COOL_DOWN = 600.0
"""Seconds until a range that was given back may be another node's: caches, flows and peers have forgotten it by then."""


def choose_block(
    within: IPNet,
    prefix: int,
    held: Iterable[records.Range],
    *,
    avoid: Collection[IPNet | str] = (),
    now: float,
    owner: str,
    after: IPNet | None = None,
) -> IPNet:
    """The next free block of length ``prefix`` in ``within``, behind ``after``.

    ``avoid`` are other ranges that must not be covered, such as the node's routes. A block given back by ``owner``
    itself may be had again at once. Raises :class:`Exhausted` naming what there is.
    """
    taken = [record.net for record in held if _bars(record, now, owner)]
    try:
        return addresses.carve((within,), prefix, [*taken, *avoid], after)
    except Exhausted as error:
        total = 2 ** (prefix - within.prefixlen)
        raise Exhausted(
            f"all {total} blocks of /{prefix} in {within} are taken, or were until {COOL_DOWN / 60:.0f} minutes ago; "
            "remove nodes that are gone (stackpad node ls, stackpad node rm)"
        ) from error


def former_block(whole: IPNet, prefix: int, back: Iterable[str], held: Iterable[records.Range]) -> IPNet | None:
    """The block among ``back``, what a node had before, that it may have again; ``None`` if there is none."""
    taken = [ip_network(record.net) for record in held if not record.freed]
    for net in map(ip_network, back):
        free = not any(net.version == other.version and net.overlaps(other) for other in taken)
        if free and net.prefixlen == prefix and within(net, whole):
            return net
    return None


def within(net: IPNet, other: IPNet) -> bool:
    """Whether ``net`` lies in ``other``."""
    return net.version == other.version and net.overlaps(other) and net.prefixlen >= other.prefixlen


def refuse_claim(
    net: IPNet, held: Iterable[records.Range], *, owner: str, names: Mapping[str, str], now: float, network: str = ""
) -> None:
    """Raise :class:`Conflict` if ``net`` overlaps a range that somebody else holds, naming node, range and remedy.

    ``names`` are the nodes' names by id. The claimant's own blocks are no obstacle, nor what ``network`` has already.
    """
    for record in held:
        other = ip_network(record.net)
        if other.version != net.version or not other.overlaps(net):
            continue
        if record.owner == owner and (record.block or record.network == network):
            continue
        if not _bars(record, now, owner):
            continue
        who = "this node" if record.owner == owner else f"node {names.get(record.owner, record.owner)}"
        what = f"a block of {who}" if record.block else f"a network of {who}"
        state = ", given back a short while ago" if record.freed else ""
        raise Conflict(
            f"range {net} overlaps {record.net}, {what}{state}; choose another with --subnet, or have one chosen: "
            "--ipam-driver stackpad, or address pools of this node's own (stackpad node init writes them)"
        )


def _bars(record: records.Range, now: float, owner: str) -> bool:
    if not record.freed:
        return True
    return record.owner != owner and now - record.freed < COOL_DOWN


def own_part(block: IPNet, network_prefix: int) -> IPNet:
    """The part of a block that is the node's own and no network's."""
    prefix = NETWORK6_PREFIX if block.version == 6 else max(network_prefix, block.prefixlen)
    return ip_network(f"{block.network_address}/{prefix}")


def mesh_address(block: IPNet) -> IPAddress:
    """The node's own address in the tunnel, by its first block."""
    return block.network_address + 1


def guest_address(block: IPNet, taken: Collection[IPAddress], network_prefix: int) -> IPAddress:
    """An address for somebody who joins through this node; raises :class:`Exhausted`."""
    part = own_part(block, network_prefix)
    for number in range(2, part.num_addresses - 1):
        candidate: IPAddress = ipaddress.ip_address(int(part.network_address) + number)
        if candidate not in taken:
            return candidate
    raise Exhausted(
        f"all {part.num_addresses - 3} addresses for joining nodes are in use; wait until tokens expire, "
        "or make the token on another node"
    )


def pools(blocks: Iterable[IPNet], network_prefix: int) -> list[dict[str, object]]:
    """Docker's ``default-address-pools`` for a node with ``blocks``: all of them but the node's own part."""
    found: list[dict[str, object]] = []
    for number, block in enumerate(blocks):
        if number and block.version == 4:
            rest: Iterable[IPNet] = (block,)
        else:
            own = own_part(block, network_prefix)
            rest = _without(block, own)
        size = NETWORK6_PREFIX if block.version == 6 else network_prefix
        found += [{"base": str(net), "size": size} for net in rest]
    return found


def without(net: IPNet, others: Iterable[IPNet]) -> list[IPNet]:
    """What of ``net`` is in none of ``others``."""
    parts = [net]
    for other in others:
        if any(within(part, other) for part in parts) or any(within(other, part) for part in parts):
            parts = [
                rest
                for part in parts
                if not within(part, other)
                for rest in (_without(part, other) if within(other, part) else [part])
            ]
    return parts


def _without(block: IPNet, part: IPNet) -> list[IPNet]:
    if isinstance(block, ipaddress.IPv4Network) and isinstance(part, ipaddress.IPv4Network):
        return sorted(block.address_exclude(part))
    if isinstance(block, ipaddress.IPv6Network) and isinstance(part, ipaddress.IPv6Network):
        return sorted(block.address_exclude(part))
    raise InvalidRequest(f"{part} is no part of {block}")
