"""Who is let in, and who is not."""

from __future__ import annotations

import pytest

from plugin.joinservice import refuse_key
from plugin.mesh import View
from stackpad import records
from stackpad.errors import Conflict

FIRST = records.Node(owner="a", name="first", public_keys=("old", "key"))


def test_a_copy_of_a_node_is_told_apart_from_it() -> None:
    view = View(nodes={"a": FIRST})
    with pytest.raises(Conflict, match="node first has this node's WireGuard key"):
        refuse_key(view, "key", "b")
    refuse_key(view, "another", "b")
    refuse_key(view, "key", "a")
    refuse_key(View(nodes={"a": FIRST}, removed=frozenset({"a"})), "key", "b")
