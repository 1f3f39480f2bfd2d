"""A network namespace for one test: entered by a thread, and left with it.

Threads that the code under test starts from there, and child processes, are in the namespace too; the rest of the test
process is not.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

CLONE_NEWNET = 0x40000000
PROC = Path("/proc")

_missing = [program for program in ("nft", "iptables", "ip", "conntrack") if shutil.which(program) is None]
needs_kernel = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces"),
    pytest.mark.skipif(bool(_missing), reason=f"missing: {', '.join(_missing)}"),
]


def in_namespace(test: Callable[[], Awaitable[None]]) -> None:
    """Run ``test`` on an event loop of its own in a new network namespace with its loopback up."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "unshare")
            ip("link", "set", "lo", "up")
            asyncio.run(_awaited(test))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for failure in failures:
        raise failure


async def _awaited(test: Callable[[], Awaitable[None]]) -> None:
    await test()


def ip(*arguments: str) -> str:
    """Run iproute2 in the namespace of the calling thread."""
    return command("ip", *arguments)


def command(*words: str, script: str | None = None) -> str:
    """Run a command in the namespace of the calling thread; returns what it printed."""
    return subprocess.run(words, input=script, capture_output=True, text=True, check=True).stdout


async def eventually(condition: Callable[[], object], what: str, seconds: float = 10.0) -> None:
    """Fail unless ``condition()`` becomes true."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"not within {seconds:.0f} s: {what}"
        await asyncio.sleep(0.05)
