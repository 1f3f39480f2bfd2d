"""The table is made again when something in it ends by the time alone."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ingress import current
from ingress.app import Ingress
from ingress.following.follower import View
from ingress.owners.deciding import KEPT_NETWORK
from ingress.routes import Table
from ingress.settings import Settings
from tests.unit.ingress.test_report import ENGINE
from tests.unit.ingress.test_routes import BASE, HOST, made, on


async def test_a_path_that_is_kept_for_a_network_is_free_without_any_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Ingress(Settings(base_domain=BASE, state_dir=tmp_path, role="control"), ENGINE)
    running, twin = there._running, on("blog", 2)
    left = made(twin, before=made(on("blog-production", 1), twin), now=100.0)
    there._ownership.decide(left)
    running.follower.view = View({twin.id: twin}, complete=True)
    clock = iter([100.01 + KEPT_NETWORK - 0.05, 100.0 + KEPT_NETWORK])
    tables: list[Table] = []

    async def place(table: Table, *_: Any) -> tuple[Table, float | None]:
        tables.append(table)
        return table, None

    monkeypatch.setattr(current, "time", SimpleNamespace(time=lambda: next(clock, 100.0 + KEPT_NETWORK)))
    monkeypatch.setattr(running, "waiting_for", lambda: None)
    monkeypatch.setattr(running, "complete", lambda: False)
    monkeypatch.setattr(running, "containers", lambda: [twin])
    monkeypatch.setattr(there._switch, "place", place)
    there._dirty.set()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            await there._follow()
    assert [[host.host for host in table.hosts] for table in tables] == [[], [HOST]]
