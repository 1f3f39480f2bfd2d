"""Listening unix sockets, bound before anything heavy is imported.

Docker looks for the plugin's socket half a second after its start and then only every three seconds; who connects
to a bound socket waits in its backlog until there is somebody to answer. Only the standard library is used here.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MANAGED = Path("/run/docker/plugins/stackpad.sock")
"""Where the engine expects a managed plugin's socket, inside the plugin."""

ENDING = 30
"""Tenths of a second that a plugin which is ending is waited for."""


def host_socket(run: Path) -> Path:
    """Where the engine finds a driver called ``stackpad`` without a tag, given the host's ``/run``."""
    return run / "docker" / "plugins" / "stackpad.sock"


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket, and the name in the file system by which it is reached."""

    socket: socket.socket
    path: Path
    inode: int

    def remove(self) -> None:
        """Take the name away, unless it is a successor's already.

        A plugin that is gone must not leave a socket for the engine to wait at.
        """
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_ino == self.inode:
                self.path.unlink()


def clear(run: Path) -> None:
    """Take away what a killed plugin left, given the host's ``/run``: names at which nobody answers, and nobody will.

    Not if a plugin is at work here: then they are that one's.
    """
    held = alone(run / "stackpad", patience=1)
    if held is None:
        return
    with held:
        for path in (MANAGED, host_socket(run), run / "stackpad" / "net.sock", run / "stackpad" / "web" / "web.sock"):
            path.unlink(missing_ok=True)
            _beside(path).unlink(missing_ok=True)


def alone(directory: Path, patience: int = ENDING) -> BinaryIO | None:
    """An open file that says that a plugin is at work here, for as long as it is open; ``None`` if there is one already.

    Two would take each other's sockets and write each other's state. One that is just ending is waited for, ``patience``
    tenths of a second.
    """
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    # Closed to everybody else: who can open it, if only to read, can hold it.
    held = os.fdopen(os.open(directory / "plugin.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b")
    for attempt in range(patience):
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return held
        except BlockingIOError:
            time.sleep(0.1 if attempt < patience - 1 else 0)
    held.close()
    return None


def listen(path: Path) -> Listener:
    """A listening socket at ``path`` that only root can connect to; a stale one is replaced.

    Binds beside the place and renames, so that there is no moment without a socket.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    temporary = _beside(path)
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listening.bind(str(temporary))
    finally:
        os.umask(before)
    listening.listen(128)
    listening.setblocking(False)
    inode = temporary.stat().st_ino
    temporary.rename(path)
    return Listener(listening, path, inode)


def _beside(path: Path) -> Path:
    # Always the same name, so that nothing adds up where plugins are killed; there is one at a time.
    return path.with_name(f".{path.name}.new")
