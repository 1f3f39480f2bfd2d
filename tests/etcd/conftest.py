"""Tests against real etcd, each with its own."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stackpad.etcd import Etcd
from tests.etcd.server import BINARY, Server, running

_NEEDED = {BINARY: "etcd-server", "openssl": "openssl", "setpriv": "util-linux"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is in this directory, and skip it, saying why, where a program is missing."""
    missing = [f"{program} (package {package})" for program, package in _NEEDED.items() if not shutil.which(program)]
    for item in items:
        if item.path.is_relative_to(config.rootpath / "tests" / "etcd"):
            item.add_marker(pytest.mark.etcd)
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"missing: {', '.join(missing)}"))


@pytest.fixture(params=["unix", "tcp"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    """One etcd, on a unix socket and on TCP."""
    async with running(tmp_path / "one", tcp=request.param == "tcp") as started:
        yield started


@pytest.fixture
async def etcd(server: Server) -> AsyncIterator[Etcd]:
    """Its client."""
    async with Etcd([server.url]) as opened:
        yield opened
