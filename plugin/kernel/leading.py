"""Where the number of a stable upstream leads, as elements of the firewall's sets; pure."""

from __future__ import annotations

from collections.abc import Iterable

from plugin.kernel.dataplane import FILTER, Element
from plugin.upstreams import Target
from stackpad.upstreams import MOST

SLOTS = 16
"""Places among which a service's containers are spread; chosen by the source port without its lowest bit, which Linux
does not choose evenly."""


def elements(number: int, targets: Iterable[Target]) -> frozenset[Element]:
    """What the firewall needs so that ``number`` leads to ``targets``, all of which are there."""
    reached = sorted(set(targets), key=lambda target: (target.address, target.port))[:MOST]
    found = {Element(FILTER, "upstreams", str(number))}
    for version in (4, 6):
        ends = [f"{target.ip} . {target.port}" for target in reached if target.ip.version == version]
        if len(ends) == 1:
            found.add(Element(FILTER, f"upstream{version}", str(number), ends[0]))
        elif ends:
            found.update(
                Element(FILTER, f"upstream{version}_shared", f"{number} . {2 * slot}", ends[slot % len(ends)])
                for slot in range(SLOTS)
            )
    return frozenset(found)


def numbers(changed: Iterable[Element]) -> frozenset[int]:
    """The numbers that lead somewhere else with these elements."""
    return frozenset(int(element.key.partition(" ")[0]) for element in changed if element.set in _LEADING)


_LEADING = {f"upstream{version}{kind}" for version in (4, 6) for kind in ("", "_shared")}
