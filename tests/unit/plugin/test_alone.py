"""One plugin on a node: a second one ends at once and touches nothing, by real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugin import sockets
from tests.testbed.shell import ROOT


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose name leaves room for that of a socket (108 bytes, unix(7))."""
    with tempfile.TemporaryDirectory(prefix="sp") as directory:
        yield Path(directory)


def test_a_second_plugin_ends_and_leaves_the_firsts_sockets(place: Path) -> None:
    first = sockets.listen(sockets.host_socket(place))
    held = sockets.alone(place / "stackpad")
    assert held is not None
    environment = {**os.environ, "HOST_RUN": str(place), "HOST_LIB": str(place / "lib"), "PYTHONPATH": str(ROOT)}
    with held:
        second = subprocess.run(
            [sys.executable, "-m", "plugin"], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    assert second.returncode == 1
    assert "another plugin of ours is at work on this node" in second.stderr
    assert first.path.stat().st_ino == first.inode
    there = {path.name for path in place.rglob("*") if not path.is_dir()}
    assert there == {"stackpad.sock", "plugin.lock"}
    first.remove()
    first.socket.close()


def test_the_next_one_is_alone_again(tmp_path: Path) -> None:
    for _ in range(2):
        held = sockets.alone(tmp_path)
        assert held is not None
        held.close()
