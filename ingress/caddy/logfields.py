"""Whose visit a line of Caddy's access log is about: what is added to the owned object for it; pure.

A route keeps its owner and service in a variable, and Caddy's log reads it when the visit is over. Since 2.8 there are
handlers that add fields; before, the only field a configuration can fill is ``user_id``, which is of the user whom the
route has asked for a password, and empty otherwise.
"""

from __future__ import annotations

import re
from typing import Any

from ingress.owners.ledger import Owner

Json = dict[str, Any]

FIELDS = ("org", "project", "environment", "service")
"""What a line has, each with ``stackpad_`` before it."""

APPENDS = "log_append"
"""The handler that 2.6 does not know."""

WHO = "sp_who"
VALUE = f"{{http.vars.{WHO}}}"

USER = "{http.auth.user.id}"
"""What Caddy's log calls ``user_id``."""

_STRANGE = re.compile(r"[^A-Za-z0-9._-]")


def who(owner: Owner, service: str) -> str:
    """Owner and service in one; a service is what a tenant calls it, and Caddy replaces what stands in braces."""
    return f"{owner}/{_STRANGE.sub('_', service)}"


def keep(value: str) -> Json:
    """The handler that remembers it; ``value`` may be a placeholder, which is then looked up once and no more."""
    return {"handler": "vars", WHO: value}


def handlers(*, appends: bool) -> list[Json]:
    """What stands before everything of ours, and is done when a visit is over."""
    if not appends:
        return [_map([USER], "^(.+)$", ["$1"])]
    parts = [f"{{sp_log_{name}}}" for name in FIELDS]
    split = _map(parts, "^([^/]*)/([^/]*)/([^/]*)/(.*)$", ["$1", "$2", "$3", "$4"])
    added = zip(FIELDS, parts, strict=True)
    return [split, *({"handler": APPENDS, "key": f"stackpad_{name}", "value": part} for name, part in added)]


def _map(names: list[str], pattern: str, outputs: list[str]) -> Json:
    mapping = {"input_regexp": pattern, "outputs": outputs}
    return {
        "handler": "map",
        "source": VALUE,
        "destinations": names,
        "mappings": [mapping],
        "defaults": [""] * len(names),
    }
