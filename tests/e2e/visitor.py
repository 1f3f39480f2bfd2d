"""Somebody who visits web services on a node, over HTTPS, and what the ingress there says of itself."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.workbench import Workbench, eventually
from tests.testbed.proxy import ADMIN
from tests.testbed.testbed import Testbed

NETWORK, HOST = "my-app-production", "my-app.acme.stackpad.test"
WEB = ("--label", "stackpad.type=web", "--label", "stackpad.port=80")


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who asks for pages from outside the node, and trusts its Caddy's authority or another one."""

    bench: Workbench
    ca: Path | None = None

    def get(self, host: str, path: str = "/", *options: str, scheme: str = "https") -> tuple[int, str]:
        """Status and body; status 0 without an answer (a refused handshake, too)."""
        port = 443 if scheme == "https" else 80
        done = subprocess.run(
            [
                "curl", "--silent", "--max-time", "30", "--cacert", str(self.ca or self.bench.bed.proxy.ca),
                "--resolve", f"{host}:{port}:{self.bench.node.address}", "--write-out", "\n%{http_code}", *options,
                f"{scheme}://{host}{path}",
            ],
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        body, _, status = done.stdout.rpartition("\n")
        return int(status or 0), body

    def status(self, host: str, path: str = "/") -> int:
        """The status alone."""
        return self.get(host, path)[0]

    def sees(self, host: str, status: int, text: str = "") -> None:
        """Fail unless the host comes to answer so."""
        eventually(lambda: self._is(host, status, text), f"{status} {text} at {host}, not {self.get(host)}")

    def visit(self, host: str) -> int:
        """The status as a browser has it: a page whose connection ended unanswered is asked for once more.

        Connections that are made while Caddy changes its configuration may end so; see the limits in docs/ingress.md.
        """
        return self.status(host) or self.status(host)

    @contextlib.contextmanager
    def steady(self, host: str) -> Iterator[list[int]]:
        """Ask for the host's page again and again, one after the other; yields the list that the statuses go to."""
        statuses: list[int] = []
        enough = threading.Event()

        def ask() -> None:
            while not enough.is_set():
                statuses.append(self.visit(host))

        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(ask)
            try:
                yield statuses
            finally:
                enough.set()
                asking.result()

    @contextlib.contextmanager
    def upgraded(self, host: str) -> Iterator[ssl.SSLSocket]:
        """A connection that has been upgraded to a WebSocket, without its framing; closed at the end."""
        context = ssl.create_default_context(cafile=str(self.bench.bed.proxy.ca))
        with (
            socket.create_connection((self.bench.node.address, 443), 60) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            secure.sendall(
                f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
            )
            head = b""
            while b"\r\n\r\n" not in head:
                head += secure.recv(4096)
            assert b" 101 " in head
            yield secure

    def sees_route(self, host: str) -> None:
        """Fail unless the ingress comes to have the host up."""
        eventually(lambda: any((r["host"], r["state"]) == (host, "up") for r in report(self.bench)["routes"]), host)

    def _is(self, host: str, status: int, text: str) -> bool:
        found, body = self.get(host)
        return found == status and text in body


@pytest.fixture
def visitor(bed: Testbed) -> Iterator[Visitor]:
    """A visitor, and an ingress and Caddy that run."""
    bench = Workbench(bed)
    bench.network(NETWORK)
    yield Visitor(bench)
    bench.clear()
    eventually(lambda: routes(bench) == [], "an empty table")
    forget_domains(bench)


def report(bench: Workbench) -> dict[str, list[dict[str, object]]]:
    """What the ingress says of itself."""
    return dict(told(bench, "/routes"))


def told(bench: Workbench, path: str, *options: str) -> Any:
    """What the ingress answers on its socket."""
    at = f"{bench.node.root}/run/stackpad/ingress/ingress.sock"
    ask = [
        "curl",
        "-s",
        "--fail-with-body",
        "--max-time",
        "30",
        "--unix-socket",
        at,
        *options,
        f"http://ingress{path}",
    ]
    return json.loads(subprocess.run(ask, capture_output=True, text=True, check=True).stdout)


def domain(bench: Workbench, command: str, name: str, **given: str) -> Any:
    """What ``stackpad domain`` does."""
    return told(bench, f"/domain/{command}", "--data", json.dumps({"domain": name, **given}))


def forget_domains(bench: Workbench) -> None:
    """Release all domains; one that several have asked for is listed for each, and one nobody asks for goes by itself.

    Again and again: who waited for a name has it when it is released, until the ingress hears that he is gone, too.
    """

    def forgotten() -> bool:
        for name in {str(one["domain"]) for one in told(bench, "/domains")}:
            with contextlib.suppress(subprocess.CalledProcessError):
                domain(bench, "release", name)
        return bool(told(bench, "/domains") == [])

    eventually(forgotten, "no domains to be left")


def routes(bench: Workbench) -> list[dict[str, object]] | None:
    """The routes, or nothing while the ingress is just starting."""
    try:
        return report(bench)["routes"]
    except subprocess.CalledProcessError:
        return None


def caddy(bench: Workbench, method: str, path: str, body: object = None) -> str:
    """What an operator does to Caddy."""
    # "Host;" sends the header empty, as Caddy 2.6 wants it on a unix socket.
    ask = ["curl", "-s", "--fail", "--unix-socket", f"{bench.node.root}{ADMIN}", "-X", method, "-H", "Host;"]
    data = [] if body is None else ["-H", "Content-Type: application/json", "--data", json.dumps(body)]
    done = subprocess.run([*ask, *data, f"http://caddy{path}"], capture_output=True, text=True, check=True)
    return done.stdout
