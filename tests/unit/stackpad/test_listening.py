"""Which of a socket's two names is gone by, whoever listens where."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from stackpad.listening import Place, answers


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def listen(stack: ExitStack, path: Path, backlog: int = 5) -> None:
    """Listen there for as long as the test goes on."""
    path.parent.mkdir(exist_ok=True)
    bound = stack.enter_context(socket.socket(socket.AF_UNIX))
    bound.bind(str(path))
    bound.listen(backlog)


def left(path: Path) -> None:
    """The name that a killed process leaves."""
    with ExitStack() as stack:
        listen(stack, path)
    assert path.is_socket()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "own" / "new.sock", tmp_path / "old.sock")


def test_its_own_name_is_gone_by(place: Place, stack: ExitStack) -> None:
    assert place.now == place.path, "nobody is there: the error is to name this one"
    listen(stack, place.path)
    assert place.now == place.path
    assert place.older is not None
    listen(stack, place.older)
    assert place.now == place.path


@pytest.mark.parametrize("stale", [False, True])
def test_an_earlier_version_is_found_where_it_listens(place: Place, stack: ExitStack, *, stale: bool) -> None:
    if stale:
        left(place.path)
    assert place.older is not None
    left(place.older)
    assert place.now == place.path
    place.older.unlink()
    listen(stack, place.older)
    assert place.now == place.older
    assert Place(place.path).now == place.path


def test_who_is_too_busy_to_accept_is_there(tmp_path: Path, stack: ExitStack) -> None:
    listen(stack, tmp_path / "busy.sock", backlog=0)
    for _ in range(3):
        assert answers(tmp_path / "busy.sock")
        waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
        waiting.setblocking(False)
        waiting.connect_ex(str(tmp_path / "busy.sock"))


def test_a_file_is_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not answers(tmp_path / "file")
    assert not answers(tmp_path / "none")
    assert not answers(tmp_path / ("x" * 200))
