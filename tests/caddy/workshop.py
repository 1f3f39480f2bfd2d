"""A real Caddy on loopback with ports of its own, servers for it to pass visitors on to, and visitors.

Nothing here needs root, and nothing meets what else runs on the machine: sockets and data are in the test's directory,
ports are the kernel's choice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from ingress import tables
from ingress.caddy.adapter import Caddy
from ingress.certificates.reading import issued
from ingress.owners.ledger import Ledger
from ingress.routes import State, Table, WebContainer
from ingress.settings import Settings
from ingress.web import asked
from stackpad.hosts import covered
from stackpad.labels import WebRequest, Wire
from tests.freeport import free_port as free_port

BASE = "stackpad.test"
HOST = "shop.acme.stackpad.test"
DEADLINE = 60.0

Handler = Callable[[web.Request], Any]


def container(name: str = "web-1", *, port: int, state: State = State.UP, **asks: Any) -> WebContainer:
    """A web container whose port is on loopback; ``asks`` are fields of its request."""
    fields: dict[str, Any] = {
        "org": "acme",
        "project": "shop",
        "environment": "production",
        "service": "web",
        "path": "",
        "wire": Wire.HTTP,
        "domains": (),
        **asks,
    }
    return WebContainer(name, name, WebRequest(port=port, **fields), "127.0.0.1", port, state, 1.0)


def table(*containers: WebContainer, before: Table | None = None) -> Table:
    """The table for these."""
    ledger = before.ledger if before else Ledger()
    return tables.table(containers, ledger, base_domain=BASE, now=1.0, believe=True)


async def eventually(condition: Callable[[], Any], what: str) -> None:
    """Fail unless ``condition()``, awaited, comes true."""
    until = time.monotonic() + DEADLINE
    while not await condition():
        assert time.monotonic() < until, f"in vain, waited for {what}"
        await asyncio.sleep(0.02)


@dataclass
class CaddyProcess:
    """One Caddy; it can be stopped, killed and started again with another configuration."""

    binary: str
    home: Path
    settings: Settings
    process: subprocess.Popen[bytes] | None = None

    async def start(self, base: dict[str, Any] | None = None) -> None:
        """Start with an operator's configuration (none: empty) and wait for the admin socket."""
        file = self.home / "caddy.json"
        quiet = {"logs": {"default": {"level": "ERROR"}}}
        file.write_text(json.dumps({"admin": self.admin, "logging": quiet, **(base or {})}))
        places = {"XDG_DATA_HOME": str(self.home / "data"), "XDG_CONFIG_HOME": str(self.home / "config")}
        with (self.home / "caddy.log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: ASYNC220 - it starts in no time, and waits are elsewhere
                [self.binary, "run", "--config", str(file)],
                env={**os.environ, **places, "HOME": str(self.home)},
                stdout=log,
                stderr=log,
            )
        await eventually(self._answers, f"Caddy to start; its log: {self.log()}")

    @property
    def admin(self) -> dict[str, Any]:
        """What makes Caddy listen for us."""
        return {"listen": f"unix/{self.settings.caddy_admin}", "config": {"persist": False}}

    def stop(self, how: int = signal.SIGTERM) -> None:
        """End it, and leave a socket behind where the signal does."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(60)
            self.process = None

    def log(self) -> str:
        """Its last words."""
        file = self.home / "caddy.log"
        return file.read_text(errors="replace")[-2000:] if file.exists() else ""

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """What an operator does to it; fails where Caddy refuses."""
        connector = aiohttp.UnixConnector(str(self.settings.caddy_admin), force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(
                method,
                f"http://caddy{path}",
                headers={"Host": "", "Content-Type": "application/json"},
                data=None if body is None else json.dumps(body),
            ) as response,
        ):
            text = await response.text()
            assert response.status == 200, text
            return json.loads(text) if text.strip() else None

    async def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        with contextlib.suppress(aiohttp.ClientError, OSError):
            await self.ask("GET", "/config/")
            return True
        return False


@dataclass
class Shop:
    """A Caddy, our adapter to it, the one who is asked for certificates, and a visitor."""

    caddy: CaddyProcess
    settings: Settings
    adapter: Caddy
    known: set[str] = field(default_factory=set)
    questions: list[str] = field(default_factory=list)
    heard: list[Callable[[str], None]] = field(default_factory=list)
    """Told of each question that was answered with yes."""
    asking: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    """Closed, nobody is there to be asked."""

    async def apply(self, *containers: WebContainer, before: Table | None = None) -> Table:
        """Have Caddy serve these, and nothing else; fails if it refuses a host."""
        made = table(*containers, before=before)
        self.known |= {host.host for host in made.hosts}
        assert not (await self.adapter.apply(made)).rejected
        return made

    async def visit(
        self, host: str, path: str = "/", *options: str, scheme: str = "https", headers: bool = False
    ) -> tuple[int, str]:
        """Status and body as curl has them; status 0 where there is no answer, as when the handshake is refused.

        Where a connection breaks, there is a second one, as browsers have it: Caddy may be changing its listeners. So
        there is where a certificate is too young: Caddy's own authority has them begin now, and the clock that curl
        reads is some milliseconds late (``CLOCK_REALTIME_COARSE``), so that near a full second now is the future.
        """
        port = self.settings.https_port if scheme == "https" else self.settings.http_port
        root = self.caddy.home / "data/caddy/pki/authorities/local/root.crt"
        words = [
            "--silent",
            "--show-error",
            "--max-time",
            "30",
            "--resolve",
            f"{host}:{port}:127.0.0.1",
            "--write-out",
            "\n%{http_code}",
        ]
        words += ["--cacert", str(root)] if root.exists() else []
        words += ["--include"] if headers else []
        words += [*options, f"{scheme}://{host}:{port}{path}"]
        output = b""
        for _ in range(2):
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec("curl", *words, stdout=pipe, stderr=pipe)
            output, said = await process.communicate()
            if said:
                # Shown where a test fails.
                print(f"{host}{path}: {said.decode(errors='replace').strip()}", file=sys.stderr)
            if not any(sign in said for sign in AGAIN):
                break
            await asyncio.sleep(0.1)
        body, _, status = output.decode(errors="replace").rpartition("\n")
        return int(status or 0), body

    async def issuer(self, host: str = HOST) -> str | None:
        """Whose word the certificate is that a visitor is shown, whether or not it is believed; ``None`` without one."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            _, writer = await asyncio.open_connection(
                "127.0.0.1", self.settings.https_port, ssl=context, server_hostname=host
            )
        except ssl.SSLError:
            return None
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        return issued(bytes(der)).issuer

    async def status(self, host: str = HOST, path: str = "/", *options: str) -> int:
        """The status alone."""
        return (await self.visit(host, path, *options))[0]


