"""What of the engine's answers is shown: the fields that the ingress reads; pure.

The structs are the list of what passes; whatever else the engine says of a container, its environment, commands, mounts
and logs of health checks among it, is in none of them. A container that says nothing to us is its id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from ingress.engineview.rules import Resource
from stackpad import jsontext, labels
from stackpad.errors import Unavailable

ACTIONS = frozenset({
    "start", "restart", "unpause", "pause", "kill", "stop", "die", "destroy", "rename", "health_status",
    "connect", "disconnect",
})  # fmt: skip
"""Events that say something to the ingress. Not among them: ``exec_create``, which has the whole command in its name."""

LONGEST_REASON = 500
"""Characters of an error of the engine's."""

_Labels = dict[str, str]


class _Attachment(msgspec.Struct):
    NetworkID: str = ""
    EndpointID: str = ""
    IPAddress: str = ""
    GlobalIPv6Address: str = ""


class _Attachments(msgspec.Struct):
    Networks: dict[str, _Attachment] | None = None


class _Listed(msgspec.Struct):
    Id: str
    Names: list[str] | None = None
    State: str = ""
    Status: str = ""
    Labels: _Labels | None = None
    NetworkSettings: _Attachments | None = None


class _Health(msgspec.Struct):
    Status: str = ""


class _State(msgspec.Struct, omit_defaults=True):
    Running: bool = False
    Paused: bool = False
    Restarting: bool = False
    StartedAt: str = ""
    Health: _Health | None = None


class _Nothing(msgspec.Struct):
    pass


class _Config(msgspec.Struct, omit_defaults=True):
    Labels: _Labels | None = None
    ExposedPorts: dict[str, _Nothing] | None = None
    StopSignal: str | None = None


class _Host(msgspec.Struct, omit_defaults=True):
    NetworkMode: str = ""


class _Container(msgspec.Struct, omit_defaults=True):
    Id: str
    Name: str = ""
    Created: str = ""
    State: _State | None = None
    Config: _Config | None = None
    HostConfig: _Host | None = None
    NetworkSettings: _Attachments | None = None


class _Options(msgspec.Struct, omit_defaults=True):
    environment: str = msgspec.field(name=labels.ENVIRONMENT, default="")


class _Network(msgspec.Struct, omit_defaults=True):
    Id: str
    Name: str
    Driver: str
    Options: _Options | None = None


class _Info(msgspec.Struct):
    Name: str = ""


class _Version(msgspec.Struct, omit_defaults=True):
    Version: str
    ApiVersion: str
    MinAPIVersion: str = ""


class _Actor(msgspec.Struct):
    ID: str = ""
    Attributes: _Labels | None = None


class _Event(msgspec.Struct):
    Type: str = ""
    Action: str = ""
    Actor: _Actor | None = None


class _Error(msgspec.Struct):
    message: str = ""


_T = TypeVar("_T")


def shown(resource: Resource, body: bytes) -> bytes:
    """What of an answer is shown; raises :class:`Unavailable` where it is not what the engine answers such a question."""
    return _SHOWN[resource](body)


def event(line: bytes) -> bytes | None:
    """What of one event is shown, with the end of its line; ``None`` if nothing is."""
    told = _read(line, _Event)
    actor = told.Actor or _Actor()
    given = actor.Attributes or {}
    if told.Action.partition(":")[0] not in ACTIONS:
        return None
    if told.Type == "network":
        actor.Attributes = {key: value for key, value in given.items() if key == "container"}
    elif told.Type == "container" and labels.concerns(given):
        actor.Attributes = {key: value for key, value in given.items() if key == "signal" or labels.ours(key)}
    else:
        return None
    return msgspec.json.encode(told) + b"\n"


def error(body: bytes) -> bytes:
    """The engine's own words for why not."""
    try:
        words = jsontext.decode(body, type=_Error).message
    except msgspec.MsgspecError:
        words = ""
    return reason(words or "the engine gives no reason")


def reason(words: str) -> bytes:
    """Why not, as the engine says such things."""
    return msgspec.json.encode(_Error(words[:LONGEST_REASON]))


def _ping(_: bytes) -> bytes:
    return b"OK"


def _listed(body: bytes) -> bytes:
    return msgspec.json.encode([one for one in _read(body, list[_Listed]) if _trim(one)])


def _trim(one: _Listed) -> bool:
    """Whether an entry is one of ours; its labels are, then."""
    ours, one.Labels = labels.concerns(one.Labels or {}), _ours(one.Labels)
    return ours


def _container(body: bytes) -> bytes:
    found = _read(body, _Container)
    if found.Config is None or not labels.concerns(found.Config.Labels or {}):
        return msgspec.json.encode(_Container(found.Id))
    found.Config.Labels = _ours(found.Config.Labels)
    return msgspec.json.encode(found)


def _networks(body: bytes) -> bytes:
    """With the options of each, also where there are none: without any, they would be taken for not shown."""
    found = _read(body, list[_Network])
    for one in found:
        one.Options = one.Options or _Options()
    return msgspec.json.encode(found)


def _whole(kind: type[_T]) -> Callable[[bytes], bytes]:
    return lambda body: msgspec.json.encode(_read(body, kind))


def _ours(given: _Labels | None) -> _Labels:
    return {key: value for key, value in (given or {}).items() if labels.ours(key)}


def _read(body: bytes, kind: type[_T]) -> _T:
    try:
        return jsontext.decode(body, type=kind)
    except msgspec.MsgspecError as failed:
        raise Unavailable(f"the engine answers something else than expected: {failed}") from failed


_SHOWN: Mapping[Resource, Callable[[bytes], bytes]] = {
    Resource.PING: _ping,
    Resource.VERSION: _whole(_Version),
    Resource.INFO: _whole(_Info),
    Resource.NETWORKS: _networks,
    Resource.CONTAINERS: _listed,
    Resource.CONTAINER: _container,
}
