"""Which certificate each host has: as the local Caddy shows it in a handshake of our own.

A handshake for a host without a certificate would have Caddy get one, and that is for visitors to cause, not for us: an
authority counts. Caddy asks us before it gets or renews one on demand, so that its question is the sign that a visitor
has caused one, and that a look is worthwhile; ours then waits for what is on its way. Without a question nothing has
changed. What was seen is kept on disk, since a Caddy that has a certificate does not ask again because we were restarted.

Certificates that are nobody's demand, wildcards by DNS, are looked at by the clock: such a handshake has none made.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import msgspec

from ingress.certificates import reading
from ingress.certificates.reading import Issued, covering
from stackpad import files, jsontext
from stackpad.errors import InvalidRequest, Unavailable

AT_ONCE = 16
GAP = 0.25
"""Handshakes at once, and seconds between the beginnings of two: ten thousand hosts are no reason for a storm."""

PATIENCE = 200.0
"""Seconds for a handshake: Caddy itself gives up on a certificate after 180."""

AGE = 600.0
"""Seconds until a certificate that is known is looked at again, however often Caddy asks."""

FIRST, LAST = 60.0, 3600.0
"""Seconds until a host is looked at again that had none, doubling: each such look might be a try at the authority."""

SHORT, TRIES = 5.0, 5
"""Seconds until the next try, and how many, where the connection failed, as in a change of Caddy's configuration."""

SAVE = 10.0
MAX_KEPT = 20_000

UNVISITED = "nobody has visited it yet: Caddy gets a certificate at the first visit"
FAILED = "Caddy could not get one; its log says why"
WAITING = "Caddy is getting one"


