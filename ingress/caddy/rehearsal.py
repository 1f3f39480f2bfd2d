"""The next write to Caddy as a difference, without writing it."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from typing import Any

from ingress.caddy import config, logfields, named, survey
from ingress.caddy.adapter import STREAMS, Caddy
from ingress.caddy.plannedapi import PlannedApi, secretive
from ingress.routes import Table

CONTEXT = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """What Caddy would be told: the difference in lines as ``diff -u`` has them, and in how many requests."""

    diff: str
    writes: int
    rejected: dict[str, str]


async def rehearse(caddy: Caddy, table: Table) -> Plan:
    """What ``caddy`` would be told for ``table`` now; raises :class:`stackpad.errors.Unavailable` without a Caddy."""
    tree = await caddy.tree()
    api = PlannedApi(tree, {*caddy.lacks, *lacking(tree)})
    applied = await caddy.rehearsal(api).apply(table)
    return Plan(difference(tree, api.planned), applied.writes, applied.rejected)


def lacking(tree: Any) -> set[str]:
    """Words that Caddy does not know, as far as what an ingress has put there before shows it."""
    ours = json.dumps(survey.find(tree, config.OBJECT))
    found = {
        STREAMS: '"reverse_proxy"' in ours and STREAMS not in ours,
        logfields.APPENDS: logfields.USER in ours,
        named.GRACE: '"dynamic_upstreams"' in ours and named.GRACE not in ours,
    }
    return {word for word, lacks in found.items() if lacks}


def difference(before: Any, after: Any) -> str:
    """Two configurations as a unified diff; empty where they are the same."""
    there, then = (json.dumps(secretive(tree or {}), indent=2, sort_keys=True).split("\n") for tree in (before, after))
    lines = difflib.unified_diff(there, then, "Caddy has", "the ingress would write", n=CONTEXT, lineterm="")
    return "".join(f"{line}\n" for line in lines)
