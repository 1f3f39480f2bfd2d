"""Sockets in a directory that not only root writes to: one is connected to as what it is, not by what it is called.

The ingress makes its sockets in a directory of its own, and Caddy has one that the ingress can write to. A name there can
become a symbolic link at any moment, to the engine's socket for instance; followed by root, it would lead there.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held(path: Path) -> Iterator[str]:
    """Another path of the socket that is at ``path`` now, for as long as this is entered: for one connection.

    Raises :class:`OSError` if there is nothing, or something else than a socket, such as a symbolic link to one.
    """
    # As a place only: nothing is opened by it, whatever it is (open(2), O_PATH).
    place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(place).st_mode):
            raise OSError(errno.ENOTSOCK, "it is something else than a socket, and not followed")
        yield f"/proc/self/fd/{place}"
    finally:
        os.close(place)
