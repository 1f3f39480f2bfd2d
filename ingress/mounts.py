"""Directories that a container has from outside, each on its own.

One that is removed outside and made anew, as systemd does with a service's ``RuntimeDirectory=``, is another directory:
the container goes on seeing the old one, which stays empty for ever. Nothing inside can mend that; who starts the
container once more can, since it is given what is there then.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from stackpad.errors import Unavailable

LOOK = 0.5
"""Seconds between two looks."""


async def watch(*directories: Path) -> None:
    """Until cancelled; raises :class:`Unavailable` when one of them is seen here and removed outside."""
    while True:
        for directory in directories:
            if removed(directory):
                raise Unavailable(
                    f"{directory} was removed outside of this container, which cannot see what comes in its place; "
                    "ending, to be started anew with what is there then"
                )
        await asyncio.sleep(LOOK)


def removed(directory: Path) -> bool:
    """Whether this is a directory that has a name here alone, as a mount, and none any more where it was made."""
    try:
        return os.stat(directory).st_nlink == 0
    except OSError:
        return False
