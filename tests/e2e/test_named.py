"""``ROUTING=srv`` on a real engine: Caddy asks for hosts, and is not written to when they come, go and are redeployed."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

import pytest

from tests.e2e.visitor import HOST, NETWORK, WEB, Visitor, caddy, routes
from tests.e2e.workbench import eventually

OTHER = "other.acme.stackpad.test"

ECHO = """
import socket
s = socket.create_server(("", 80))
while True:
    c, _ = s.accept()
    if c.recv(4096):
        c.sendall(b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n\\r\\n")
        while data := c.recv(100):
            c.sendall(data)
    c.close()
"""
"""Echoes what comes over upgraded connections, one after the other; who says nothing only tried the port."""


@pytest.fixture
def by_name(visitor: Visitor) -> Iterator[Visitor]:
    """The same visitor, and an ingress that is asked."""
    proxy = visitor.bench.bed.proxy
    proxy.stop_ingress()
    proxy.start_ingress(ROUTING="srv")
    eventually(lambda: routes(visitor.bench) is not None, "the ingress")
    yield visitor
    proxy.stop_ingress()
    proxy.start_ingress()
    eventually(lambda: routes(visitor.bench) is not None, "the ingress as it was")


def test_hosts_come_and_go_and_a_websocket_stays(by_name: Visitor) -> None:
    bench = by_name.bench
    bench.start("echo", NETWORK, *WEB, command=("python3", "-c", ECHO))
    by_name.sees_route(HOST)
    before = caddy(bench, "GET", "/id/stackpad")
    assert "dynamic_upstreams" in before
    assert HOST not in before
    context = ssl.create_default_context(cafile=str(bench.bed.proxy.ca))
    eventually(lambda: _certified(by_name, context), "a certificate")
    with (
        socket.create_connection((bench.node.address, 443), 60) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as secure,
    ):
        secure.sendall(
            f"GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += secure.recv(4096)
        assert b" 101 " in head
        labels = (*WEB, "--label", "stackpad.project=other")
        bench.serve("old", NETWORK, *labels)
        by_name.sees(OTHER, 200, "old ")
        bench.serve("new", NETWORK, *labels)
        bench.docker("rm", "--force", "old")
        by_name.sees(OTHER, 200, "new ")
        bench.docker("stop", "--time", "0", "new")
        by_name.sees(OTHER, 503)
        bench.docker("rm", "--force", "new")
        by_name.sees(OTHER, 404)
        secure.sendall(b"still here")
        assert secure.recv(100) == b"still here"
    assert caddy(bench, "GET", "/id/stackpad") == before


def _certified(visitor: Visitor, context: ssl.SSLContext) -> bool:
    try:
        with (
            socket.create_connection((visitor.bench.node.address, 443), 10) as plain,
            context.wrap_socket(plain, server_hostname=HOST),
        ):
            return True
    except (OSError, ssl.SSLError):
        return False
