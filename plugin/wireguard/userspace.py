"""wireguard-go: a process per device, configured through its UAPI socket.

A process that is there already, from before a restart of ours, is taken over with its sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
from pathlib import Path

from plugin import privileges
from plugin.wireguard import uapi
from plugin.wireguard.link import Condition, Link
from plugin.wireguard.model import Changes, Observed
from stackpad.errors import Unavailable

_SOCKETS = Path("/var/run/wireguard")
"""Where wireguard-go puts its socket; it cannot be told another place."""

_PROGRAM = "wireguard-go"

_CREDENTIALS = struct.Struct("iII")
"""``struct ucred`` of unix(7): process, user, group."""

_LONGEST = 1 << 24
"""Bytes of an answer: 300 for each peer, and 40 for each of its ranges."""

_START = 3.0
_TIMEOUT = 2.0
"""Seconds for the process to listen, and for one answer of it."""


class WireGuardGo:
    """The back end."""

    name = "wireguard-go"

    def __init__(self) -> None:
        self._device = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._well = False
        self._link = Link("tun")

    async def ensure(self, device: str, mtu: int) -> bool:
        """Have the device there and up; a process that hangs or has ended, or has lost its link, is replaced."""
        self._device = device
        if self._well and self._link.well(device) and self._socket.exists():
            return False
        condition = await asyncio.to_thread(self._link.look, device)
        if condition is not Condition.MISSING and self._socket.exists():
            with contextlib.suppress(Unavailable):
                await self._ask("get=1\n\n")
                if condition is Condition.DOWN:
                    await asyncio.to_thread(self._link.set_up, device, mtu)
                return condition is Condition.DOWN
        await asyncio.to_thread(self._start, device, mtu)
        return True

    async def observe(self) -> Observed:
        """The device as it is."""
        return uapi.read(await self._ask("get=1\n\n"))

    async def apply(self, changes: Changes) -> None:
        """Carry out the steps."""
        answer = await self._ask(uapi.request(changes))
        if "errno=0" not in answer:
            raise Unavailable(f"wireguard-go refused a change: {answer.strip()}; trying again")

    async def remove(self) -> None:
        """End the process; the device goes with it."""
        await asyncio.to_thread(self._stop)

    async def close(self) -> None:
        """Nothing is kept open."""

    @property
    def _socket(self) -> Path:
        return _SOCKETS / f"{self._device}.sock"

    def _answers(self) -> bool:
        try:
            socket.if_nametoindex(self._device)
        except OSError:
            return False
        return self._socket.exists()

    def _start(self, device: str, mtu: int) -> None:
        self._stop()
        if not Path("/dev/net/tun").exists():
            raise Unavailable(
                "there is no /dev/net/tun, which wireguard-go needs, and the kernel has no WireGuard of its own; "
                "load one of the modules (modprobe wireguard, or modprobe tun)"
            )
        for program, package in (("setpriv", "util-linux"), (_PROGRAM, "wireguard-go")):
            if shutil.which(program) is None:
                raise Unavailable(f"there is no {program} command; install the package {package}")
        try:
            _SOCKETS.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(
                f"{_SOCKETS}, where wireguard-go has its socket, cannot be made: {error.strerror}; make it a directory "
                "that root can write to"
            ) from error
        # Where its environment has it stay in the foreground, it does not say that a kernel with WireGuard is better.
        environment = {**os.environ, "LOG_LEVEL": "error", "WG_TUN_MTU": str(mtu), "WG_PROCESS_FOREGROUND": "1"}
        # What comes from the network is read in there: it gets what its link and a port of its own take.
        command = [*privileges.holding("NET_ADMIN", "NET_BIND_SERVICE"), _PROGRAM, "-f", device]
        try:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
            )
        except OSError as error:
            raise Unavailable(f"wireguard-go cannot be started: {error.strerror}") from error
        for _ in range(int(_START / 0.02)):
            if self._answers():
                break
            try:
                self._process.wait(0.02)
                raise Unavailable(f"wireguard-go ended at once with status {self._process.returncode}")
            except subprocess.TimeoutExpired:
                continue
        self._link.set_up(device, mtu)

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        else:
            self._end_inherited()
        with contextlib.suppress(OSError):  # what is left there is in the next one's way, which says so
            self._socket.unlink()
        with contextlib.suppress(Unavailable):
            self._link.remove(self._device)

    def _end_inherited(self) -> None:
        """End who listens at the socket, if that is one that was there before us: it may hang, and would stay."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(_TIMEOUT)
            asking.connect(str(self._socket))
            pid, _, _ = _CREDENTIALS.unpack(asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
            # Who listens there is who has said so: only root can. 0 is somebody outside of our process namespace.
            if pid > 1:
                os.kill(pid, signal.SIGKILL)

    async def _ask(self, request: str) -> str:
        self._well = False
        try:
            async with asyncio.timeout(_TIMEOUT):
                reader, writer = await asyncio.open_unix_connection(str(self._socket), limit=_LONGEST)
                try:
                    writer.write(request.encode())
                    await writer.drain()
                    answer = await reader.readuntil(b"\n\n")
                finally:
                    writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            reason = str(error) or type(error).__name__
            raise Unavailable(f"wireguard-go does not answer ({reason}); it is started anew") from error
        self._well = True
        return answer.decode()