AGAIN = (b"reset by peer", b"SSL_ERROR_SYSCALL", b"unexpected eof", b"Empty reply", b"certificate is not yet valid")
"""What curl says when the other side ends a connection without a word (a handshake that is refused has one), and when
a certificate begins in what it takes for the future.
"""


@contextlib.asynccontextmanager
async def shop(binary: str, home: Path, **changes: Any) -> AsyncIterator[Shop]:
    """A running Caddy with an empty configuration, and all that belongs to it."""
    settings = Settings(
        base_domain=BASE,
        tls="internal",
        caddy_admin=home / "admin.sock",
        ask_port=free_port(),
        http_port=free_port(),
        https_port=free_port(),
    )
    settings = replace(settings, **changes)
    caddy = CaddyProcess(binary, home, settings)
    made = Shop(caddy, settings, Caddy(settings))

    def known(host: str) -> bool:
        made.questions.append(host)
        known = covered(host, made.known)
        if known:
            for one in made.heard:
                one(host)
        return known

    async with made.asking:
        await made.asking.enter_async_context(serving(asked(known), settings.ask_port))
        await caddy.start()
        try:
            yield made
        finally:
            caddy.stop()


@contextlib.asynccontextmanager
async def serving(application: web.Application, port: int) -> AsyncIterator[None]:
    """The application, on a port of loopback."""
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def upstream(answer: str | Handler = "hello", port: int | None = None) -> AsyncIterator[int]:
    """A tenant's server that answers every request; yields its port."""

    async def say(_: web.Request) -> web.Response:
        return web.Response(text=str(answer))

    chosen = port or free_port()
    application = web.Application(client_max_size=2**30)
    application.router.add_route("*", "/{path:.*}", answer if callable(answer) else say)
    async with serving(application, chosen):
        yield chosen


def url(place: Shop, host: str = HOST, path: str = "/") -> str:
    """Where a browser asks."""
    return f"https://{host}:{place.settings.https_port}{path}"


class _Here(aiohttp.abc.AbstractResolver):
    """Every host is on this machine."""

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[aiohttp.abc.ResolveResult]:
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": family or 2, "proto": 0, "flags": 0}]

    async def close(self) -> None:
        return None


def browser() -> aiohttp.ClientSession:
    """A visitor with WebSockets and streams, who takes any certificate."""
    insecure = ssl.create_default_context()
    insecure.check_hostname, insecure.verify_mode = False, ssl.CERT_NONE
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=insecure, resolver=_Here()))
