"""The isolation rules as ``nft`` is told them: fixed chains, and sets that say which links and addresses they are about.

Pure. The chains (:mod:`plugin.kernel.chains`) never change while the plugin runs; networks, endpoints and published ports
are elements of exact-match sets and verdict-free maps, so creating a network costs a handful of elements whatever
the number of networks, and a packet costs the same few hash look-ups. (Interval sets are kept out where they may grow: a
single large one in any table makes every element update on the machine slow, see ``docs/design.md``.)
"""

from __future__ import annotations

from collections.abc import Iterable

from plugin.kernel.chains import FILTER_CHAINS, SWITCH_CHAINS
from plugin.kernel.dataplane import FILTER, PREFIXES, SWITCH, Element

SETS = {
    (FILTER, "same_network"): "type ifname . ifname",
    (FILTER, "internal"): "typeof iifname",
    (FILTER, "no_egress"): "typeof iifname",
    (FILTER, "barred"): "typeof iifname",
    (FILTER, "own_gateway4"): "type ifname . ipv4_addr",
    (FILTER, "own_gateway6"): "type ifname . ipv6_addr",
    (FILTER, "node4"): "typeof ip daddr",
    (FILTER, "node6"): "typeof ip6 daddr",
    (FILTER, "uplink_bridges"): "typeof oifname",
    **{
        (FILTER, f"remote{version}_{length}"): f"typeof iifname . {'ip' if version == 4 else 'ip6'} daddr"
        for version, lengths in PREFIXES.items()
        for length in lengths
    },
    (FILTER, "tunnel_only4"): "typeof ip daddr; flags interval",
    (FILTER, "tunnel_only6"): "typeof ip6 daddr; flags interval",
    (FILTER, "mesh_self4"): "typeof ip daddr",
    (FILTER, "mesh_self6"): "typeof ip6 daddr",
    (FILTER, "peers4"): "typeof ip saddr",
    (FILTER, "peers6"): "typeof ip6 saddr",
    (FILTER, "gateways4"): "typeof ip saddr",
    (FILTER, "gateways6"): "typeof ip6 saddr",
    (FILTER, "web4"): "type ipv4_addr . inet_service",
    (FILTER, "web6"): "type ipv6_addr . inet_service",
    (FILTER, "guests4"): "typeof ip saddr",
    (FILTER, "mesh_services"): "typeof tcp dport",
    (FILTER, "join_service"): "typeof tcp dport",
    (FILTER, "stores"): "type ipv4_addr . inet_service",
    (FILTER, "upstreams"): "typeof tcp dport",
    (SWITCH, "senders4"): "type ifname . ether_addr . ipv4_addr",
    (SWITCH, "senders6"): "type ifname . ether_addr . ipv6_addr",
    (SWITCH, "own4"): "typeof iifname . @th,192,32",
    (SWITCH, "own6"): "typeof iifname . @th,64,128",
}
"""Sets by table and name, with their type.

``own4`` and ``own6`` have addresses as numbers: what a message is about has no name and no type of its own in ``nft``
before 1.0.9.

Sets of one field say ``typeof``: ``nft`` 1.0.6, which a node of Debian 12 has, ends with a segmentation fault when it
lists a set that a newer ``nft`` (1.1.3, in our root file system) declared with ``type``. Measured; with ``typeof``, and
with concatenations, it does not.
"""

MAPS = {
    (FILTER, "published4"): "type inet_proto . inet_service : ipv4_addr . inet_service",
    (FILTER, "published6"): "type inet_proto . inet_service : ipv6_addr . inet_service",
    (FILTER, "published4_at"): "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service",
    (FILTER, "published6_at"): "type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service",
    (FILTER, "upstream4"): "typeof tcp dport : ip daddr . tcp dport",
    (FILTER, "upstream6"): "typeof tcp dport : ip6 daddr . tcp dport",
    (FILTER, "upstream4_shared"): "type inet_service . inet_service : ipv4_addr . inet_service",
    (FILTER, "upstream6_shared"): "type inet_service . inet_service : ipv6_addr . inet_service",
}
"""Published ports, and stable upstreams: where a packet for the node goes."""


def _declarations(table: str) -> str:
    sets = "".join(f"set {name} {{ {kind}; }}\n" for (of, name), kind in SETS.items() if of == table)
    maps = "".join(f"map {name} {{ {kind}; }}\n" for (of, name), kind in MAPS.items() if of == table)
    return sets + maps


def install(elements: Iterable[Element]) -> str:
    """One transaction that puts both tables in place, whatever was there, with ``elements`` in them.

    The kernel swaps old for new at once: there is no moment without rules.
    """
    bodies = ((FILTER, FILTER_CHAINS), (SWITCH, SWITCH_CHAINS))
    lines = []
    for table, chains in bodies:
        # "add" before "delete" because deleting a table that is not there is an error.
        lines.append(f"add table {table}\ndelete table {table}\n")
        lines.append(f"table {table} {{\n{_declarations(table)}{chains}}}\n")
    return "".join(lines) + change(elements, ())


def change(new: Iterable[Element], old: Iterable[Element]) -> str:
    """One transaction that takes ``old`` elements out and puts ``new`` ones in; empty if there are none."""
    return _elements("delete", old) + _elements("add", new)


def _elements(verb: str, elements: Iterable[Element]) -> str:
    grouped: dict[tuple[str, str], list[str]] = {}
    for element in elements:
        # A map's element is deleted by its key alone.
        text = f"{element.key} : {element.value}" if element.value and verb == "add" else element.key
        grouped.setdefault((element.table, element.set), []).append(text)
    return "".join(
        f"{verb} element {table} {name} {{ {', '.join(sorted(keys))} }}\n"
        for (table, name), keys in sorted(grouped.items())
    )
