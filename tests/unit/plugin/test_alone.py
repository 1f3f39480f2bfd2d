"""One plugin on a node: a second one ends at once and touches nothing, by real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from plugin import sockets
from tests.testbed.shell import ROOT


def test_a_second_plugin_ends_and_leaves_the_firsts_sockets(tmp_path: Path) -> None:
    first = sockets.listen(sockets.host_socket(tmp_path))
    held = sockets.alone(tmp_path / "stackpad")
    assert held is not None
    environment = {**os.environ, "HOST_RUN": str(tmp_path), "HOST_LIB": str(tmp_path / "lib"), "PYTHONPATH": str(ROOT)}
    with held:
        second = subprocess.run(
            [sys.executable, "-m", "plugin"], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    assert second.returncode == 1
    assert "another plugin of ours is at work on this node" in second.stderr
    assert first.path.stat().st_ino == first.inode
    there = {path.name for path in tmp_path.rglob("*") if not path.is_dir()}
    assert there == {"stackpad.sock", "plugin.lock"}
    first.remove()
    first.socket.close()


def test_the_next_one_is_alone_again(tmp_path: Path) -> None:
    for _ in range(2):
        held = sockets.alone(tmp_path)
        assert held is not None
        held.close()
