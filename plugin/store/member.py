"""The embedded store: one etcd of our own, watched over; whatever becomes of it, the plugin goes on.

It listens on unix sockets in a directory that only root may enter, and on the addresses of ``listen`` besides. Its data
outlive it and us. Etcd takes a unix socket's name only as host and port, relative to its working directory, so
``unix://client:0`` becomes a file ``client:0``; that is so in 3.4 and 3.5 alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import structlog

from plugin import privileges
from stackpad.errors import InvalidRequest, StackpadError, Unavailable
from stackpad.etcd import Etcd, custody
from stackpad.etcd.diagnosis import LogLine, read_line, why
from stackpad.etcd.endpoints import Endpoint
from stackpad.etcd.messages import Lines
from stackpad.runtime import Backoff

QUOTA: Final = 256 << 20
"""Bytes the store may grow to; a cluster of 100 nodes takes a few MiB of it."""

_FIRST, _LAST = 0.2, 3.0
"""Seconds from one attempt to the next, which takes 0.1 s of a processor: what it failed for is over within five."""

_SETTLED: Final = 60.0
"""Seconds of serving after which the next failure is a new one."""

_POLL, _EVERY = 0.05, 10.0
"""Seconds between two looks at a starting and at a serving etcd."""

_PATIENCE: Final = 120.0
"""Seconds an etcd may not answer until it is ended and started anew."""

_WASTE: Final = 32 << 20
"""Bytes from which on a database half of which is free is worth the defragmentation."""

_ROOM: Final = 0.7
"""The part of the quota that may be in use for a full store to take writes again."""

_TAIL: Final = 60
"""Lines of the log that are kept for the diagnosis."""


@dataclass(frozen=True, slots=True)
class Status:
    """How the store is; ``reason`` says what a failure is and what to do about it."""

    phase: Literal["starting", "serving", "failed"]
    reason: str = ""


STARTING, SERVING = Status("starting"), Status("serving")


class Member:
    """One etcd under supervision: :meth:`run` it in a TaskGroup.

    ``directory`` is for its data, ``sockets`` for its sockets, both made with mode 0700. ``listen`` are addresses to
    serve besides the unix socket, such as ``http://10.191.0.1:2379``; nothing there asks who is calling, so a firewall
    has to. ``quota`` is in bytes. Raises :class:`InvalidRequest` for an address that cannot be meant, and nothing later.
    """

    def __init__(
        self,
        directory: Path,
        sockets: Path,
        *,
        binary: str = "etcd",
        listen: Sequence[str] = (),
        name: str = "stackpad",
        quota: int = QUOTA,
    ) -> None:
        self._directory, self._sockets = directory.absolute(), sockets.absolute()
        self._binary, self._name, self._quota = binary, name, quota
        Endpoint.parse(self.url)
        self._listen = _checked(listen)
        self._status = STARTING
        self._settled, self._changed = asyncio.Event(), asyncio.Event()
        self._log = structlog.get_logger("etcd")
        self.starts = 0

    @property
    def url(self) -> str:
        """The endpoint for :class:`stackpad.etcd.Etcd` on this node."""
        return f"unix://{self._sockets}/client:0"

    @property
    def status(self) -> Status:
        """How it is now."""
        return self._status

    async def settled(self) -> Status:
        """Wait until it serves or has failed, and say which."""
        await self._settled.wait()
        return self._status

    def listen(self, urls: Sequence[str]) -> None:
        """Serve at these addresses from now on; if they are others than before, etcd is restarted, once it runs."""
        wanted = _checked(urls)
        if wanted != self._listen:
            self._listen = wanted
            self._set(STARTING)
            self._changed.set()

    async def run(self) -> None:
        """Keep it running until cancelled; ends it then."""
        backoff = Backoff(_FIRST, _LAST)
        try:
            while True:
                self._changed.clear()
                began = time.monotonic()
                try:
                    reason = await self._attempt()
                except StackpadError as error:
                    reason = str(error)
                except OSError as error:
                    reason = f"etcd cannot be run on {self._directory}: {error}; check disk, permissions and memory"
                if not reason:
                    continue
                self._set(Status("failed", reason))
                if time.monotonic() - began > _SETTLED:
                    backoff.reset()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(next(backoff)):
                        await self._changed.wait()
        finally:
            self._status = Status("failed", "the store is stopped; it starts with the plugin")
            self._settled.set()

    async def _attempt(self) -> str:
        """One life of etcd; the reason why it ended, "" if that was for new addresses."""
        for program, package in (("setpriv", "util-linux"), (self._binary, "etcd-server")):
            if shutil.which(program) is None:
                raise Unavailable(f"there is no program {program}; install the package {package}, or set STORE")
        for directory in (self._directory, self._sockets):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
        with custody.sole(self._directory):
            await custody.end_orphan(self._pid, self._data)
            for name in ("client:0", "peer:0"):
                (self._sockets / name).unlink(missing_ok=True)  # etcd does not take what a killed one left
            self.starts += 1
            process = await asyncio.create_subprocess_exec(
                *self._command(),
                cwd=self._sockets,
                env={"PATH": os.environ.get("PATH", os.defpath)},  # ETCD_* of our own environment would be settings
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                umask=0o077,
            )
            try:
                self._pid.write_text(str(process.pid))
                return await self._supervise(process)
            finally:
                await custody.end(process)
                self._pid.unlink(missing_ok=True)

    def _command(self) -> list[str]:
        client, peer = "unix://client:0", "unix://peer:0"
        return [
            # All it uses is its own. The kernel ends it if we are killed: our successor opens the same files.
            *(*privileges.holding(), "--pdeathsig", "KILL", "--", self._binary),
            *("--name", self._name, "--data-dir", str(self._data)),
            *("--listen-client-urls", ",".join((client, *self._listen))),
            *("--advertise-client-urls", ",".join((client, *self._listen))),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"{self._name}={peer}"),
            # Only a store that begins empty takes it: so each has an identity of its own, and a wiped one shows.
            *("--initial-cluster-token", secrets.token_hex(16)),
            *("--quota-backend-bytes", str(self._quota), "--snapshot-count", "10000"),
            *("--auto-compaction-mode", "periodic", "--auto-compaction-retention", "1h"),
            # Not "default", which is journald for a child of process 1, as we are in a plugin.
            *("--logger", "zap", "--log-outputs", "stderr"),
        ]

    async def _supervise(self, process: asyncio.subprocess.Process) -> str:
        tail: deque[LogLine] = deque(maxlen=_TAIL)
        async with asyncio.TaskGroup() as tasks:
            examined = tasks.create_task(self._examine())
            changed = tasks.create_task(self._changed.wait())
            ended = tasks.create_task(process.wait())
            logged = tasks.create_task(self._copy_log(process, tail))
            await asyncio.wait({examined, changed, ended}, return_when=asyncio.FIRST_COMPLETED)
            wanted, silent = changed.done(), examined.done()
            by_itself = ended.done()
            examined.cancel()
            changed.cancel()
            await custody.end(process)
            await logged
        if by_itself:
            return why(tail, process.returncode or 0, str(self._data))
        if silent and not wanted:
            return f"etcd did not answer for {_PATIENCE:g} s and was ended; check the disk of {self._data}"
        return ""

    async def _examine(self) -> None:
        """Keep the status true; returns when etcd has not answered for too long."""
        answered, pause = time.monotonic(), _POLL
        async with Etcd([self.url], timeout=30.0) as etcd:
            while time.monotonic() - answered < _PATIENCE:
                try:
                    await etcd.get("health")
                    reason = await self._tend(etcd)
                except Unavailable as error:
                    if self._status == SERVING:
                        self._set(Status("failed", str(error)))
                    await asyncio.sleep(pause)
                else:
                    answered, pause = time.monotonic(), 1.0
                    self._set(Status("failed", reason) if reason else SERVING)
                    await asyncio.sleep(_EVERY)

    async def _tend(self, etcd: Etcd) -> str:
        """Make room where there is some to be made; what is wrong still, or ""."""
        status, alarms = await etcd.status(), await etcd.alarms()
        full = [alarm for alarm in alarms if alarm.alarm == "NOSPACE"]
        if full:
            await etcd.compact(status.header.revision)
        if full or (status.size > _WASTE and status.used * 2 < status.size):
            await etcd.defragment()
            self._log.info("defragmented", before=status.size, after=(status := await etcd.status()).size)
        if any(alarm.alarm == "CORRUPT" for alarm in alarms):
            return f"etcd found its data in {self._data} corrupt; move that directory away, and the store begins empty"
        if full and status.size > _ROOM * self._quota:
            mib = f"{status.size / (1 << 20):.0f} of {self._quota / (1 << 20):.0f} MiB"
            return f"the store is full ({mib}) and takes no more; delete what does not belong in it with etcdctl"
        for alarm in full:
            await etcd.disarm(alarm)
        return ""

    async def _copy_log(self, process: asyncio.subprocess.Process, tail: deque[LogLine]) -> None:
        assert process.stderr is not None  # noqa: S101 - it was asked for
        lines = Lines()
        while data := await process.stderr.read(1 << 16):
            for line in map(read_line, lines.feed(data)):
                tail.append(line)
                (self._log.warning if line.grave else self._log.debug)(line.text)

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    @property
    def _pid(self) -> Path:
        return self._directory / "pid"

    def _set(self, status: Status) -> None:
        if status != self._status:
            (self._log.warning if status.reason else self._log.info)(status.phase, reason=status.reason)
        self._status = status
        if status == STARTING:
            self._settled.clear()
        else:
            self._settled.set()


def _checked(urls: Sequence[str]) -> tuple[str, ...]:
    for url in urls:
        try:
            parts = urlsplit(url)
            good = parts.scheme == "http" and parts.hostname and parts.port and not parts.path and "," not in url
        except ValueError:
            good = False
        if not good:
            raise InvalidRequest(f"etcd cannot listen on {url!r}; write http://ADDRESS:PORT, IPv6 in brackets")
    return tuple(urls)
