"""Listening sockets: there from the first moment, root's only, and gone when their owner is."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from plugin import sockets
from plugin.settings import Settings


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


def test_what_a_killed_plugin_left_half_made_goes_with_the_next(tmp_path: Path) -> None:
    path = tmp_path / "plugin.sock"
    sockets._beside(path).touch()
    listener = sockets.listen(path)
    with listener.socket:
        assert list(tmp_path.iterdir()) == [path]


def test_all_of_a_killed_plugins_names_are_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "MANAGED", tmp_path / "managed.sock")
    settings = Settings.load({"HOST_RUN": str(tmp_path)})
    names = [sockets.MANAGED, sockets.host_socket(tmp_path), settings.admin_socket, settings.web_socket]
    for name in names:
        sockets.listen(name).socket.close()
    sockets._beside(names[0]).touch()
    sockets.clear(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if not path.is_dir()] == ["plugin.lock"]
    sockets.clear(tmp_path)


def test_another_plugins_names_are_left(tmp_path: Path) -> None:
    held = sockets.alone(tmp_path / "stackpad")
    assert held is not None
    with held, sockets.listen(sockets.host_socket(tmp_path)).socket:
        sockets.clear(tmp_path)
        assert sockets.host_socket(tmp_path).exists()
