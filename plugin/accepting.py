"""Takes connections from the kernel as they come.

Asyncio's server makes a task of each before anybody can say that it is one too many. Here it costs two system calls.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable

import structlog

AGAIN = 1.0
"""Seconds until connections are taken again after the system had no room for one."""

_AT_ONCE = 64
"""Connections taken before others have a turn."""

_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_RESET = struct.pack("ii", 1, 0)


def accept(listener: socket.socket, meet: Callable[[socket.socket, str], bool], *, log: str) -> Callable[[], None]:
    """Take connections of a socket that is bound; returns how to stop that, which closes it.

    ``meet`` gets each with the other side's address, and says whether it keeps it; if not, it is reset. Trouble is in the
    log called ``log``.
    """
    loop, stopped = asyncio.get_running_loop(), False
    listener.setblocking(False)
    listener.listen(socket.SOMAXCONN)

    def resume() -> None:
        if not stopped:
            loop.add_reader(listener, take)

    def take() -> None:
        if not _take(listener, meet, log):
            # The listener would be ready for ever.
            loop.remove_reader(listener)
            loop.call_later(AGAIN, resume)

    def stop() -> None:
        nonlocal stopped
        stopped = True
        loop.remove_reader(listener)
        listener.close()

    resume()
    return stop


def _take(listener: socket.socket, meet: Callable[[socket.socket, str], bool], log: str) -> bool:
    """Take what waits; false if the system has no room."""
    for _ in range(_AT_ONCE):
        try:
            connection, peer = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return True
        except OSError as error:
            if error.errno not in _NO_ROOM:
                structlog.get_logger(log).warning("a connection could not be taken", reason=error.strerror)
            return error.errno not in _NO_ROOM
        if not meet(connection, str(peer[0])):
            # A reset: the kernel is not to remember it any longer either.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            connection.close()
    return True
