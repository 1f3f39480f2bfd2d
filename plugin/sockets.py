"""Listening unix sockets, bound before anything heavy is imported.

Docker looks for the plugin's socket half a second after its start and then only every three seconds; who connects
to a bound socket waits in its backlog until there is somebody to answer. Only the standard library is used here.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

MANAGED = Path("/run/docker/plugins/stackpad.sock")
"""Where the engine expects a managed plugin's socket, inside the plugin."""


def host_socket(run: Path) -> Path:
    """Where the engine finds a driver called ``stackpad`` without a tag, given the host's ``/run``."""
    return run / "docker" / "plugins" / "stackpad.sock"


def listen(path: Path) -> socket.socket:
    """A listening socket at ``path`` that only root can connect to; a stale one is replaced.

    Binds beside the place and renames, so that there is no moment without a socket.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
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
    temporary.rename(path)
    return listening


def remove(path: Path) -> None:
    """Take a socket's name away; a plugin that is gone must not leave one for the engine to wait at."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
