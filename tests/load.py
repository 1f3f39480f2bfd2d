"""Visitors who ask all the time, and what each of them got."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator

import aiohttp

DEADLINE = 120.0


class Everywhere(aiohttp.abc.AbstractResolver):
    """Every host is at one address."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self._address = address

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[aiohttp.abc.ResolveResult]:
        found: aiohttp.abc.ResolveResult = {
            "hostname": host, "host": self._address, "port": port, "family": family or 2, "proto": 0, "flags": 0,
        }  # fmt: skip
        return [found]

    async def close(self) -> None:
        return None


def browser(address: str = "127.0.0.1", *, keep: bool = True) -> aiohttp.ClientSession:
    """A client to whom every host is at ``address``, and who believes every certificate; ``keep`` keeps connections."""
    insecure = ssl.create_default_context()
    insecure.check_hostname, insecure.verify_mode = False, ssl.CERT_NONE
    connector = aiohttp.TCPConnector(ssl=insecure, resolver=Everywhere(address), force_close=not keep)
    return aiohttp.ClientSession(connector=connector)


class Load:
    """Visitors of one page: some keep their connections, some make a new one for each request."""

    def __init__(self, url: str, address: str = "127.0.0.1", methods: tuple[str, ...] = ("GET",)) -> None:
        self._url, self._address, self._methods = url, address, methods
        self.seen: Counter[tuple[int, str]] = Counter()
        self.failures: list[str] = []
        self._enough = asyncio.Event()

    @property
    def answered(self) -> int:
        """How many requests have ended, well or not."""
        return self.seen.total() + len(self.failures)

    @contextlib.asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Meanwhile they ask."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(2):
                for keep in (True, False):
                    for method in self._methods:
                        tasks.create_task(self._visit(keep, method))
            await self.some_more()
            yield
            await self.some_more()
            self._enough.set()

    async def some_more(self, count: int = 50) -> None:
        """Return when some more have been answered."""
        enough, until = self.answered + count, time.monotonic() + DEADLINE
        while self.answered < enough:
            assert time.monotonic() < until, f"nobody is answered any more: {self.seen}, {self.failures}"
            await asyncio.sleep(0.01)

    def all_well(self) -> bool:
        """Whether everybody got a page."""
        return not self.failures and {status for status, _ in self.seen} == {200}

    async def _visit(self, keep: bool, method: str) -> None:
        data = b"x" * 100 if method == "POST" else None
        try:
            async with browser(self._address, keep=keep) as session:
                while not self._enough.is_set():
                    try:
                        async with session.request(method, self._url, data=data) as got:
                            self.seen[got.status, await got.text() if got.status == 200 else ""] += 1
                    except aiohttp.ClientError as error:
                        self.failures.append(repr(error))
        finally:
            # A closed session still ends its connections' TLS (aiohttp, "Graceful Shutdown"), also when it was cancelled.
            await asyncio.sleep(0.25)
