"""What is told of slow containers goes with what is known of them."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path

import pytest

from ingress.app import Ingress
from ingress.following import patience
from ingress.following.follower import View
from ingress.routes import Problem
from ingress.settings import Settings
from tests.unit.ingress.following.test_patience import SLOW
from tests.unit.ingress.test_report import ENGINE


@pytest.fixture(autouse=True)
def told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE", 0.0)


def names(there: Ingress) -> list[str]:
    return [problem.name for problem in there._running.problems]


async def test_of_an_engine_that_does_not_answer_nobody_is_told_as_slow(tmp_path: Path) -> None:
    there = Ingress(Settings(base_domain="stackpad.test", state_dir=tmp_path), ENGINE)
    running = there._running
    running._slow.see([SLOW])
    running._slow_elsewhere.see([replace(SLOW, name="other", node="n2")])
    assert names(there) == ["web", "other"]
    running.follower.view = View(complete=True, stale=True)
    assert names(there) == ["other"]
    running.follower.view = View(complete=True)
    assert names(there) == ["web", "other"]


async def test_a_node_that_is_no_control_node_any_more_tells_nothing_of_others(tmp_path: Path) -> None:
    there = Ingress(Settings(base_domain="stackpad.test", state_dir=tmp_path, role="node"), ENGINE)
    there._running._elsewhere = [Problem("d" * 64, "wrong", "it asks for what cannot be", node="n2")]
    there._running._slow_elsewhere.see([replace(SLOW, node="n2")])
    assert names(there) == ["wrong", "web"]
    there._dirty.set()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            await there._follow()
    assert not names(there)
