"""Guides as programs: the commands in a document's ``console`` blocks, and what is to come of each.

A line of a block that begins with ``$`` or ``#`` is a command, with the place before it where there are several
(``worker1$``). The lines below it, up to the next command, are what it prints; ``…`` stands for anything there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"([a-z0-9]*)[$#] (.*)")
_SECTION = re.compile(r"^## ", re.MULTILINE)
_READS = re.compile(r"(curl|stackpad|docker inspect)\b")


@dataclass(frozen=True, slots=True)
class Step:
    """A command, where it is typed (empty where there is one place only), and what it prints."""

    place: str
    command: str
    printed: tuple[str, ...] = ()

    @property
    def only_reads(self) -> bool:
        """Whether it can be asked again until it says what it should."""
        return bool(self.printed) and _READS.match(self.command) is not None

    def fits(self, output: str) -> bool:
        """Whether ``output`` has what is to be printed."""
        wanted = r"\n".join(".*".join(map(re.escape, line.split("…"))) for line in self.printed)
        return re.search(wanted, output.replace("\r", ""), re.DOTALL if "…" in "".join(self.printed) else 0) is not None


@dataclass(frozen=True, slots=True)
class Section:
    """What is below one heading of the second level."""

    heading: str
    steps: list[Step] = field(default_factory=list)


def sections(text: str) -> Iterator[Section]:
    """The sections that have commands, in their order; raises :class:`ValueError` for output of no command."""
    for part in _SECTION.split(text):
        heading = part.partition("\n")[0]
        steps = [step for block in _BLOCK.findall(part) for step in _steps(block)]
        if steps:
            yield Section(heading, steps)


def _steps(block: str) -> Iterator[Step]:
    place = command = ""
    printed: list[str] = []
    for line in block.splitlines():
        begins = _COMMAND.fullmatch(line)
        if begins is None:
            if not command:
                raise ValueError(f"{line!r} is printed by no command")
            printed.append(line)
            continue
        if command:
            yield Step(place, command, tuple(printed))
        place, command, printed = begins[1], begins[2], []
    if command:
        yield Step(place, command, tuple(printed))
