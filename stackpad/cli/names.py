"""What this machine's resolver says of a name."""

from __future__ import annotations

import socket

from stackpad.cli.visit import Answer


def look_up(host: str) -> Answer:
    """The addresses of a name as any program here would find them."""
    try:
        found = socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    except OSError as error:
        return Answer(problem=error.strerror or str(error))
    return Answer(tuple(dict.fromkeys(str(entry[4][0]) for entry in found)))
