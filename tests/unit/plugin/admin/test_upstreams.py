"""The table of stable upstreams as its caller sees it: an answer means that the kernel has it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from plugin.admin.upstreams import UpstreamAdmin
from plugin.state import State
from tests.netns import eventually

TABLE = b'{"20001": ["10.1.2.3:8080"]}'


class Kernel:
    """A reconciler that takes its time."""

    def __init__(self) -> None:
        self.ready, self.failures = asyncio.Event(), dict[str, str]()
        self.ready.set()
        self.asked: list[set[int]] = []
        self.done = asyncio.Event()

    async def settle_upstreams(self, numbers: Iterable[int]) -> None:
        self.asked.append(set(numbers))
        await self.done.wait()


async def test_what_was_given_up_in_the_middle_is_waited_for_by_the_next_one(tmp_path: Path) -> None:
    kernel = Kernel()
    async with State(tmp_path / "net.db") as state:
        admin = UpstreamAdmin(state, cast(Any, kernel))
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(admin.change(TABLE))
            await eventually(lambda: kernel.asked == [{20001}], "a call that waits for the kernel")
            first.cancel()
            again = tasks.create_task(admin.change(TABLE))
            await eventually(
                lambda: kernel.asked[1:] == [{20001}], "a call: the table is the same, the kernel is not yet"
            )
            assert not again.done()
            again.cancel()
        kernel.done.set()
        await admin.replace(TABLE)
        await admin.replace(TABLE)
        assert kernel.asked[2:] == [{20001}, set()]
