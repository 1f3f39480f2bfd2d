"""Private network namespaces: what a test does to the kernel's network stays where nobody else is.

Only the calling thread changes its namespace; child processes and threads begun from it follow. Pytest runs its tests in
the main thread, and the plugin makes its threads when it is opened, so both are inside together.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

PROC = Path("/proc")

_CLONE_NEWNET = 0x40000000
_OWN = "/proc/thread-self/ns/net"
_libc = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


def unshare() -> None:
    """Move this thread into a fresh namespace with nothing but a loopback interface that is up."""
    _checked(_libc.unshare(_CLONE_NEWNET))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def enter(namespace: int) -> None:
    """Move this thread into the namespace behind a file descriptor."""
    _checked(_libc.setns(namespace, _CLONE_NEWNET))


@contextmanager
def private() -> Iterator[None]:
    """A fresh namespace for this thread, left again at the end; a skipped test where that is not allowed."""
    if os.geteuid():
        pytest.skip("network namespaces need root")
    home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            unshare()
        except PermissionError as error:
            pytest.skip(f"network namespaces are not allowed here: {error}")
        try:
            yield
        finally:
            enter(home)
    finally:
        os.close(home)


@pytest.fixture
def netns() -> Iterator[None]:
    """The test runs in a network namespace of its own."""
    with private():
        yield


class Namespace:
    """Another namespace beside the test's own: a container, or the outside. It goes when it is closed."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self.fd = self._thread.submit(_opened_in_a_fresh_one).result()

    @property
    def path(self) -> str:
        """A name for it that holds in this process."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def call(self, function: Callable[[], T]) -> T:
        """What ``function`` returns inside; sockets made there stay there."""
        return self._thread.submit(function).result()

    def run(self, *command: str) -> str:
        """What a command prints inside; raises if it fails."""
        return self.call(lambda: run(*command))

    def close(self) -> None:
        """Leave it; the kernel takes away what is in it."""
        self._thread.shutdown()
        os.close(self.fd)


def run(*command: str, script: str = "") -> str:
    """What a command prints, in the namespace of this thread; a failure shows what it said."""
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def ip(*arguments: str) -> str:
    """Run iproute2 in the namespace of this thread."""
    return run("ip", *arguments)


async def eventually(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Fail unless ``condition()`` becomes true; ``seconds`` bound a failure only."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"not within {seconds:.0f} s: {what}"
        await asyncio.sleep(0.05)


def _opened_in_a_fresh_one() -> int:
    unshare()
    return os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)


def _checked(result: int) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
