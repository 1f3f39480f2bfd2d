"""``python -m ingress.carryover``: moves the state of an earlier ingress into the directory that is the ingress's alone.

It was among the plugin's files, in ``/var/lib/stackpad``, which an ingress's container does not have any more. Who still
has both directories moves it: ``make install`` before it starts the new ingress, and an ingress with the old mounts.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from ingress.settings import STATE_DIR
from stackpad import files
from stackpad.errors import StackpadError, Unavailable

NAMES = ("proof.key", "claims.json", "certificates.json", "upstreams.json")
"""The secret that proofs of domains are made with, who owns which host, and what can be learnt anew."""


def carry(old: Path, new: Path) -> list[str]:
    """Move the ingress's files from ``old`` to ``new``; returns a sentence for each that was moved, or left.

    Each is whole in its new place before it is removed from the old one: who is interrupted begins again. A file that is
    in the new place is what an ingress goes by, and stays. Raises :class:`Unavailable`, and nothing is lost then.
    """
    return [said for name in NAMES for said in _carry(old / name, new / name)]


def found(old: Path, new: Path) -> Path:
    """Where the state is, for who only looks: in ``old`` until it has been moved."""
    there = any((old / name).exists() for name in NAMES) and not any((new / name).exists() for name in NAMES)
    return old if there else new


def _carry(old: Path, new: Path) -> list[str]:
    try:
        data = old.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Unavailable(f"{old} cannot be read, and is to be {new}: {error}") from error
    there = _there(new)
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


def _there(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
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
