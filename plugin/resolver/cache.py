"""Finished answers, kept for the next who asks the same.

Pure. Each set of environments has a shelf of its own, bounded in bytes: who fills it with questions spoils it for his own
environment and no other's. A shelf is thrown away as soon as one of its environments changes.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable

from plugin.resolver.zone import Environment

SHELF = 256 << 10
"""Bytes of one shelf's questions and answers."""

VARIANTS = 4
"""Orders of the same records that are kept of an answer."""

LONGEST = 1536
"""Bytes of a question or an answer that is kept: anything that goes over UDP."""

Key = tuple[bool, bytes]


class Shelf:
    """The answers for somebody in ``environments``, least recently asked for first."""

    __slots__ = ("_answers", "_bytes", "environments")

    def __init__(self, environments: tuple[Environment, ...]) -> None:
        self.environments = environments
        self._answers: OrderedDict[Key, list[bytes]] = OrderedDict()
        self._bytes = 0

    def get(self, key: Key) -> bytes | None:
        """An answer without its identifier, empty for one that others give; ``None`` if another is still wanted."""
        kept = self._answers.get(key)
        if kept is None:
            return None
        if len(kept) == VARIANTS:
            self._answers.move_to_end(key)
            return random.choice(kept)  # noqa: S311 - spreads load, guards nothing
        if _varies(kept[0]):
            return None
        self._answers.move_to_end(key)
        return kept[0]

    def put(self, key: Key, answer: bytes) -> None:
        """Keep an answer, if it is not too long; others make room."""
        if max(len(key[1]), len(answer)) > LONGEST:
            return
        kept = self._answers.get(key)
        if kept is None:
            kept = self._answers[key] = []
            self._bytes += len(key[1])
        kept.append(answer)
        self._bytes += len(answer)
        while self._bytes > SHELF:
            (_, question), answers = self._answers.popitem(last=False)
            self._bytes -= len(question) + sum(map(len, answers))


class Shelves:
    """One shelf for each set of environments."""

    def __init__(self) -> None:
        self._shelves: dict[tuple[str, ...], Shelf] = {}

    def of(self, names: tuple[str, ...], environments: Callable[[], tuple[Environment, ...]]) -> Shelf:
        """The shelf of the environments called ``names``."""
        shelf = self._shelves.get(names)
        if shelf is None:
            shelf = self._shelves[names] = Shelf(environments())
        return shelf

    def keep(self, good: Callable[[tuple[str, ...], Shelf], bool]) -> None:
        """Throw away every shelf that is not ``good``."""
        self._shelves = {names: shelf for names, shelf in self._shelves.items() if good(names, shelf)}


def _varies(answer: bytes) -> bool:
    """Whether there is more than one record, whose order another answer would change (ANCOUNT, without the id)."""
    return answer[4:6] > b"\0\1"
