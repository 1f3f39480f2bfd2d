"""What every target holds its reader to."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

from stackpad.errors import StackpadError

T = TypeVar("T")

LONGEST = 2000
"""Characters of a sentence: a value in it is shown by its beginning."""


class TooMuchWork(AssertionError):
    """A reader has gone through more lines of code than its input is worth."""


def attempt(reader: Callable[..., T], *arguments: Any) -> T | None:
    """What ``reader`` makes of it, or ``None`` if it refuses with a sentence that is safe to show."""
    try:
        return reader(*arguments)
    except StackpadError as error:
        sentence(str(error))
        return None


def sentence(text: str) -> None:
    """Fail unless ``text`` is one line, without anything a terminal would obey, and not endless."""
    assert text.isprintable(), ascii(text)
    assert len(text) <= LONGEST, text[:200]
    assert text, "an error without a word"


def lines_of(work: Callable[[], object], most: int) -> int:
    """How many lines of Python ``work`` goes through; raises :class:`TooMuchWork` beyond ``most``.

    Lines, and not seconds: those are the same on every machine. What a library does in C is not counted.
    """
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        if event == "line":
            count += 1
            if count > most:
                raise TooMuchWork(f"more than {most} lines, now in {frame.f_code.co_qualname}")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count
