"""Fixtures of the plugin's unit tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from plugin.state import State
from tests.netns import netns as netns
from tests.served import Plugin, served


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[State]:
    """A state in a file of its own."""
    async with State(tmp_path / "net.db") as opened:
        yield opened


@pytest.fixture
async def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Plugin]:
    """A plugin that serves."""
    async with served(tmp_path, monkeypatch) as running:
        yield running
