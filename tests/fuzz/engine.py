"""The types of what an engine says of a container: its own words for them, which a tenant cannot change.

Go writes a missing list or mapping as null (moby ``api/types``).
"""

from __future__ import annotations

from typing import TypedDict


class Health(TypedDict, total=False):
    Status: str


class Doing(TypedDict, total=False):
    Running: bool
    Paused: bool
    Restarting: bool
    StartedAt: str
    Health: Health | None


class Config(TypedDict, total=False):
    Labels: dict[str, str] | None
    ExposedPorts: dict[str, dict[str, str]] | None
    StopSignal: str


class Attached(TypedDict, total=False):
    NetworkID: str
    EndpointID: str
    IPAddress: str
    GlobalIPv6Address: str
    Aliases: list[str] | None
    DNSNames: list[str] | None


class Networks(TypedDict, total=False):
    Networks: dict[str, Attached] | None


class Container(TypedDict, total=False):
    """``GET /containers/<id>/json``."""

    Id: str
    Name: str
    Created: str
    State: Doing | None
    Config: Config | None
    NetworkSettings: Networks | None
