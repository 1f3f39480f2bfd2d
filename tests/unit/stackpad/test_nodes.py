"""Which node is meant by a name or an id."""

from __future__ import annotations

import pytest

from stackpad.errors import Conflict, NotFound
from stackpad.nodes import identify

NAMES = {"id1": "one", "id2": "two", "id3": "two", "id4": "id1"}


@pytest.mark.parametrize(("text", "node"), [("one", "id1"), ("id2", "id2"), ("id1", "id1"), ("id4", "id4")])
def test_a_node_by_its_name_or_id(text: str, node: str) -> None:
    assert identify(text, NAMES) == node, "nobody takes another's id as a name"


def test_a_name_that_two_have_names_neither() -> None:
    with pytest.raises(Conflict, match="id2, id3"):
        identify("two", NAMES)


@pytest.mark.parametrize("text", ["", "three", "x" * 1000])
def test_no_node(text: str) -> None:
    with pytest.raises(NotFound, match="stackpad node ls") as told:
        identify(text, NAMES)
    assert len(str(told.value)) < 200
