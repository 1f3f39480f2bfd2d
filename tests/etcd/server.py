"""Real etcd processes for tests: one on a unix socket or TCP, or several as a cluster; and certificates for them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from stackpad.errors import Unavailable
from stackpad.etcd import Etcd, Tls
from tests.freeport import free_port as free_port

BINARY = os.environ.get("ETCD_BINARY", "etcd")
"""Another etcd than the distribution's can be tested by naming it here."""

BOUND = 60.0
"""Seconds after which something that should happen is taken for failed."""


class Server:
    """One etcd of a test; what it says goes to a file beside its data."""

    def __init__(
        self, directory: Path, *, port: int = 0, peer: int = 0, cluster: str = "", tls: Certificates | None = None
    ) -> None:
        self.directory, self.name = directory, directory.name
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://127.0.0.1:{port}" if port else f"unix://{directory}/client:0"
        listen = self.url if port else "unix://client:0"
        peer_url = f"http://127.0.0.1:{peer}" if peer else "unix://peer:0"
        self.arguments = [
            *("--name", self.name, "--data-dir", "data", "--logger", "zap"),
            *("--listen-client-urls", listen, "--advertise-client-urls", listen),
            *("--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url),
            *("--initial-cluster", cluster or f"{self.name}={peer_url}"),
            *("--initial-cluster-token", directory.parent.name),
        ]
        if tls:
            self.arguments += ["--cert-file", str(tls.server), "--key-file", str(tls.server_key)]
            self.arguments += ["--trusted-ca-file", str(tls.ca), "--client-cert-auth"]
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, *arguments: str) -> None:
        """Start it; it may take a while until it answers."""
        self.directory.mkdir(exist_ok=True)
        (self.directory / "client:0").unlink(missing_ok=True)  # a killed one leaves it, and would not take it
        with (self.directory / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                BINARY, *self.arguments, *arguments, cwd=self.directory, stdout=log, stderr=log, env={}
            )

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait until it has."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
                self.process.send_signal(signal.SIGCONT)
            await self.process.wait()
            self.process = None

    def signal(self, number: signal.Signals) -> None:
        """Freeze it, or let it go on."""
        assert self.process is not None
        self.process.send_signal(number)

    def wipe(self) -> None:
        """Forget everything it stored."""
        shutil.rmtree(self.directory / "data")


async def answering(etcd: Etcd) -> None:
    """Wait until the store answers."""
    async with asyncio.timeout(BOUND):
        while True:
            try:
                await etcd.get("ready?")
            except Unavailable:
                await asyncio.sleep(0.05)
            else:
                return


@contextlib.asynccontextmanager
async def running(directory: Path, *, tcp: bool = False) -> AsyncIterator[Server]:
    """One etcd that answers."""
    server = Server(directory, port=free_port() if tcp else 0)
    await server.start()
    try:
        async with Etcd([server.url]) as etcd:
            await answering(etcd)
        yield server
    finally:
        await server.stop()


@contextlib.asynccontextmanager
async def cluster(directory: Path, size: int, tls: Certificates | None = None) -> AsyncIterator[Sequence[Server]]:
    """Several etcd that make up one store, which answers."""
    peers = [free_port() for _ in range(size)]
    members = ",".join(f"m{i}=http://127.0.0.1:{port}" for i, port in enumerate(peers))
    servers = [
        Server(directory / f"m{i}", port=free_port(), peer=port, cluster=members, tls=tls) for i, port in enumerate(peers)
    ]
    try:
        for server in servers:
            await server.start()
        for server in servers:
            async with Etcd([server.url], tls=tls.client_tls if tls else None) as etcd:
                await answering(etcd)
        yield servers
    finally:
        for server in servers:
            await server.stop()


class Certificates:
    """An authority, a server's certificate for loopback and a client's, made with openssl(1)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca, self.ca_key = directory / "ca.pem", directory / "ca.key"
        self.server, self.server_key = directory / "server.pem", directory / "server.key"
        self.client, self.client_key = directory / "client.pem", directory / "client.key"

    @property
    def client_tls(self) -> Tls:
        """What a client sets."""
        return Tls(self.ca, self.client, self.client_key)

    async def make(self) -> None:
        """Write all files."""
        await _openssl("req", "-x509", *_NEW, "-subj", "/CN=test", "-keyout", self.ca_key, "-out", self.ca)
        await self.sign(self.server, self.server_key, "IP:127.0.0.1")
        await self.sign(self.client, self.client_key, "DNS:client")

    async def sign(self, certificate: Path, key: Path, names: str, subject: str = "/O=stackpad") -> None:
        """A certificate of the authority, for both ends: etcd's gateway is a client of its own server.

        Without a CommonName: with passwords on, the gateway refuses those that have one.
        """
        await _openssl(
            *("req", "-x509", *_NEW, "-subj", subject, "-CA", self.ca, "-CAkey", self.ca_key),
            *("-addext", f"subjectAltName={names}", "-addext", "extendedKeyUsage=serverAuth,clientAuth"),
            *("-addext", "basicConstraints=critical,CA:FALSE", "-keyout", key, "-out", certificate),
        )


_NEW = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")


async def _openssl(*arguments: str | Path) -> None:
    process = await asyncio.create_subprocess_exec(
        "openssl", *map(str, arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
