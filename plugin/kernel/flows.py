"""Forgets flows that connection tracking would go on steering where they no longer belong.

A flow keeps the redirection it began with. While a client keeps sending, a UDP flow to a published port would go on
to the address of a container that is gone, or past one that was published later; and an address that is given to
somebody else would inherit its predecessor's established connections: what the other side still sends would be passed to
him as answers, and he could answer.

So an address that somebody has had is not given away before its flows are forgotten. They are when it is left, usually
within some ten milliseconds; who comes later finds nothing to do. What was left before the plugin's start is not known.
"""

from __future__ import annotations

import ipaddress
import itertools
import threading
from collections.abc import Collection, Container, Iterable
from dataclasses import replace

from plugin.kernel import conntrack
from plugin.kernel.conntrack import Selection
from plugin.kernel.dataplane import SWITCH, Dataplane, Element


def address(element: Element) -> str:
    """The address whose owner this element lets send; empty for other elements, and for addresses that are not routed."""
    text = element.key.rpartition(" . ")[2]
    senders = element.table == SWITCH and element.set.startswith("senders")
    return text if senders and not text.startswith(("::", "fe80:")) else ""


def addresses(elements: Iterable[Element]) -> frozenset[str]:
    """Those of all elements."""
    return frozenset(map(address, elements)) - {""}


def udp_ports(new: Iterable[Element]) -> frozenset[Selection]:
    """The flows that are to be redirected anew, since a UDP port of theirs is published with these elements."""
    return frozenset(
        Selection(6 if "6" in element.set else 4, port=int(element.key.rpartition(" . ")[2]))
        for element in new
        if element.set.startswith("published") and " udp . " in f" {element.key}"
    )


def hold_back(wanted: Dataplane, there: Container[Element], late: Container[str]) -> Dataplane:
    """``wanted`` without those elements of the owners of ``late`` addresses that are not ``there``: all by which an
    owner sends, and is reached at a published port."""
    ports = {element.key.partition(" . ")[0] for element in wanted.elements if address(element) in late}
    if not ports:
        return wanted
    sending = {each for each in wanted.elements if each.table == SWITCH and each.key.partition(" . ")[0] in ports}
    ends = addresses(sending)
    reached = {
        each for each in wanted.elements if each.set.startswith("published") and each.value.partition(" . ")[0] in ends
    }
    held = {each for each in sending | reached if each not in there}
    return replace(wanted, elements=wanted.elements - held)


class Flows:
    """What is to be forgotten. Any thread notes it, and one forgets it (:meth:`forget`, blocking)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times = itertools.count()
        self._due: dict[Selection, int] = {}
        """With a number that is another one each time it is noted: it may be again while it is being done."""

    def note(self, gone: Iterable[str], redirected: Iterable[Selection] = ()) -> None:
        """Note that nobody may send from the addresses ``gone`` any more, and which flows lead somewhere else."""
        with self._lock:
            self._due.update((each, next(self._times)) for each in (*map(_of_address, gone), *redirected))

    def remembered(self, wanted: Collection[str]) -> frozenset[str]:
        """Those of ``wanted`` that may still have flows of who had them before."""
        with self._lock:
            return frozenset(each for each in wanted if _of_address(each) in self._due)

    def forget(self) -> None:
        """Forget all that was noted until now; what cannot be forgotten is tried again the next time."""
        with self._lock:
            noted = dict(self._due)
        done = conntrack.forget(noted.keys()) if noted else ()
        with self._lock:
            for selection in done:
                if self._due.get(selection) == noted[selection]:
                    del self._due[selection]


def _of_address(text: str) -> Selection:
    parsed = ipaddress.ip_address(text)
    return Selection(parsed.version, parsed.packed)
