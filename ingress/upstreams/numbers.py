"""Which number each web service has, on disk: another one after a restart would lead visitors to somebody else's."""

from __future__ import annotations

from pathlib import Path

import msgspec
import structlog

from ingress.upstreams.stable import Numbers, Service
from stackpad import files, jsontext
from stackpad.errors import Unavailable
from stackpad.upstreams import FIRST, LAST


class _Entry(msgspec.Struct, frozen=True):
    owner: str
    service: str
    path: str
    number: int
    part: int = 0
    guard: str = ""


class _File(msgspec.Struct, frozen=True):
    last: int
    services: list[_Entry]


class NumberFile:
    """The numbers as last decided, in one JSON file that is replaced whole."""

    def __init__(self, path: Path) -> None:
        """Read ``path``; one that cannot be read is as one that is not there, and said."""
        self._path = path
        self.current = Numbers()
        try:
            self.current = _read(path.read_bytes())
        except FileNotFoundError:
            pass
        except (OSError, msgspec.MsgspecError, ValueError) as error:
            structlog.get_logger("upstreams").error(
                "the numbers of services cannot be read; they get new ones", file=str(path), reason=str(error)
            )

    def decide(self, numbers: Numbers) -> None:
        """From now on these hold, as soon as the disk has them; raises :class:`Unavailable` and leaves the others."""
        if numbers == self.current:
            return
        entries = [_Entry(s.owner, s.service, s.path, number, s.part, s.guard) for s, number in numbers.given.items()]
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"{self._path.parent} cannot be made: {error}; make room or repair the disk") from error
        files.replace(self._path, msgspec.json.encode(_File(numbers.last, entries)))
        self.current = numbers


def _read(data: bytes) -> Numbers:
    found = jsontext.decode(data, type=_File)
    given = {Service(e.owner, e.service, e.path, e.part, e.guard): e.number for e in found.services}
    if len(set(given.values())) != len(found.services) or not all(FIRST <= n <= LAST for n in given.values()):
        raise ValueError("two services have one number, or one has none that is in use")
    return Numbers(min(max(found.last, FIRST - 1), LAST), given)