class Seen:
    """What is known of the hosts' certificates, and the looks that tell."""

    def __init__(self, port: int, path: Path) -> None:
        self.looks: Counter[str] = Counter()
        self._port, self._path = port, path
        self._known = _load(path)
        self._reasons: dict[str, str] = {}
        self._rest: dict[str, tuple[float, float]] = {}
        self._queue: dict[str, str] = {}
        self._flying: set[str] = set()
        self._tries: Counter[str] = Counter()
        self._wildcards: dict[str, str] = {}
        self._covered: dict[str, Issued] = {}
        self._wake = asyncio.Event()
        self._dirty = False
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE

    def asked(self, host: str) -> None:
        """Caddy has asked for ``host``, and may have a certificate for it."""
        if len(self._queue) < MAX_KEPT:
            self._want(host, host)

    def cover(self, files: Mapping[str, Issued], wildcards: Iterable[str], hosts: Collection[str]) -> None:
        """What the operator's files cover, and which wildcards are had by DNS; ``hosts`` are all that are served."""
        if self._covered != files:
            self._covered = dict(files)
            # One of Caddy's own that a host had before may stay or go: no look at a covered host has one made.
            for host in hosts:
                if host in self._known and covering(self._covered, host) is not None:
                    self._rest.pop(host, None)
                    self._want(host, host)
        wanted = set(wildcards)
        if wanted or self._wildcards:
            one_of = {f"*.{host.partition('.')[2]}": host for host in sorted(hosts, reverse=True)}
            self._wildcards = {name: one_of[name] for name in sorted(wanted) if name in one_of}
            for name, host in self._wildcards.items():
                self._want(name, host)

    def of(self, host: str, now: float | None = None) -> tuple[Issued | None, str | None]:
        """The certificate of a host, or why it has none, as far as is known."""
        moment = time.time() if now is None else now
        wildcard = f"*.{host.partition('.')[2]}"
        for found in (self._known.get(host), covering(self._covered, host), self._known.get(wildcard)):
            if found is not None and found.not_after > moment:
                return found, None
        if wildcard in self._wildcards:
            return None, f"none for {wildcard} yet: {self._reasons.get(wildcard, WAITING)}"
        if host in self._queue or host in self._flying:
            return None, WAITING
        return None, self._reasons.get(host, "it has expired" if host in self._known else UNVISITED)

    def failed(self, host: str) -> bool:
        """Whether Caddy has tried to have a certificate for a host, and has none."""
        return host in self._reasons

    def earliest(self, hosts: Iterable[str]) -> float:
        """When the first of all certificates that are known and not over ends, as Unix time; 0 without any."""
        now = time.time()
        ends = [one.not_after for one in self._covered.values()]
        ends += [found.not_after for host in hosts if (found := self.of(host, now)[0]) is not None]
        return min(ends, default=0.0)

    async def run(self) -> None:
        """Look until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep(), name="keep certificates seen")
                turns = asyncio.Semaphore(AT_ONCE)
                while True:
                    await self._wake.wait()
                    if not self._queue:
                        self._wake.clear()
                        continue
                    await turns.acquire()
                    key = next(iter(self._queue))
                    tasks.create_task(self._look(key, self._queue.pop(key), turns), name=f"look at {key}")
                    await asyncio.sleep(GAP)
        finally:
            if self._dirty:
                self._write(self._kept())

    def _want(self, key: str, host: str) -> None:
        until, _ = self._rest.get(key, (0.0, 0.0))
        if key not in self._flying and time.monotonic() >= until:
            self._queue.setdefault(key, host)
            self._wake.set()

    async def _look(self, key: str, host: str, turns: asyncio.Semaphore) -> None:
        self._flying.add(key)
        try:
            self._saw(key, reading.issued(await self._handshake(host)))
            self.looks["seen"] += 1
        except ssl.SSLError:
            self.looks["none"] += 1
            self._missed(key, FAILED)
        except TimeoutError:
            self.looks["none"] += 1
            self._missed(key, "Caddy has been getting one for minutes; its log says what it waits for")
        except OSError as error:
            self.looks["unreachable"] += 1
            self._missed(key, f"127.0.0.1:{self._port} does not answer: {error.strerror or type(error).__name__}")
            self._tries[key] += 1
            if self._tries[key] < TRIES:
                asyncio.get_running_loop().call_later(SHORT * self._tries[key], self._retry, key, host)
        except InvalidRequest as error:
            self._missed(key, str(error))
        finally:
            self._flying.discard(key)
            turns.release()

    def _retry(self, key: str, host: str) -> None:
        self._rest.pop(key, None)
        self._want(key, host)

    async def _handshake(self, host: str) -> bytes:
        async with asyncio.timeout(PATIENCE):
            _, writer = await asyncio.open_connection(
                "127.0.0.1", self._port, ssl=self._context, server_hostname=host, ssl_handshake_timeout=PATIENCE
            )
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        return bytes(der)

    def _saw(self, key: str, found: Issued) -> None:
        self._dirty = self._dirty or self._known.get(key) != found
        self._known[key] = found
        self._reasons.pop(key, None)
        self._tries.pop(key, None)
        self._rest[key] = (time.monotonic() + AGE, 0.0)

    def _missed(self, key: str, reason: str) -> None:
        self._dirty = True  # so that what is kept in memory is looked through now and then
        self._reasons[key] = reason
        _, pause = self._rest.get(key, (0.0, 0.0))
        pause = min(max(FIRST, 2 * pause), LAST)
        self._rest[key] = (time.monotonic() + pause, pause)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(SAVE)
            for name, host in self._wildcards.items():
                self._want(name, host)
            if self._dirty:
                await asyncio.to_thread(self._write, self._kept())

    def _kept(self) -> bytes:
        """What goes on disk; no more is kept in memory, either."""
        self._dirty = False
        lasting = sorted(self._known.items(), key=lambda item: -item[1].not_after)[:MAX_KEPT]
        self._known = dict(lasting)
        for gone in list(self._rest)[: max(0, len(self._rest) - 2 * MAX_KEPT)]:
            del self._rest[gone]
            self._reasons.pop(gone, None)
            self._tries.pop(gone, None)
        return msgspec.json.encode(self._known)

    def _write(self, content: bytes) -> None:
        with contextlib.suppress(Unavailable, OSError):  # the claims beside it say so, and are missed more
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.replace(self._path, content)


def _load(path: Path) -> dict[str, Issued]:
    """What an ingress before us has seen; nothing where that cannot be read, since it can all be seen again."""
    try:
        return jsontext.decode(path.read_bytes(), type=dict[str, Issued])
    except (OSError, msgspec.MsgspecError):
        return {}
