"""An ACME authority on loopback: Pebble, which checks what it is asked for, at the Caddy of the test.

Names have the addresses Pebble's own DNS server gives them: loopback for all, unless it is told to fail one. How many
orders and certificates there were is read from its log.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec
import pytest

from tests import certs
from tests.caddy.workshop import eventually
from tests.freeport import free_port


@dataclass(frozen=True)
class Authority:
    """Where it is, whom its own HTTPS is signed by, and its root certificate for visitors to believe."""

    directory: str
    signed_by: Path
    root: Path
    log: Path
    names: str

    def orders(self) -> int:
        """How many orders there were."""
        return self.log.read_text(errors="replace").count("Added order ")

    def issued(self) -> int:
        """How many certificates it has issued."""
        return self.log.read_text(errors="replace").count("Issued certificate serial")

    async def fail(self, host: str) -> None:
        """From now on nobody finds ``host``."""
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.names}/set-servfail", data=msgspec.json.encode({"host": f"{host}."})) as response,
        ):
            assert response.status == 200

    async def listens(self) -> bool:
        """Whether it answers; its root certificate is on disk then."""
        context = ssl.create_default_context(cafile=str(self.signed_by))
        with contextlib.suppress(aiohttp.ClientError):
            async with (
                aiohttp.ClientSession() as session,
                session.get(self.directory, ssl=context) as response,
                session.post(f"{self.names}/clear-servfail", data=b'{"host": "nobody."}') as other,
            ):
                return response.status == other.status == 200
        return False


@contextlib.asynccontextmanager
async def authority(home: Path, http_port: int, https_port: int) -> AsyncIterator[Authority]:
    """A running one, which looks for challenges at these ports of loopback."""
    if shutil.which("pebble") is None or shutil.which("pebble-challtestsrv") is None:
        pytest.skip("no pebble: install the package pebble of the distribution")
    port, manage, names, dns = (free_port() for _ in range(4))
    certs.put(home, "own", "localhost", issuer="Pebble's own HTTPS", authority=True)
    config = {
        "listenAddress": f"127.0.0.1:{port}",
        "managementListenAddress": f"127.0.0.1:{manage}",
        "certificate": str(home / "own.crt"),
        "privateKey": str(home / "own.key"),
        "httpPort": http_port,
        "tlsPort": https_port,
        "ocspResponderURL": "",
    }
    (home / "pebble.json").write_bytes(msgspec.json.encode({"pebble": config}))
    made = Authority(
        f"https://localhost:{port}/dir", home / "own.crt", home / "root.crt", home / "log", f"http://127.0.0.1:{names}"
    )
    # No sleeps and no good requests refused at random: the tests are to be about us.
    environment = {**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0", "PEBBLE_AUTHZREUSE": "0"}
    off = [word for option in ("http01", "https01", "tlsalpn01") for word in (f"-{option}", "")]
    answer = ["-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", f"127.0.0.1:{dns}"]
    commands = (
        ["pebble-challtestsrv", *answer, *off, "-management", f"127.0.0.1:{names}"],
        ["pebble", "-config", str(home / "pebble.json"), "-dnsserver", f"127.0.0.1:{dns}"],
    )
    with made.log.open("wb") as log, contextlib.ExitStack() as stack:
        for command in commands:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)  # noqa: ASYNC220 - starts at once
            stack.callback(process.wait)
            stack.callback(process.kill)
        await eventually(made.listens, "Pebble to listen")
        await _fetch_root(made, manage)
        yield made


async def _fetch_root(made: Authority, port: int) -> None:
    context = ssl.create_default_context(cafile=str(made.signed_by))
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"https://localhost:{port}/roots/0", ssl=context) as response,
    ):
        await asyncio.to_thread(made.root.write_bytes, await response.read())
