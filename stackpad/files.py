"""Small files that are replaced as a whole: whoever reads one finds the old or the new, also after a power cut."""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path

from stackpad.errors import Unavailable

_numbers = itertools.count()


def replace(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write ``data`` beside ``path``, sync it, and rename it there; raises :class:`Unavailable`, and then nothing has
    changed. Of several writers at once each has a file of its own beside it, and the last one stays.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}-{next(_numbers)}.new")
    try:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()  # of a process that had our number and was killed
        # Never through a link that somebody else has put there.
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise Unavailable(f"{path} cannot be written: {error}; make room or repair the disk") from error


def remove(path: Path) -> None:
    """Remove ``path``, if it is there; raises :class:`Unavailable`."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise Unavailable(f"{path} cannot be removed: {error}; repair the disk or make it writable") from error
