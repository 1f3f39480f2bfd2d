"""A port that accepts once is up; one that does not is asked again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from ingress.following.health import Prober, Target
from ingress.following.ready import Ready
from ingress.routes import State
from tests.caddy.workshop import container, free_port


@asynccontextmanager
async def listening(port: int) -> AsyncIterator[None]:
    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", port):
        yield


@asynccontextmanager
async def probing() -> AsyncIterator[tuple[Prober, asyncio.Event]]:
    changed = asyncio.Event()
    prober = Prober(changed.set)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(prober.run())
        try:
            yield prober, changed
        finally:
            running.cancel()


async def accepts(prober: Prober, changed: asyncio.Event) -> None:
    async with asyncio.timeout(20):
        while not prober.accepting:
            await changed.wait()
            changed.clear()


async def test_a_server_that_listens_later_is_found() -> None:
    port = free_port()
    target: Target = ("id", "t1", "127.0.0.1", port)
    async with probing() as (prober, changed):
        await asyncio.sleep(0)
        prober.want([target])
        assert not prober.accepting
        async with listening(port):
            await accepts(prober, changed)
            assert prober.accepting == {target}
        changed.clear()
        prober.want([target])
        assert prober.accepting == {target}, "once is enough"


async def test_one_that_was_started_again_has_to_accept_again() -> None:
    port = free_port()
    first: Target = ("id", "t1", "127.0.0.1", port)
    second: Target = ("id", "t2", "127.0.0.1", port)
    async with probing() as (prober, changed):
        async with listening(port):
            prober.want([first])
            await accepts(prober, changed)
        prober.want([second])
        assert not prober.accepting
        changed.clear()
        async with listening(port):
            await accepts(prober, changed)
        assert prober.accepting == {second}


async def test_what_is_not_wanted_any_more_is_not_asked() -> None:
    target: Target = ("id", "t1", "127.0.0.1", free_port())
    async with probing() as (prober, changed):
        await asyncio.sleep(0)
        prober.want([target])
        prober.want([])
        await asyncio.sleep(0)
        async with listening(target[3]):
            prober.want([target])
            await accepts(prober, changed)
            assert prober.accepting == {target}
            prober.want([])
            assert not prober.accepting


async def test_it_is_known_when_all_have_been_tried() -> None:
    """What runs when the ingress starts is up, or not, from the first table on."""
    port = free_port()
    there: Target = ("there", "t1", "127.0.0.1", port)
    deaf: Target = ("deaf", "t1", "127.0.0.1", free_port())
    async with probing() as (prober, changed), listening(port):
        assert not prober.untried, "there is nobody to try"
        prober.want([there, deaf])
        assert prober.untried == {there, deaf}
        while prober.untried:
            await asyncio.wait_for(changed.wait(), 20)
            changed.clear()
        assert prober.accepting == {there}
        again: Target = ("there", "t2", "127.0.0.1", port)
        prober.want([again, deaf])
        assert prober.untried == {again}, "started again"


def test_the_start_does_not_wait_for_one_that_ends_again_and_again() -> None:
    """It would hold up everybody: each start is another one that has never been tried."""
    ready = Ready(lambda: None)  # which tries nobody as long as it does not run
    there = replace(container("web", port=80), state=State.STARTING, checked=False, started="t1")
    assert not ready.begun([there])
    assert not ready.begun([there])
    assert ready.begun([replace(there, started="t2")])
    assert ready.begun([replace(there, started="t3")])
