"""Address arithmetic: carving networks out of blocks, and addresses out of pools.

Pure. What is taken comes in as an argument and what is chosen goes out; who holds it is written elsewhere.
Choice is *next fit*: it goes on after the last one given and wraps around, so that an address just freed is the
last to be given again; stale ARP entries, conntrack flows and cached names have died by then.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Collection, Iterable, Iterator

from plugin.model import IPAddress, IPNet
from stackpad.errors import Conflict, Exhausted, InvalidRequest


def carve(blocks: Iterable[IPNet], prefix: int, taken: Collection[IPNet | str], after: IPNet | None = None) -> IPNet:
    """The next free range of length ``prefix`` in ``blocks`` that overlaps nothing in ``taken`` (may be in CIDR form).

    Looks first behind ``after`` (the last one given), then from the beginning. Steps over a whole taken range
    at once, so that a large one does not cost a look per small candidate. Raises :class:`Exhausted`.
    """
    blocks = tuple(blocks)
    intervals = {4: _intervals(taken, 4), 6: _intervals(taken, 6)}
    start = None if after is None else after.broadcast_address + 1 if _has_next(after) else None
    for begin in (start, None):
        for block in blocks:
            found = _first_free(block, prefix, intervals[block.version], begin)
            if found is not None:
                return found
        if start is None:
            break
    shown = ", ".join(map(str, _collapsed(blocks))) or "no block at all"
    raise Exhausted(
        f"no /{prefix} is free in {shown}; remove networks that are not needed (docker network prune), "
        "or name a range with --subnet"
    )


def _collapsed(blocks: Iterable[IPNet]) -> Iterator[IPNet]:
    blocks = tuple(blocks)
    yield from ipaddress.collapse_addresses(net for net in blocks if isinstance(net, ipaddress.IPv4Network))
    yield from ipaddress.collapse_addresses(net for net in blocks if isinstance(net, ipaddress.IPv6Network))


def _has_next(net: IPNet) -> bool:
    return int(net.broadcast_address) < (1 << net.max_prefixlen) - 1


def _intervals(nets: Iterable[IPNet | str], version: int) -> list[tuple[int, int]]:
    """First and last address of each range of a family, in order: a thousand of them are compared as numbers."""
    bounds = (_bounds(net if isinstance(net, str) else str(net)) for net in nets)
    return sorted({(first, last) for family, first, last in bounds if family == version})


def _first_free(block: IPNet, prefix: int, taken: list[tuple[int, int]], begin: IPAddress | None) -> IPNet | None:
    if prefix < block.prefixlen:
        return None
    size = 2 ** (block.max_prefixlen - prefix)
    position, end = int(block.network_address), int(block.broadcast_address)
    if begin is not None and begin.version == block.version:
        position = max(position, -(-int(begin) // size) * size)
    for first, last in taken:
        if last < position:
            continue
        if first >= position + size:
            break
        position = -(-(last + 1) // size) * size
    if position + size - 1 > end:
        return None
    network = ipaddress.IPv4Network if block.version == 4 else ipaddress.IPv6Network
    return network((position, prefix))


def allocate(pool: IPNet, within: IPNet, taken: Collection[IPAddress], after: IPAddress | None = None) -> IPAddress:
    """The next free host address of ``within``, a part of ``pool``; raises :class:`Exhausted`.

    An IPv4 pool's first and last address are its network and broadcast addresses (RFC 922 §7), an IPv6 pool's
    first is the subnet-router anycast address (RFC 4291 §2.6.1): never chosen.
    """
    first, last = _hosts(pool)
    first = max(first, int(within.network_address))
    last = min(last, int(within.broadcast_address))
    if first > last:
        raise Exhausted(f"no host address of {pool} lies in {within}; give a larger --ip-range")
    held = {int(address) for address in taken}
    begin = first if after is None or not first <= int(after) < last else int(after) + 1
    for candidate in _cycle(first, last, begin):
        if candidate not in held:
            return type(pool.network_address)(candidate)
    raise Exhausted(
        f"all {last - first + 1} addresses of {within} are in use; remove containers that are not needed, "
        "or create a larger network with --subnet"
    )


def _cycle(first: int, last: int, begin: int) -> Iterator[int]:
    yield from range(begin, last + 1)
    yield from range(first, begin)


def _hosts(pool: IPNet) -> tuple[int, int]:
    first, last = int(pool.network_address) + 1, int(pool.broadcast_address)
    return first, last - 1 if pool.version == 4 else last


def unzoned(text: str) -> str:
    """``text``, the form of an address, unless it names a zone (``fe80::1%eth0``); raises :class:`ValueError`.

    A zone makes two addresses of one, and :mod:`ipaddress` lets it be any text whatever.
    """
    if "%" in text:
        raise ValueError("an address with a zone is of one link only")
    return text


def check_host(pool: IPNet, address: IPAddress) -> None:
    """Raise :class:`InvalidRequest` unless ``address`` can be a host's in ``pool``."""
    if address.version != pool.version or address not in pool:
        raise InvalidRequest(f"address {address} does not lie in {pool}")
    first, last = _hosts(pool)
    if not first <= int(address) <= last:
        raise InvalidRequest(f"address {address} is the network or broadcast address of {pool}; take another")


@functools.lru_cache(maxsize=32768)
def _bounds(text: str) -> tuple[int, int, int]:
    net = ipaddress.ip_network(text)
    return net.version, int(net.network_address), int(net.broadcast_address)


def first_overlap(wanted: IPNet, others: Iterable[str]) -> str | None:
    """The first of ``others``, ranges in CIDR form, that overlaps ``wanted``."""
    version, first, last = _bounds(str(wanted))
    for text in others:
        family, begin, end = _bounds(text)
        if family == version and begin <= last and first <= end:
            return text
    return None


def refuse_overlap(wanted: IPNet, others: Iterable[tuple[IPNet, str]]) -> None:
    """Raise :class:`Conflict` if ``wanted`` overlaps one of ``others``, given with what to call them."""
    for net, name in others:
        if net.version == wanted.version and net.overlaps(wanted):
            raise Conflict(
                f"range {wanted} overlaps {net} of {name}; choose another with --subnet, "
                "or leave it out to have a free one chosen"
            )
