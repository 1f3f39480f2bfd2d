"""Every test here that asks for ``netns`` runs in a network namespace of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from plugin.kernel.links import Links, Trash
from plugin.kernel.switches import Switches
from tests.kernel.frames import bench as bench
from tests.netns import PROC, Namespace
from tests.netns import netns as netns

_NEEDED = ("nft", "ip", "iptables-nft", "ip6tables-nft", "conntrack")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is in this directory, and skip it, saying why, where a program is missing."""
    missing = [program for program in _NEEDED if shutil.which(program) is None]
    for item in items:
        if item.path.is_relative_to(config.rootpath / "tests" / "kernel"):
            item.add_marker(pytest.mark.kernel)
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"missing: {', '.join(missing)}"))


@pytest.fixture
def links(netns: None) -> Iterator[Links]:
    opened = Links(Switches(PROC))
    yield opened
    opened.close()


@pytest.fixture
def trash(netns: None) -> Iterator[Trash]:
    opened = Trash()
    yield opened
    opened.close()


@pytest.fixture
def container(netns: None) -> Iterator[Namespace]:
    """Another namespace."""
    opened = Namespace()
    yield opened
    opened.close()
