"""Which node is meant. Pure.

A cluster refuses a name that another node has when a node joins, but a member writes its own record later on and may call
itself what it likes: a name that two nodes have names neither.
"""

from __future__ import annotations

from collections.abc import Mapping

from stackpad.errors import Conflict, NotFound


def identify(text: str, names: Mapping[str, str]) -> str:
    """The id of the node that ``text`` is the id or the name of; ``names`` are the nodes' names by id.

    Raises :class:`NotFound` if there is none, :class:`Conflict` if several have the name.
    """
    if text in names:
        return text
    found = sorted(node for node, name in names.items() if name == text)
    if not found:
        raise NotFound(f"there is no node {ascii(text)[:80]}; stackpad node ls lists them")
    if len(found) > 1:
        raise Conflict(f"{len(found)} nodes are called {ascii(text)[:80]}; say which by its id: {', '.join(found)}")
    return found[0]
