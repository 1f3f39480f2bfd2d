"""Listening sockets: there from the first moment, root's only, and gone when their owner is."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

from plugin import sockets


def test_who_connects_at_once_is_served_later(tmp_path: Path) -> None:
    listener = sockets.listen(tmp_path / "deep" / "plugin.sock")
    with listener.socket, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(listener.path))
        client.send(b"hello")
        listener.socket.setblocking(True)
        served, _ = listener.socket.accept()
        with served:
            assert served.recv(5) == b"hello"


def test_only_root_connects(tmp_path: Path) -> None:
    listener = sockets.listen(tmp_path / "plugin.sock")
    with listener.socket:
        assert stat.S_IMODE(listener.path.stat().st_mode) == 0o600


def test_a_stale_socket_is_replaced_and_a_successors_is_left(tmp_path: Path) -> None:
    path = tmp_path / "plugin.sock"
    old = sockets.listen(path)
    new = sockets.listen(path)
    with old.socket, new.socket:
        old.remove()
        assert path.exists()
        new.remove()
        new.remove()
        assert list(tmp_path.iterdir()) == []


def test_the_hosts_plugin_directory(tmp_path: Path) -> None:
    assert sockets.host_socket(Path("/host/run")) == Path("/host/run/docker/plugins/stackpad.sock")
