"""JSON from outside, read in one way that fails in one way.

msgspec tells most of what can be wrong as :class:`msgspec.DecodeError`. Text that is not UTF-8 it tells as
:class:`UnicodeDecodeError`, and what is nested too deeply as :class:`RecursionError`; whoever reads what somebody else
has written, and forgets one of the three, is ended by it.
"""

from __future__ import annotations

from typing import Any, TypeVar, overload

import msgspec

_T = TypeVar("_T")

LONGEST = 300
"""Characters of what is said about a mistake."""


@overload
def decode(data: bytes | str) -> Any: ...


@overload
def decode(data: bytes | str, type: type[_T], *, strict: bool = True) -> _T: ...


def decode(data: bytes | str, type: Any = Any, *, strict: bool = True) -> Any:  # noqa: A002 - as msgspec calls it
    """What ``data`` says, as a value of ``type``.

    Raises :class:`msgspec.DecodeError` for whatever is wrong with it, in words that are safe to show.
    """
    try:
        if isinstance(data, bytes):
            data.decode()  # msgspec passes over fields that it is not asked for, whatever is in them
        return msgspec.json.decode(data, type=type, strict=strict)
    except msgspec.DecodeError as error:
        text = str(error)
        if text.isprintable() and len(text) <= LONGEST:
            raise
        # A name in it is the writer's own.
        raise msgspec.ValidationError(ascii(text)[1:-1][:LONGEST]) from error
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(f"it is not UTF-8: {error.reason} at byte {error.start}") from error
    except RecursionError as error:
        raise msgspec.DecodeError("it is nested too deeply") from error
