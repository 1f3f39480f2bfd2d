"""A real Caddy and a real ingress on loopback, with as many hosts as asked for; its containers are synthetic.

No root needed: ports are free ones, sockets and state in a directory of its own. The ingress is told containers'
addresses (there is no plugin whose kernel could know them), so that a new host is a write to Caddy as everywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path

import aiohttp

from ingress.settings import Settings
from tests.bench.engine import BASE, SyntheticEngine, host
from tests.caddy.workshop import CaddyProcess
from tests.clock import Adjustable
from tests.freeport import free_port
from tests.testbed.shell import ROOT

_TICK = os.sysconf("SC_CLK_TCK")
PATIENCE = 600.0
"""Seconds for anything: ten thousand containers are looked at one after the other."""


class Site:
    """The processes; made by :func:`site`."""

    def __init__(self, home: Path, binary: str, port: int, clock: Adjustable | None = None) -> None:
        self.home, self.upstream = home, port
        self.https, self._http, self._ask = free_port(), free_port(), free_port()
        self._python, self._clock = ["-m", "ingress"], dict[str, str]()
        if clock is not None:
            self._python, self._clock = clock.module("ingress"), dict(clock.environment)
        self.engine = SyntheticEngine(home / "docker.sock", port)
        settings = Settings(BASE, caddy_admin=home / "admin.sock")
        self.caddy = CaddyProcess(binary, home, settings)
        self._ingress: subprocess.Popen[bytes] | None = None
        self._anybody = ssl.create_default_context()
        self._anybody.check_hostname, self._anybody.verify_mode = False, ssl.CERT_NONE

    def processes(self) -> dict[str, int]:
        """The two whose cost is of interest, by name."""
        assert self._ingress is not None
        assert self.caddy.process is not None
        return {"Caddy": self.caddy.process.pid, "ingress": self._ingress.pid}

    def used(self) -> dict[str, float]:
        """Milliseconds of a processor by process, since its start."""
        found = {}
        for name, pid in self.processes().items():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found[name] = (int(fields[11]) + int(fields[12])) * 1000 / _TICK
        return found

    def memory(self) -> dict[str, float]:
        """MB by process."""
        found = {}
        for name, pid in self.processes().items():
            (line,) = re.findall(r"^VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
            found[name] = int(line) / 1024
        return found

    async def hold(self, hosts: int) -> None:
        """Have so many hosts, and an ingress that knows them all; it is started anew unless that is so."""
        if self._ingress is not None and self.engine.count == hosts:
            return
        self.stop_ingress()
        self.engine.add(range(hosts))
        environment = {
            "DOCKER_HOST": f"unix://{self.engine.socket}", "CADDY_ADMIN": str(self.home / "admin.sock"),
            "ADMIN_SOCKET": str(self.home / "ingress.sock"), "NET_SOCKET": str(self.home / "no-plugin/web.sock"),
            "STATE_DIR": str(self.home), "BASE_DOMAIN": BASE, "TLS": "internal", "LOG_LEVEL": "warning",
            "HTTPS_PORT": str(self.https), "HTTP_PORT": str(self._http), "ASK_LISTEN": f"127.0.0.1:{self._ask}",
        }  # fmt: skip
        with (self.home / "ingress.log").open("ab") as log:
            self._ingress = subprocess.Popen(  # noqa: ASYNC220 - it starts in no time, and waits are elsewhere
                [sys.executable, *self._python],
                env={**os.environ, **environment, "PYTHONPATH": str(ROOT), **self._clock}, stdout=log, stderr=log,
            )  # fmt: skip
        until = time.monotonic() + PATIENCE
        while not await self._holds():
            if time.monotonic() > until or self._ingress.poll() is not None:
                raise RuntimeError(f"the ingress does not get along: {(self.home / 'ingress.log').read_text()[-2000:]}")
            await asyncio.sleep(0.2)

    async def _holds(self) -> bool:
        """Whether the ingress and Caddy know all hosts there are, and no others."""
        with contextlib.suppress(aiohttp.ClientError, OSError):
            told = await self.metrics()
            hosts = [told.get(f'stackpad_ingress_hosts{{state="{state}"}}') for state in ("up", "down")]
            return hosts == [self.engine.count, 0] and told["stackpad_ingress_in_step"] == 1
        return False

    async def metrics(self) -> dict[str, float]:
        """The ingress's numbers."""
        connector = aiohttp.UnixConnector(str(self.home / "ingress.sock"))
        async with aiohttp.ClientSession(connector=connector) as session, session.get("http://ingress/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return {name: float(value) for line in lines if line[0] != "#" for name, _, value in [line.rpartition(" ")]}

    async def applied(self) -> tuple[float, float]:
        """Seconds that all writes to Caddy have taken so far, and how many there were."""
        told = await self.metrics()
        return told["stackpad_ingress_apply_seconds_sum"], told["stackpad_ingress_apply_seconds_count"]

    async def first_page(self, number: int) -> float:
        """Milliseconds from a new container's start event to its first page over HTTPS, by a visitor who insists."""
        (made,) = self.engine.add([number], checked=False)
        began = time.perf_counter()
        self.engine.tell(made, "start")
        await _come_true(lambda: self._visited(host(number)))
        return (time.perf_counter() - began) * 1e3

    async def _visited(self, name: str) -> bool:
        """Whether a visitor who comes by a new connection gets a page."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.https, ssl=self._anybody, server_hostname=name
            )
            try:
                return await _page(reader, writer, name)
            finally:
                writer.transport.abort()
        return False

    async def change(self, numbers: Iterable[int]) -> float:
        """Milliseconds from the start events of new containers until all of them are served.

        Seen through a connection that is there, so that no certificate is made for it.
        """
        numbers = list(numbers)
        made = self.engine.add(numbers)
        async with self._kept() as visitor:
            began = time.perf_counter()
            for container_id in made:
                self.engine.tell(container_id, "start")
            for number in reversed(numbers):
                await _come_true(functools.partial(visitor.sees, host(number)))
            return (time.perf_counter() - began) * 1e3

    async def clear(self, numbers: Iterable[int]) -> None:
        """Remove containers again, and wait until their hosts are gone."""
        self.engine.remove(f"{number:064x}" for number in numbers)
        until = time.monotonic() + PATIENCE
        while not await self._holds():
            if time.monotonic() > until:
                raise RuntimeError("the ingress does not forget")
            await asyncio.sleep(0.2)

    @contextlib.asynccontextmanager
    async def _kept(self) -> AsyncIterator[_Visitor]:
        visitor = _Visitor(self.https, self._anybody)
        try:
            yield visitor
        finally:
            visitor.leave()

    def stop_ingress(self) -> None:
        """End the ingress."""
        if self._ingress is not None:
            self._ingress.terminate()
            self._ingress.wait(30)
            self._ingress = None


class _Visitor:
    """Asks for pages of any host over the connection made for the first one; makes another where Caddy has ended it."""

    def __init__(self, port: int, anybody: ssl.SSLContext) -> None:
        self._port, self._context = port, anybody
        self._there: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def sees(self, name: str) -> bool:
        """Whether the host has a page."""
        try:
            if self._there is None:
                self._there = await asyncio.open_connection(
                    "127.0.0.1", self._port, ssl=self._context, server_hostname=host(0)
                )
            return await _page(*self._there, name)
        except (OSError, asyncio.IncompleteReadError):
            self.leave()
            return False

    def leave(self) -> None:
        """End the connection."""
        if self._there is not None:
            self._there[1].transport.abort()
            self._there = None


async def _come_true(look: Callable[[], Awaitable[bool]]) -> None:
    """Return when ``look`` says yes; raises :class:`RuntimeError` where it never does."""
    until = time.monotonic() + PATIENCE
    while not await look():
        if time.monotonic() > until:
            raise RuntimeError("in vain")
        await asyncio.sleep(0.002)


async def _page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str) -> bool:
    """Whether a request is answered with 200."""
    writer.write(f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *(\d+)", head)
    await reader.readexactly(int(length[1]) if length else 0)
    return head.split(b" ", 2)[1] == b"200"


@contextlib.asynccontextmanager
async def site(home: Path, binary: str, clock: Adjustable | None = None) -> AsyncIterator[Site]:
    """A Caddy with an empty configuration, another one that is every container's server, and no host yet.

    ``clock`` is the ingress's, where it is not the machine's.
    """
    port = free_port()
    server = CaddyProcess(binary, home / "upstream", Settings(BASE, caddy_admin=home / "upstream.sock"))
    server.home.mkdir()
    hello = {"handle": [{"handler": "static_response", "body": "hello"}]}
    routes = {"listen": [f"127.0.0.1:{port}"], "routes": [hello], "automatic_https": {"disable": True}}
    made = Site(home, binary, port, clock)
    async with made.engine:
        try:
            await server.start({"apps": {"http": {"servers": {"hello": routes}}}})
            await made.caddy.start()
            yield made
        finally:
            made.stop_ingress()
            made.caddy.stop()
            server.stop()
