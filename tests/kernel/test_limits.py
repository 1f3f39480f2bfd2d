"""A process that may open no more files says so, and goes on when it may."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from stackpad.errors import Unavailable
from tests.kernel.workbench import node
from tests.netns import eventually, run


@contextlib.contextmanager
def no_more_files() -> Iterator[None]:
    """What is open stays so, and nothing is added."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    # Every number below the limit is taken, or what is closed and opened again would still find room.
    with contextlib.ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
        with contextlib.suppress(OSError):
            while True:
                stack.callback(os.close, os.open("/dev/null", os.O_RDONLY))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_network_is_refused_for_now_and_made_later(netns: None, tmp_path: Path) -> None:
    async with node(tmp_path) as made:
        with no_more_files(), pytest.raises(Unavailable):
            await made.network(1)
        run("nft", "delete", "table", "inet", "stackpad")
        await made.network(2)
        await made.network(1)
        assert len(made.state.networks) == 2
        await eventually(lambda: "table inet stackpad" in run("nft", "list", "tables"), "the rules to come back")


async def test_what_is_destroyed_meanwhile_is_mended_later(netns: None, tmp_path: Path) -> None:
    async with node(tmp_path) as made:
        await made.network(1)
        (bridge,) = (network.bridge for network in made.state.networks.values())
        with no_more_files(), pytest.raises(Unavailable):
            await made.reconciler.settle(next(iter(made.state.networks)))
        run("ip", "link", "del", bridge)
        await eventually(lambda: bridge in run("ip", "link"), "the bridge to come back")
