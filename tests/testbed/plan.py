"""Names and addresses of a testbed; pure.

A testbed has a number on its machine, from which its addresses follow, and a name, from which its namespaces' do.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

ENGINES = ("debian12", "trixie", "forky", "legacy")
"""Engines a node can have, the oldest first; the last is Debian 13's with the old back end of iptables."""

USUAL = ("debian12", "forky")
"""What tests run on unless they are told otherwise: the oldest that is supported, and a current one."""

BASE_DOMAIN = "stackpad.test"

NAME_SERVER = "198.51.100.1"
"""What the nodes ask for names: in the namespace that plays the internet, with one name of its own."""

INTERNET_NAME = "internet.example"

OUTSIDE = ("198.51.100.1/32", "2001:db8:ffff::1/128", "169.254.169.254/32")
"""What the switch plays: two addresses of "the internet" (RFC 5737, RFC 3849) and a cloud's metadata service."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,15}")


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One node: its name, namespace, engine and addresses (without prefix length)."""

    name: str
    netns: str
    engine: str
    address: str
    address6: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole testbed; ``machine_link`` is the one interface it has in the machine's own namespace."""

    name: str
    number: int
    switch: str
    machine_link: str
    nodes: tuple[NodePlan, ...]

    @property
    def gateway(self) -> str:
        """The nodes' way out."""
        return f"10.89.{self.number}.254"

    @property
    def gateway6(self) -> str:
        """The nodes' way out for IPv6."""
        return f"fd89:{self.number:x}::fe"

    @property
    def machine_address(self) -> str:
        """The machine's own address in the testbed's network."""
        return f"10.89.{self.number}.253"


def free_number(taken: Collection[int]) -> int:
    """The lowest number that no testbed has; raises :class:`ValueError` where there is none."""
    for number in range(1, 200):
        if number not in taken:
            return number
    raise ValueError("199 testbeds are up on this machine; take one down first")


def make(name: str, number: int, count: int, engines: str) -> Plan:
    """The plan of a testbed of ``count`` nodes; ``engines`` is one for all, or a comma-separated one for each.

    Raises :class:`ValueError` for a name, number of nodes or engine there cannot be.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"testbed name {name!r}: use up to 16 lower-case letters, digits and '-', a letter first")
    if not 1 <= count <= 100:
        raise ValueError(f"{count} nodes: use 1 to 100")
    chosen = engines.split(",")
    if len(chosen) == 1:
        chosen *= count
    if len(chosen) != count:
        raise ValueError(f"{len(chosen)} engines for {count} nodes: name one, or one for each node")
    for engine in chosen:
        if engine not in ENGINES:
            raise ValueError(f"engine {engine!r} is unknown: there are {', '.join(ENGINES)}")
    nodes = tuple(
        NodePlan(
            name=f"n{index}",
            netns=f"stackpad-{name}-n{index}",
            engine=engine,
            address=f"10.89.{number}.{index}",
            address6=f"fd89:{number:x}::{index:x}",
        )
        for index, engine in enumerate(chosen, 1)
    )
    return Plan(name, number, f"stackpad-{name}-switch", f"sptest{number}", nodes)
