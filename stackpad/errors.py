"""Errors a user may read.

    StackpadError
    ├── InvalidRequest   what was asked for cannot be meant
    ├── Conflict         somebody else holds it: a subnet, an address, a port, a host name
    ├── NotFound         nothing here has that name
    ├── Exhausted        a range has no room left
    └── Unavailable      a kernel, an engine, a store or a proxy did not do its part

Every message names the value and what to do about it. An adapter translates the exceptions of its
library into one of these and chains the original.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

ENOUGH, LONG = 5, 500
"""Faults that one error tells, and characters after which it tells no other one."""


class StackpadError(Exception):
    """Base of all errors whose text is meant for a user."""


class InvalidRequest(StackpadError):
    """A value that cannot be meant: malformed, unknown, or contradicting another one."""


class Conflict(StackpadError):
    """The value is fine, but somebody else holds it; the message names the holder."""


class NotFound(StackpadError):
    """Nothing of that name or id is known here."""


class Exhausted(StackpadError):
    """A range of addresses or ports has nothing left to give."""


class Unavailable(StackpadError):
    """The kernel, the Docker engine, the store or Caddy failed to answer or refused."""


class Together:
    """Reads several values of one request, so that what is wrong is told at once, and not one after another.

    Once they are :data:`ENOUGH`, or :data:`LONG`, the rest is not looked at: a tenant can say any number.
    """

    def __init__(self) -> None:
        self._wrong: list[str] = []

    def read(self, reader: Callable[[], T], otherwise: T) -> T:
        """What ``reader`` returns; ``otherwise`` where it raises :class:`InvalidRequest`, which is kept."""
        try:
            return reader()
        except InvalidRequest as error:
            self._wrong.append(str(error))
            if len(self._wrong) >= ENOUGH or sum(map(len, self._wrong)) >= LONG:
                self.done()
            return otherwise

    def done(self) -> None:
        """Raises one :class:`InvalidRequest` with everything that was kept."""
        if self._wrong:
            raise InvalidRequest("; also: ".join(self._wrong))


def shown(value: object) -> str:
    """A tenant's text, or any value, as it is safe to show: one line, no control characters, not longer than a line."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:76] + "..." + text[-1]


def plain(value: str) -> str:
    """A name as it is, where that is safe to show in a sentence; else as :func:`shown` has it."""
    return value if value.isprintable() and 0 < len(value) <= 200 else shown(value)
