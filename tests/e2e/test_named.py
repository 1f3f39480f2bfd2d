"""``ROUTING=srv`` on a real engine: Caddy asks for hosts, and is not written to when they come, go and are redeployed."""

from __future__ import annotations

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
    if b"websocket" in (said := c.recv(4096)):
        c.sendall(b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n\\r\\n")
        while data := c.recv(100):
            c.sendall(data)
    elif said:
        c.sendall(b"HTTP/1.0 204 No Content\\r\\n\\r\\n")
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
    # Has the certificate made, too: the first handshake may be refused while Caddy is only about to have it.
    eventually(lambda: by_name.get(HOST)[0] == 204, "an answer")
    with by_name.upgraded(HOST) as connection:
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
        connection.sendall(b"still here")
        assert connection.makefile("rb").read(10) == b"still here"
    assert caddy(bench, "GET", "/id/stackpad") == before
