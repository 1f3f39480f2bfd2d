"""What each member of a cluster may do in an etcd with users: roles, and the commands that make them. Pure.

A node writes below its own id only. What is shared are the ranges, which are claimed by compare-and-swap, and their
lock. A control node lets others in and removes them, so it writes the records of all. A node's own tombstone is not its
own: one that is removed could delete it, and be back. See ``docs/store.md``.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from stackpad import records

NODE, CONTROL, INGRESS = "stackpad-node", "stackpad-control", "stackpad-ingress"
"""Roles that several users have: every node; those that admit and remove nodes; those where visitors come in."""


@dataclass(frozen=True, slots=True)
class Permission:
    """Leave for one ``key``, or for all keys that begin with it."""

    kind: Literal["read", "readwrite"]
    key: str
    prefix: bool


SHARED = {
    NODE: (
        Permission("read", records.ROOT, prefix=True),
        Permission("readwrite", records.RANGES, prefix=True),
        Permission("readwrite", records.RANGES_LOCK, prefix=False),
    ),
    CONTROL: (Permission("readwrite", records.ROOT, prefix=True),),
    INGRESS: (Permission("readwrite", records.HOSTS, prefix=True),),
}
"""What the shared roles may do."""


def own(node: str) -> tuple[Permission, ...]:
    """What is node ``node``'s alone, by its id; raises :class:`InvalidRequest` for one that cannot be part of a key."""
    single = (records.NODES, records.ALIVE, records.INGRESSES)
    return (
        *(Permission("readwrite", records.key(kind, node), prefix=False) for kind in single),
        *(Permission("readwrite", records.key(kind, node) + "/", prefix=True) for kind in records.PER_NODE),
    )


def shared_commands() -> list[str]:
    """Commands for etcdctl that make the shared roles, once for a cluster."""
    return [line for role, permissions in SHARED.items() for line in _role(role, permissions)]


def node_commands(node: str, user: str) -> list[str]:
    """Commands for etcdctl that make the role of one node, by its id, and give it to ``user``."""
    role = f"stackpad-{node}"
    return [*_role(role, own(node)), shlex.join(["etcdctl", "user", "grant-role", user, role])]


def _role(role: str, permissions: Iterable[Permission]) -> list[str]:
    lines = [["etcdctl", "role", "add", role]]
    for one in permissions:
        options = ["--prefix=true"] if one.prefix else []
        lines.append(["etcdctl", "role", "grant-permission", *options, role, one.kind, one.key])
    return [shlex.join(line) for line in lines]
