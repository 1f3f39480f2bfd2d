"""Forgets flows that connection tracking would go on steering where they no longer belong.

A flow keeps the redirection it began with. While a client keeps sending, a UDP flow to a published port would go on
to the address of a container that is gone, or past one that was published later; and an address that is given to
somebody else would inherit its predecessor's established connections. Blocking; uses ``conntrack`` (8).
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator

import structlog

from plugin.dataplane import SWITCH, Element

_TIMEOUT = 10.0
_NONE_DELETED = 1


def taken(new: Iterable[Element]) -> Iterator[tuple[str, ...]]:
    """What ``conntrack`` must delete before these elements appear, as its arguments. Pure.

    Whoever gets an address must not inherit what others still send to it: it would be answered as an established flow.
    """
    for element in new:
        yield from _of_address(element)


def stale(new: Iterable[Element], old: Iterable[Element]) -> Iterator[tuple[str, ...]]:
    """What ``conntrack`` must delete after these elements appeared and disappeared, as its arguments. Pure."""
    for element in old:
        yield from _of_address(element)
    for element in new:
        if element.set.startswith("published") and " udp . " in f" {element.key}":
            family = "ipv6" if "6" in element.set else "ipv4"
            yield ("-f", family, "-p", "udp", "--orig-port-dst", element.key.rpartition(" . ")[2])


def _of_address(element: Element) -> Iterator[tuple[str, ...]]:
    address = element.key.rpartition(" . ")[2]
    if element.table == SWITCH and element.set.startswith("senders") and not address.startswith(("::", "fe80:")):
        family = "ipv6" if ":" in address else "ipv4"
        yield ("-f", family, "--orig-src", address)
        yield ("-f", family, "--reply-src", address)


def forget(selections: Iterable[tuple[str, ...]]) -> None:
    """Delete the flows of each selection; a failure is logged, for the flows run out by themselves."""
    for selection in selections:
        try:
            done = subprocess.run(
                ["conntrack", "-D", *selection], capture_output=True, text=True, timeout=_TIMEOUT, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            structlog.get_logger("flows").warning("flows not forgotten", selection=selection, reason=str(error))
            return
        if done.returncode not in {0, _NONE_DELETED}:
            structlog.get_logger("flows").warning("flows not forgotten", reason=done.stderr.strip())
