"""``python -m ingress.carryover``: moves the state of an earlier ingress into the directory that is the ingress's alone.

It was among the plugin's files, in ``/var/lib/stackpad``, which an ingress's container does not have any more. Who still
has both directories moves it: ``make install`` before it starts the new ingress, and an ingress with the old mounts.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

from ingress.settings import STATE_DIR
from stackpad import files
from stackpad.errors import StackpadError, Unavailable

NAMES = ("proof.key", "claims.json", "certificates.json", "upstreams.json")
"""The secret that proofs of domains are made with, who owns which host, and what can be learnt anew."""


def carry(old: Path, new: Path) -> list[str]:
    """Move the ingress's files from ``old`` to ``new``; returns a sentence for each that was moved, or left.

    Each is whole in its new place before it is removed from the old one: who is interrupted begins again. A file that is
    in the new place is what an ingress goes by, and stays. Where both names are one file, nothing is moved. Raises
    :class:`Unavailable`, as for what is no regular file, and nothing is lost then.
    """
    return [said for name in NAMES for said in _carry(old / name, new / name)]


def found(old: Path, new: Path) -> Path:
    """Where the state is, for who only looks: in ``old`` until it has been moved."""
    there = any((old / name).exists() for name in NAMES) and not any((new / name).exists() for name in NAMES)
    return old if there else new


def _carry(old: Path, new: Path) -> list[str]:
    data = _read(old, os.stat)
    if data is None:
        return []
    if _same(old, new):
        return [f"{old} is left as it is: it and {new} are one file, which is used"]
    there = _read(new, os.lstat)
    if there is not None and there != data:
        return [f"{old} is left as it is, and is not used: {new} is there; remove the one that is not wanted"]
    if there is None:
        with contextlib.suppress(OSError):  # told by the writing
            new.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.replace(new, data)
    try:
        old.unlink()
    except OSError as error:
        raise Unavailable(f"{old} is {new} now, and cannot be removed: {error}; remove it") from error
    return [f"{old} is {new} now"]


def _same(old: Path, new: Path) -> bool:
    """Whether both names lead to one file, by whatever links: to remove one of them might be to remove the file."""
    try:
        return old.samefile(new)
    except OSError:
        return False  # what is wrong with them is told by the reading


def _read(path: Path, look: Callable[[Path], os.stat_result]) -> bytes | None:
    """What is in a file, ``None`` without one. ``look`` says whether links are followed to it.

    An ingress that somebody has taken over can have put anything there: a pipe would have us wait for ever.
    """
    try:
        if not stat.S_ISREG(look(path).st_mode):
            raise Unavailable(f"{path} cannot be read: it is not a regular file; see what it is, and remove it")
        # It may be another one meanwhile.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (os.O_NOFOLLOW if look is os.lstat else 0))
        with os.fdopen(descriptor, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error}") from error


def main() -> int:
    """Move what is there; returns the exit status."""
    try:
        for said in carry(STATE_DIR.parent, STATE_DIR):
            sys.stdout.write(f"{said}\n")
    except StackpadError as error:
        sys.stderr.write(f"ingress: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
