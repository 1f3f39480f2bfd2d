"""Which containers of silent nodes answer, by real connections on loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from ingress.following import silent
from ingress.following.remote import Place
from ingress.following.silent import Silent

DEADLINE = 60.0
HERE = "127.0.0.1"


class Watched:
    """One at work, and how often it had something new to say."""

    def __init__(self) -> None:
        self.rounds = asyncio.Event()
        self.silent = Silent(self.rounds.set)

    async def comes(self, condition: Callable[[], bool]) -> None:
        """Return once it holds; looked at only when something new was said."""
        async with asyncio.timeout(DEADLINE):
            while not condition():
                await self.rounds.wait()
                self.rounds.clear()


@pytest.fixture
async def watched(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    monkeypatch.setattr(silent, "LOOK", 0.01)
    made = Watched()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(made.silent.run())
        yield made
        running.cancel()


def listening() -> tuple[socket.socket, Place]:
    """A server, and where."""
    made = socket.create_server((HERE, 0), backlog=1000)
    return made, (HERE, made.getsockname()[1])


def closed() -> Place:
    """Where nobody is."""
    made, place = listening()
    made.close()
    return place


async def test_who_answers_and_who_does_not(watched: Watched) -> None:
    server, place = listening()
    gone = closed()
    with server:
        watched.silent.want({"b": [place, gone]})
        assert watched.silent.answers(*gone), "nobody is taken for gone who has not been tried"
        await watched.comes(lambda: not watched.silent.answers(*gone))
        assert watched.silent.answers(*place)


async def test_one_that_ends_is_gone_and_one_that_comes_back_answers(watched: Watched) -> None:
    server, place = listening()
    watched.silent.want({"b": [place]})
    server.close()
    await watched.comes(lambda: not watched.silent.answers(*place))
    with socket.create_server(place):
        await watched.comes(lambda: watched.silent.answers(*place))


async def test_a_node_of_which_nobody_answers_is_not_waited_for(watched: Watched) -> None:
    """The first few stand for all: here the last one would answer, and is not asked; another node's is."""
    near, near_place = listening()
    far, far_place = listening()
    far.setblocking(False)
    with near, far:
        watched.silent.want({"dead": [*(closed() for _ in range(silent.FIRST)), far_place], "b": [near_place]})
        await watched.comes(lambda: not watched.silent.answers(*far_place))
        assert watched.silent.answers(*near_place)
        with pytest.raises(BlockingIOError):
            far.accept()


async def test_what_is_not_wanted_any_more_begins_anew(watched: Watched) -> None:
    gone = closed()
    watched.silent.want({"b": [gone]})
    await watched.comes(lambda: not watched.silent.answers(*gone))
    watched.silent.want({})
    assert watched.silent.answers(*gone)
