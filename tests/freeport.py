"""Ports for servers of tests."""

from __future__ import annotations

import contextlib
import os
import random
import socket

FIRST, LAST = 20000, 32000
"""Below what the kernel gives to outgoing connections (``ip_local_port_range``, from 32768): a port found free there can
be somebody's a moment later."""

WORKERS = 4
"""Processes of one run that share them out, by the number pytest-xdist gives each."""

_given: set[int] = set()


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now, nobody gets by chance, and this run has not given before."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % WORKERS
    while True:
        port = random.SystemRandom().randrange(FIRST + worker, LAST, WORKERS)
        if port in _given:
            continue
        _given.add(port)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
