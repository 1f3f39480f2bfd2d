"""Processes of a testbed, which lives longer than their ids."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.testbed import shell


@pytest.mark.parametrize(("before", "now"), [(0, None), (None, 0), (1, 1)])
def test_a_process_is_the_latest_that_was_given_its_id(
    monkeypatch: pytest.MonkeyPatch, before: int | None, now: int | None
) -> None:
    children = [SimpleNamespace(pid=4711, poll=lambda ended=ended: ended) for ended in (before, now)]
    monkeypatch.setattr(shell, "_CHILDREN", children)
    assert shell.alive(4711) is (now is None)
