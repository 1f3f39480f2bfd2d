"""Our two nftables tables, through ``nft``: one transaction per change, and a cheap look whether they are intact.

Blocking, and meant for the kernel thread. Every change of any table on the machine raises the ruleset's
generation id (``NFT_MSG_GETGEN``, linux/netfilter/nf_tables.h); as long as it rose by our own transactions only,
our tables are what we wrote, and nobody need list them.
"""

from __future__ import annotations

import hashlib
import json
import socket
import struct
from collections.abc import Iterable
from typing import Any

from plugin.kernel import commands, ruleset
from plugin.kernel.dataplane import FILTER, SWITCH, Element
from stackpad.errors import Unavailable

_NETLINK_NETFILTER = 12
_GETGEN = (10 << 8) | 16
_NLM_F_REQUEST = 1
_HEADER = struct.Struct("=IHHII")
_GENERATION_ATTRIBUTE = 1
_TIMEOUT = 10.0
_QUIET_TRIES = 5


class Firewall:
    """The tables ``inet stackpad`` and ``bridge stackpad``."""

    def __init__(self) -> None:
        self._generation = -1
        self._fingerprint = ""

    def install(self, elements: Iterable[Element]) -> None:
        """Put both tables in place with ``elements``, whatever is there now, in one transaction.

        What the rules look like when they are intact is learnt here, and only from a moment in which nobody else wrote:
        otherwise their damage would be taken for the original. Raises :class:`Unavailable` if there is no such moment.
        """
        script = ruleset.install(elements)
        for _ in range(_QUIET_TRIES):
            before = generation()
            _nft(script)
            written = generation()
            listing = _list()
            if generation() == written == before + 1:
                self._fingerprint, self._generation = _fingerprint(listing), written
                return
        raise Unavailable("somebody keeps changing nftables while our tables are put in place; trying again")

    def apply(self, new: Iterable[Element], old: Iterable[Element]) -> None:
        """Take ``old`` out and put ``new`` in, in one transaction.

        Raises :class:`Unavailable` if the tables are not as they should be; then nothing has changed.
        """
        script = ruleset.change(new, old)
        if not script:
            return
        before = generation()
        _nft(script)
        after = generation()
        # Someone else wrote in between, or before: leave the old value, so that intact() looks closely.
        if before == self._generation and after == before + 1:
            self._generation = after

    def intact(self) -> bool:
        """Whether nobody has written to nftables but us; the price of one system call."""
        return generation() == self._generation

    def observe(self) -> frozenset[Element] | None:
        """The elements in our sets, or ``None`` if the tables, chains or rules are not what was installed."""
        current = generation()
        listing = _list()
        if not self._fingerprint or _fingerprint(listing) != self._fingerprint:
            return None
        self._generation = current
        return frozenset(_listed_elements(listing))

    def remove(self) -> None:
        """Take both tables away; for an uninstallation, never for a stop."""
        for table in (FILTER, SWITCH):
            _nft(f"add table {table}\ndelete table {table}\n")


def generation() -> int:
    """The ruleset's generation id in this network namespace; -1 if the kernel does not say.

    Raises :class:`Unavailable` if it does not answer at all.
    """
    try:
        return _ask_generation()
    except OSError as error:
        raise Unavailable(f"the kernel does not say how nftables are: {error}") from error


def _ask_generation() -> int:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as channel:
        channel.settimeout(_TIMEOUT)
        channel.bind((0, 0))
        channel.send(_HEADER.pack(20, _GETGEN, _NLM_F_REQUEST, 1, 0) + bytes(4))
        answer = channel.recv(4096)
    position = _HEADER.size + 4
    while position + 4 <= len(answer):
        length, kind = struct.unpack_from("=HH", answer, position)
        if kind & 0x3FFF == _GENERATION_ATTRIBUTE:
            return int(struct.unpack_from(">I", answer, position + 4)[0])
        position += max(4, (length + 3) & ~3)
    return -1


def _nft(script: str) -> str:
    return _run("-f", "-", script=script)


def _run(*arguments: str, script: str = "") -> str:
    done = commands.run("nft", *arguments, script=script, package="nftables")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        raise Unavailable(f"nft refused a change of the firewall: {reason}")
    return done.stdout


def _list() -> list[dict[str, Any]]:
    listing: list[dict[str, Any]] = []
    for table in (FILTER, SWITCH):
        try:
            listing += json.loads(_run("-j", "list", "table", *table.split()))["nftables"]
        except Unavailable:
            return []  # not there
    return listing


def _fingerprint(listing: list[dict[str, Any]]) -> str:
    """A digest of chains and rules, without counters and elements."""
    fixed: list[Any] = []
    for item in listing:
        for kind in ("chain", "rule"):
            if kind in item:
                body = {key: value for key, value in item[kind].items() if key != "handle"}
                if "expr" in body:
                    body["expr"] = [part for part in body["expr"] if "counter" not in part]
                fixed.append((kind, body))
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest() if fixed else ""


def _listed_elements(listing: list[dict[str, Any]]) -> Iterable[Element]:
    for item in listing:
        body = item.get("set") or item.get("map")
        if body is None:
            continue
        table = f"{body['family']} {body['table']}"
        for element in body.get("elem", ()):
            key, value = element if "map" in item else (element, "")
            yield Element(table, body["name"], _text(key), _text(value))


def _text(value: Any) -> str:
    if isinstance(value, dict):
        if "elem" in value:
            return _text(value["elem"]["val"])
        if "prefix" in value:
            return f"{value['prefix']['addr']}/{value['prefix']['len']}"
        return " . ".join(map(_text, value["concat"]))
    return str(value)
