"""A Caddy that exists in memory only: takes what the real one would be told, so that it can be shown beforehand.

It begins with the real one's configuration and answers as its admin API does. What it cannot know is what the real one
would refuse, except for what it is told of.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ingress.caddy.adminapi import AdminApi
from ingress.caddy.config import digest

Found = tuple[Any, Any]
"""What holds a value, and its key or index there."""


class PlannedApi(AdminApi):
    """Changes ``tree``, a copy of a configuration. ``refused`` are fields that the real Caddy does not know."""

    def __init__(self, tree: Any, refused: Collection[str] = ()) -> None:
        super().__init__(Path("/"))
        self._root: dict[str, Any] = {"config": copy.deepcopy(tree)}
        self._unknown = tuple(refused)

    @property
    def planned(self) -> Any:
        """What the configuration has become."""
        return self._root["config"]

    async def _request(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        found = self._find(path)
        if method == "GET":
            if found is None:
                return 404, ""
            return 200, json.dumps(_at(*found))
        for word in self._unknown:
            if f'"{word}"' in json.dumps(body):
                return 400, json.dumps({"error": f'json: unknown field "{word}"'})
        if found is None:
            return 404, json.dumps({"error": f"nothing is at {path}"})
        return self._change(method, path, *found, copy.deepcopy(body))

    def _change(self, method: str, path: str, holder: Any, key: Any, body: Any) -> tuple[int, str]:
        there = _at(holder, key)
        if method == "DELETE":
            del holder[key]
        elif method == "PUT" and isinstance(holder, list):
            holder.insert(key, body)
        elif method == "PUT" and there is not None:
            return 409, json.dumps({"error": f"{path} is there already"})
        elif method == "POST" and isinstance(there, list):
            there.append(body)
        elif method == "PATCH" and there is None:
            return 404, json.dumps({"error": f"nothing is at {path}"})
        else:
            holder[key] = body
        return 200, ""

    def _find(self, path: str) -> Found | None:
        first, *steps = [step for step in path.split("/") if step]
        holder: Any = self._root
        key: Any = first
        if first == "id":
            found = next(_with_id(self._root, steps.pop(0)), None)
            if found is None:
                return None
            holder, key = found
        for step in steps:
            holder = _at(holder, key)
            if isinstance(holder, list):
                key = int(step)
            elif isinstance(holder, dict):
                key = step
            else:
                return None
        return holder, key


def secretive(tree: Any) -> Any:
    """A copy of a configuration that can be shown: what is secret is only the same where it was the same."""
    if isinstance(tree, list):
        return [secretive(one) for one in tree]
    if not isinstance(tree, dict):
        return tree
    shown: dict[str, Any] = {}
    for key, value in tree.items():
        if key == "provider" and isinstance(value, dict):
            shown[key] = {name: word if name == "name" else f"(secret {digest(word)})" for name, word in value.items()}
        elif key in {"password", "salt", "key_password"}:
            shown[key] = f"(secret {digest(value)})"
        else:
            shown[key] = secretive(value)
    return shown


def _at(holder: Any, key: Any) -> Any:
    if isinstance(holder, list):
        return holder[key] if key < len(holder) else None
    return holder.get(key)


def _with_id(node: Any, name: str) -> Iterator[Found]:
    places = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in places:
        if isinstance(value, dict) and value.get("@id") == name:
            yield node, key
        yield from _with_id(value, name)
