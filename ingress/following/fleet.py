"""The cluster, by way of this node's plugin: what others run, and what we say of ours.

A plugin that is away leaves what is known as it is. Where there is none, or the node is in no cluster, this node is all
there is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import aiohttp
import msgspec
import structlog

from ingress.following.absence import Absence
from ingress.following.bursts import Burst
from ingress.following.remote import Seen, seen
from ingress.owners.shared import Write, payload
from stackpad import jsontext, records
from stackpad.errors import Unavailable
from stackpad.listening import Place
from stackpad.runtime import Backoff

SILENCE = 30.0
"""Seconds without a line after which the plugin is asked anew; it sends one every ten."""

ANSWER = 10.0
"""Seconds a report may take; the plugin answers when the firewall has it."""

AT_ONCE = 100
"""Host names in one request."""

AT_A_TIME, GAP = 4, 0.05
"""Reports that follow each other at once, as when a container starts and is ready; and seconds between many."""


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    all: bool
    node: str
    control: bool
    connected: bool
    secret: str = ""
    records: dict[str, msgspec.Raw]


class Fleet:
    """Follows the plugin at ``place``; calls ``changed`` when :attr:`seen` is another one."""

    def __init__(self, place: Place, changed: Callable[[], None]) -> None:
        self.seen = Seen()
        self.known = asyncio.Event()
        self.problem = ""
        self._place, self._changed = place, changed
        self._directory, self._absence, self._lacking = place.path.parent, Absence(), ""
        self._values: dict[str, bytes] = {}
        self._word: bytes | None = None
        self._told: bytes | None = None
        self._say = asyncio.Event()
        self._log = structlog.get_logger("fleet")

    async def run(self) -> None:
        """Follow and report until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.follow(), name="fleet follow")
            tasks.create_task(self._report(), name="fleet report")

    @property
    def plugin_there(self) -> bool:
        """Whether there is a plugin to ask at all, or may be one soon."""
        socket, directory = self._place.now.exists(), self._directory.is_dir()
        return self._absence.waits(socket=socket, directory=directory, now=time.monotonic())

    @property
    def lacking(self) -> str:
        """What to do about a plugin that was waited for in vain, if so; who has no directory for one wants none."""
        if self.known.is_set() or self.plugin_there or not self._directory.is_dir():
            return ""
        return (
            f"no plugin has a socket in {self._directory}, so that nothing of other nodes is served here: docker plugin "
            "ls says whether it is enabled; one from before this ingress listens elsewhere and is to be upgraded first"
        )

    def say(self, *, control: bool, complete: bool, stale: bool, proofs: bool, containers: Sequence[records.Web]) -> None:
        """Tell the plugin, and by it the other nodes, what runs here; told again whenever it has begun anew."""
        said = {"control": control, "complete": complete, "stale": stale, "proofs": proofs, "containers": containers}
        word = msgspec.json.encode(said, order="sorted")
        if word != self._word:
            self._word = word
            self._say.set()

    async def write_hosts(self, writes: Iterable[Write]) -> None:
        """Write who owns host names, each as long as nobody has changed it meanwhile: then it is shown anew.

        Raises :class:`Unavailable` while the cluster's store does not answer.
        """
        for batch in batched(writes, AT_ONCE):
            await self._ask("POST", "/web/hosts", msgspec.json.encode(payload(batch)))

    async def follow(self) -> None:
        """Follow until cancelled, and say nothing of this node."""
        backoff = Backoff(0.1, 2.0)
        while True:
            try:
                await self._read(backoff)
                self._trouble("the plugin has ended")
            except (Unavailable, aiohttp.ClientError, OSError, TimeoutError, msgspec.MsgspecError) as error:
                self._trouble(str(error) or type(error).__name__)
            self._look()
            await asyncio.sleep(next(backoff))

    def _look(self) -> None:
        """Go on without a plugin, once none has come."""
        before, self._lacking = self._lacking, self.lacking
        if self._lacking and not before:
            self._log.error("there is no plugin", reason=self._lacking)
            self._changed()

    async def _read(self, backoff: Backoff) -> None:
        """One life of the stream."""
        timeout = aiohttp.ClientTimeout(sock_connect=ANSWER, sock_read=SILENCE)
        async with self._session(timeout) as session, session.get("http://plugin/web") as response:
            if response.status != 200:
                raise Unavailable(f"the plugin at {self._place.now} is older than this ingress; upgrade it")
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._take(jsontext.decode(line, type=_Line))
                    backoff.reset()

    def _take(self, line: _Line) -> None:
        values = {} if line.all else dict(self._values)
        for key, raw in line.records.items():
            value = bytes(raw)
            if value == b"null":
                values.pop(key, None)
            else:
                # Bytes that are the same stay the same object, which makes the comparisons of thousands cheap.
                before = self._values.get(key)
                values[key] = before if before == value else value
        self._values = values
        now = seen(
            values, node=line.node, control=line.control, connected=line.connected, secret=bytes.fromhex(line.secret)
        )
        self.problem = ""
        if line.all:
            self._told = None
            self._say.set()
        different = now != self.seen or not self.known.is_set()
        self.seen = now
        self.known.set()
        if different:
            self._changed()

    async def _report(self) -> None:
        backoff, burst = Backoff(0.2, 5.0), Burst(AT_A_TIME, GAP)
        while True:
            await self._say.wait()
            self._say.clear()
            word = self._word
            if word is None or word == self._told or not self.known.is_set():
                continue
            try:
                await self._ask("PUT", "/web", word)
                self._told = word
                backoff.reset()
                await asyncio.sleep(burst.wait(time.monotonic()))
            except Unavailable as error:
                self._log.warning("the plugin does not take what runs here", reason=str(error))
                await asyncio.sleep(next(backoff))
                self._say.set()

    def _session(self, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self._place.now)), timeout=timeout)

    async def _ask(self, method: str, path: str, body: bytes) -> bytes:
        try:
            async with (
                self._session(aiohttp.ClientTimeout(ANSWER)) as session,
                session.request(method, f"http://plugin{path}", data=body) as response,
            ):
                answer = await response.read()
                if response.status != 200:
                    raise Unavailable(f"the plugin answers {path} with {response.status}: {_reason(answer)}")
                return answer
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(
                f"the plugin at {self._place.now} does not answer: {str(error) or type(error).__name__}; docker plugin ls"
            ) from error

    def _trouble(self, problem: str) -> None:
        if self.known.is_set() and not self.problem:
            self._log.warning("the plugin does not answer; what is known is served on", reason=problem)
        self.problem = problem


def batched(items: Iterable[Write], size: int) -> Iterator[list[Write]]:
    """``items`` in lists of at most ``size``."""
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch


def _reason(answer: bytes) -> str:
    try:
        return str(jsontext.decode(answer, type=dict[str, str])["error"])
    except (msgspec.MsgspecError, KeyError):
        return answer.decode(errors="replace")[:200]
