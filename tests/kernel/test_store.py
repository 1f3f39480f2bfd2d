"""Who of a node reaches the embedded store in the tunnel, on a real kernel: root's user and group, and nobody else."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugin.kernel.dataplane import FILTER, Element
from plugin.kernel.firewall import Firewall
from tests.kernel.frames import dropped
from tests.netns import ip
from tools.install import USER

STORE = ("10.192.0.1", 2379)

DIAL = """
import socket, sys
address, port, protocol = sys.argv[1], *map(int, sys.argv[2:])
try:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol) as connection:
        connection.settimeout(10)
        connection.connect((address, port))
        print("answered")
except ConnectionRefusedError:
    print("refused")
except OSError as error:
    print(error.strerror)
"""

TCP, MPTCP = socket.IPPROTO_TCP, 262

ROOT, INGRESS, NOBODY = (0, 0), tuple(map(int, USER.split(":"))), (65534, 65534)


@pytest.fixture
def store(netns: None) -> Iterator[None]:
    """A server at the store's address, with our rules before it."""
    ip("addr", "add", f"{STORE[0]}/32", "dev", "lo")
    with socket.create_server(STORE):
        Firewall().install([Element(FILTER, "stores", " . ".join(map(str, STORE)))])
        yield


def dial(who: tuple[int, ...], protocol: int = TCP, port: int = STORE[1]) -> str:
    user, group = who
    somebody = () if who == ROOT else ("setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--")
    words = [*somebody, sys.executable, "-c", DIAL, STORE[0], str(port), str(protocol)]
    done = subprocess.run(words, cwd=Path("/"), capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_root_is_answered(store: None) -> None:
    assert dial(ROOT) == "answered"


@pytest.mark.parametrize("who", [INGRESS, NOBODY, (65534, 0)], ids=["ingress", "nobody", "root's group"])
def test_nobody_else_is(store: None, who: tuple[int, ...]) -> None:
    assert dial(who) == "refused"
    assert dropped("the store is root's alone") == 1


@pytest.mark.parametrize("who", [INGRESS, NOBODY], ids=["ingress", "nobody"])
def test_nor_by_a_protocol_whose_sockets_have_no_file(store: None, who: tuple[int, ...]) -> None:
    """The kernel opens the connection in a socket of its own, which in some versions has nobody's user and group."""
    assert dial(who, MPTCP) in {"refused", "Protocol not supported", "Protocol not available"}


def test_other_ports_are_open_to_everybody(store: None) -> None:
    with socket.create_server((STORE[0], 8080)):
        assert {dial(who, port=8080) for who in (ROOT, INGRESS, NOBODY)} == {"answered"}
