"""What may be asked of the engine through the view; pure.

It is what :mod:`stackpad.engine` asks. Of a request its target alone goes on: a path that is one of a few, and a query
that is written anew from what was read here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote_plus, urlencode

import msgspec

from stackpad import jsontext
from stackpad.errors import InvalidRequest, shown

LONGEST = 4096
"""Characters of a target; the longest that the ingress asks for has some five hundred."""


class Resource(StrEnum):
    """What there is to ask for."""

    PING = "/_ping"
    VERSION = "/version"
    INFO = "/info"
    EVENTS = "/events"
    NETWORKS = "/networks"
    CONTAINERS = "/containers/json"
    CONTAINER = "/containers/{id}/json"


@dataclass(frozen=True, slots=True)
class Question:
    """A request that is passed on: what it asks for, and the target it is put to the engine with."""

    resource: Resource
    target: str


_PATH = re.compile(
    r"(?:/v1\.[0-9]{1,2})?"
    r"(?:(?P<plain>/_ping|/version|/info|/events|/networks|/containers/json)"
    # An id, or a name as Docker allows it. It begins with a letter or a digit, so that it is no step upwards.
    r"|/containers/(?P<container>[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254})/json)"
)
_QUERY = re.compile(r"[A-Za-z0-9%+*:,._~=&-]*")
_FLAG, _NUMBER, _SECONDS = (
    re.compile(r"0|1|true|false"),
    re.compile(r"-?[0-9]{1,9}"),
    re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?"),
)
_NO = re.compile(r"0|false")
_WORD = re.compile(r"[a-z_]{1,40}")


def _like(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda value: pattern.fullmatch(value) is not None


def _filters(*known: str) -> Callable[[str], bool]:
    def fits(value: str) -> bool:
        try:
            filters = jsontext.decode(value, type=dict[str, list[str]])
        except msgspec.MsgspecError:
            return False
        return filters.keys() <= set(known) and all(_WORD.fullmatch(one) for words in filters.values() for one in words)

    return fits


_PARAMETERS: Mapping[Resource, Mapping[str, Callable[[str], bool]]] = {
    Resource.EVENTS: {"filters": _filters("type", "event"), "since": _like(_SECONDS), "until": _like(_SECONDS)},
    Resource.NETWORKS: {"filters": _filters()},
    # Sizes have the engine walk through all files of a container.
    Resource.CONTAINERS: {
        "all": _like(_FLAG), "limit": _like(_NUMBER), "trunc_cmd": _like(_FLAG), "size": _like(_NO),
        "filters": _filters("status"),
    },
    Resource.CONTAINER: {"size": _like(_NO)},
}  # fmt: skip


def read(method: str, target: str, headers: Collection[str] = (), *, body: bool = False) -> Question:
    """What a request asks for; ``headers`` are the names of those it has.

    Raises :class:`InvalidRequest` with what is wrong, for all that is not passed on.
    """
    what = f"{method if method.isalpha() and len(method) < 20 else shown(method)} {_path_of(target)}"
    path, mark, query = target.partition("?")
    found = _PATH.fullmatch(path) if len(target) <= LONGEST else None
    if found is None:
        raise InvalidRequest(f"{what} is not passed on to the engine: this view shows {', '.join(Resource)}")
    resource = Resource(found["plain"]) if found["plain"] else Resource.CONTAINER
    if method != "GET" and not (method == "HEAD" and resource is Resource.PING):
        raise InvalidRequest(f"{what} is not passed on to the engine: this view only shows, so it takes GET")
    if body:
        raise InvalidRequest(f"{what} is not passed on to the engine: it has a body")
    if any(name.lower() == "upgrade" for name in headers):
        raise InvalidRequest(f"{what} is not passed on to the engine: it asks for another protocol")
    values = _values(what, resource, query) if mark else {}
    return Question(resource, f"{path}?{urlencode(values)}" if values else path)


def _values(what: str, resource: Resource, query: str) -> dict[str, str]:
    known, values = _PARAMETERS.get(resource, {}), dict[str, str]()
    if not _QUERY.fullmatch(query):
        raise InvalidRequest(f"{what} is not passed on to the engine: its query {shown(query)} has other characters")
    for part in query.split("&") if query else ():
        name, _, coded = part.partition("=")
        value = unquote_plus(coded)
        if name in values or name not in known or not known[name](value):
            raise InvalidRequest(f"{what} is not passed on to the engine: {shown(part)} is no parameter for the view")
        values[name] = value
    return values


def _path_of(target: str) -> str:
    path = target.partition("?")[0]
    return path if path.isascii() and path.isprintable() and 0 < len(path) <= 120 else shown(path)
