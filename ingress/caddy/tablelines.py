"""Which hosts are a line of the table in Caddy, and what the line says; pure.

A line has as little as can be, since Caddy keeps an object for each word in it, reads all of them at every change, and
passes by them whenever it collects its garbage. So there are three lists instead of one with many columns: of hosts with
a stable upstream, of those with a container's address, and of those that nobody is up behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

from ingress.caddy import logfields, maps
from ingress.caddy.replies import Json
from ingress.routes import HostRoute, PathRoute
from ingress.upstreams.stable import is_stable


class List(StrEnum):
    """The lists, in the order in which a host is looked for; each is called after its first column."""

    NUMBER = "number"
    UP = "up"
    STATE = "state"


DIALS = (List.NUMBER, List.UP)
"""The lists whose first column is whom Caddy dials."""

TO, WHO = "to", "who"
"""Further columns: where a visitor is sent on to, and whose the host is."""

DOWN, MAINTENANCE, REDIRECT, UNKNOWN = "down", "maintenance", "redirect", "unknown"
"""What the first column of :attr:`List.STATE` can be; the last for hosts in no list."""


class Line(NamedTuple):
    """One host: the list it is in, and its words by column."""

    list: List
    words: Mapping[str, str]


Known = Mapping[int, tuple[HostRoute, Line | None]]
"""Hosts by their identity (``id``), each with its line, or ``None`` if it needs a route of its own."""


def known(hosts: Iterable[HostRoute], logs: bool, last: Known) -> Known:
    """The line of each host. ``last`` is the answer to the same question before: most hosts are still the same object.

    ``logs`` has the lines say whose the hosts are.
    """
    return {id(host): last.get(id(host)) or (host, _line(host, logs)) for host in hosts}


def tables(name: str, prefix: str, lines: Known, logs: bool) -> dict[List, list[Json]]:
    """The lists as maps by what ``name`` stands for; their placeholders begin with ``prefix``.

    Of the lists with upstreams those that nobody is in are left out, but for one if both are: what this Caddy can do is
    learnt from whether it takes what uses it.
    """
    by_list: dict[List, list[tuple[str, Mapping[str, str]]]] = {each: [] for each in List}
    for host, line in lines.values():
        if line is not None:
            by_list[line.list].append((host.host, line.words))
    alone = List.UP if not any(by_list[each] for each in DIALS) else None
    return {
        each: _maps(each, name, prefix, there, logs)
        for each, there in by_list.items()
        if there or each in {List.STATE, alone}
    }


def placeholder(prefix: str, column: str) -> str:
    """What Caddy has a column by."""
    return f"{{{prefix}{column}}}"


def whose(prefix: str, lists: Iterable[List]) -> str:
    """Whose a host is, in whichever list it is: the others have nothing there."""
    return "".join(placeholder(prefix, f"{each}_{WHO}") for each in lists)


def _maps(which: List, name: str, prefix: str, lines: list[tuple[str, Mapping[str, str]]], logs: bool) -> list[Json]:
    columns = [str(which)]
    if which is List.STATE and any(TO in words for _, words in lines):
        columns.append(TO)
    if logs:
        columns.append(WHO)
    called = [placeholder(prefix, f"{which}_{WHO}" if column == WHO else column) for column in columns]
    mappings = [{"input": host, "outputs": [words.get(column, "") for column in columns]} for host, words in lines]
    defaults = [UNKNOWN if which is List.STATE else "", *[""] * (len(columns) - 1)]
    return maps.maps(name, called, mappings, defaults)


def _line(host: HostRoute, logs: bool) -> Line | None:
    simple = host.simple
    if simple is None:
        return None
    which, words = _words(simple)
    return Line(which, {**words, WHO: logfields.who(host.owner, simple.service)} if logs else words)


def _words(simple: PathRoute) -> tuple[List, dict[str, str]]:
    if simple.redirect:
        return List.STATE, {List.STATE: REDIRECT, TO: simple.redirect}
    if simple.options.maintenance:
        return List.STATE, {List.STATE: MAINTENANCE}
    if simple.upstreams:
        (dial,) = simple.upstreams
        which = List.NUMBER if is_stable(dial) else List.UP
        return which, {which: dial}
    return List.STATE, {List.STATE: DOWN}
