"""Ports for servers of tests."""

from __future__ import annotations

import contextlib
import random
import socket

FIRST, LAST = 20000, 32000
"""Below what the kernel gives to outgoing connections (``ip_local_port_range``, from 32768): a port found free there can
be somebody's a moment later."""


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now, and nobody gets by chance."""
    while True:
        port = random.SystemRandom().randint(FIRST, LAST)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
