"""Process 1 of the managed plugin: forks the plugin, and forks it anew when something kills it.

In a plugin's own process namespace everything ends with process 1: the userspace tunnel, too, and with it the traffic
between nodes; and an engine gives a plugin up that ends several times while it starts (``pluginPostStart`` in moby's
plugin/manager_linux.go). So process 1 does as little as can be, and what can fail, or be killed for its memory, is its
child, whose successor takes the tunnel over. A child that ends by itself has said why, and process 1 ends with it.

Only the standard library is used here, for it comes before everything that takes time.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

FIRST, LAST = 0.05, 2.0
"""Seconds until a killed plugin is forked anew, and the most it becomes while each is killed soon after."""

SETTLED = 10.0
"""Seconds after which one counts as having been well."""

_FORWARDED = frozenset({signal.SIGTERM, signal.SIGINT})
_HEARD = _FORWARDED | {signal.SIGCHLD}


def supervise() -> int | None:
    """Returns ``None`` in the child that is to be the plugin, and in process 1 the exit status when all is over.

    To be called with one thread. Signals to end are passed on; whoever else becomes our child is reaped when it ends.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    pause = FIRST
    while True:
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            return None
        status, told = _outlive(child)
        if os.WIFEXITED(status):
            return os.waitstatus_to_exitcode(status)
        if told:
            return 0
        pause = FIRST if time.monotonic() - began > SETTLED else min(2 * pause, LAST)
        _say(f"the plugin's process was ended by signal {os.WTERMSIG(status)}; the next one starts in {pause:g} s")
        if signal.sigtimedwait(_FORWARDED, pause) is not None:
            return 0


def _say(text: str) -> None:
    # Nobody may be there to read it: the engine ends as well, and a full pipe must not hold us up. The pipe is our
    # child's, too, so that it stays one that blocks; what is ready takes a line.
    with contextlib.suppress(OSError):
        if select.select([], [sys.stderr], [], 0)[1]:
            os.write(sys.stderr.fileno(), f"stackpad: {text}\n".encode())


def _outlive(child: int) -> tuple[int, bool]:
    """The child's wait status when it has ended, and whether it had been told to."""
    told = False
    while True:
        heard = signal.sigwait(_HEARD)
        if heard != signal.SIGCHLD:
            told = True
            os.kill(child, heard)
            continue
        # One signal can stand for several that have ended.
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == child:
                return status, told
            if pid == 0:
                break
