"""The table of hosts as Caddy's ``map`` handlers; pure.

Caddy walks a map from its first line for each placeholder that is asked for (modules/caddyhttp/map/map.go), so that among
ten thousand hosts a request spends as long on the table as on all else. A large table is therefore in parts: some letters
of the host, found by one expression, are the key to the part it is in. A part is not looked at until somebody asks for
it, and all of them stand side by side, since Caddy reads what is within something once more for each level.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ingress.caddy.replies import Json

SHARE, MOST = 1000, 24
"""Hosts to a part (so many are one map), and how many parts there are at most: each is a step of every request's."""

SAMPLE = 512
"""Hosts that are looked at to choose the letters."""

LETTERS = (
    "^(.)",
    "^(..)",
    "^[^.]*([^.])[.]",
    "^[^.]*([^.]{2})[.]",
    "^(.)[^.]*([^.])[.]",
    "^(.)[^.]*[.](.)",
    "^[^.]*([^.]{2})[.]([^.])",
    "^(..)[^.]*[.](..)",
    "^[^.]*[.][^.]*([^.]{2})[.]",
)
"""What can be the key, in the syntax that Python's expressions and Go's share: most names differ somewhere there."""

NONE = "-"
"""The key of hosts that the expression does not fit; no host has a letter alone that is a hyphen in front of a dot."""


def maps(source: str, destinations: Sequence[str], mappings: Sequence[Json], defaults: Sequence[str]) -> list[Json]:
    """Handlers that set the placeholders ``destinations`` by the lines ``mappings``, each from one host (``input``).

    ``source`` is the placeholder with the host. Further placeholders that they need are named after the first
    destination.
    """
    count = min(MOST, -(-len(mappings) // SHARE))
    if count < 2:
        return [_map(source, destinations, mappings, defaults)]
    letters = best([mapping["input"] for mapping in mappings], count)
    keys = [key(letters, mapping["input"]) for mapping in mappings]
    # By a sum over the key and not by what fits best: a host that comes or goes moves no other.
    part_of = {each: zlib.crc32(each.encode()) % count for each in dict.fromkeys(keys)}
    parts: list[list[Json]] = [[] for _ in range(count)]
    for each, mapping in zip(keys, mappings, strict=True):
        parts[part_of[each]].append(mapping)
    # Caddy refuses lines that have a destination's name in them, whatever else it is a part of there: no host, address
    # or name of a service has a tilde in it, or a tenant could have the table refused.
    stem = destinations[0].strip("{}").replace("_", "~")
    found = f"{{{stem}~key}}"
    names = [[f"{{{stem}~{part}~{index}}}" for index in range(len(destinations))] for part in range(count)]
    groups = "".join(f"${{{group}}}" for group in range(1, re.compile(letters).groups + 1))
    return [
        _map(source, [found], [{"input_regexp": letters, "outputs": [groups]}], [NONE]),
        _map(found, destinations, [{"input": each, "outputs": names[part]} for each, part in part_of.items()], defaults),
        *(_map(source, names[part], lines, defaults) for part, lines in enumerate(parts) if lines),
    ]


@functools.lru_cache(maxsize=1 << 16)
def key(letters: str, host: str) -> str:
    """What of a host says which part it is in, by one of :data:`LETTERS`."""
    found = re.match(letters, host)
    return "".join(found.groups()) if found else NONE


def best(hosts: Sequence[str], parts: int) -> str:
    """The letters by which one of ``hosts`` is found in the fewest steps when they are in so many parts."""
    sample = hosts[:: len(hosts) // SAMPLE or 1]
    return min(LETTERS, key=lambda letters: _steps(Counter(key(letters, one) for one in sample), len(hosts), parts))


def _steps(sampled: Mapping[str, int], hosts: int, parts: int) -> float:
    """Lines that are passed on the way to a host, on average: those of keys, then those of hosts in its part."""
    size = sum(sampled.values())
    # As many keys as were seen once are still to be seen, in proportion (Good and Turing's estimate).
    keys = len(sampled) + (hosts - size) * sum(count == 1 for count in sampled.values()) / size
    shares = [count / size for count in sampled.values()]
    within = sum(share * (share + (1 - share) / parts) for share in shares) * hosts
    return (keys + within) / 2


def _map(source: str, destinations: Sequence[str], mappings: Sequence[Json], defaults: Sequence[str]) -> dict[str, Any]:
    return {
        "handler": "map",
        "source": source,
        "destinations": list(destinations),
        "mappings": list(mappings),
        "defaults": list(defaults),
    }
