"""Being the only one who runs an etcd on a data directory, also after a predecessor that was killed."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from stackpad.errors import Unavailable

_GRACE, _POLL = 5.0, 0.05


@contextlib.contextmanager
def sole(directory: Path) -> Iterator[None]:
    """Hold ``directory`` for this process; raises :class:`Unavailable` if another one does.

    The kernel gives the lock back when we end, however we end; an etcd we started does not inherit it.
    """
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Unavailable(f"another plugin runs the store in {directory}; stop one of the two") from error
        yield


async def end_orphan(pid_file: Path, data: Path) -> None:
    """Kill the etcd that a predecessor left on ``data``; whoever holds the lock knows that it has no master."""
    pid = _number(pid_file)
    if not _uses(pid, data):
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    for _ in range(round(_GRACE / _POLL)):
        if not _uses(pid, data):
            return
        await asyncio.sleep(_POLL)
    raise Unavailable(f"etcd, process {pid}, uses {data} and cannot be ended; reboot this node")


async def end(process: asyncio.subprocess.Process) -> None:
    """Stop it: kindly, and after a while or when cancelled not so."""
    if process.returncode is not None:
        return
    try:
        process.terminate()
        async with asyncio.timeout(_GRACE):
            await process.wait()
    except TimeoutError:
        pass
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _number(pid_file: Path) -> int:
    """0 if there is none."""
    try:
        return int(pid_file.read_text())
    except (OSError, ValueError):
        return 0


def _uses(pid: int, data: Path) -> bool:
    """Whether that process is an etcd of this data directory; a zombie has no command line any more."""
    try:
        return os.fsencode(data) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
