"""A Caddy that does not run, and one that does and cannot be talked to."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ingress.caddy.adminapi import AdminApi, NotRunning
from stackpad.errors import Unavailable
from tests.unit.stackpad.canned import served


@pytest.mark.parametrize("left", [True, False])
async def test_nobody_listens(tmp_path: Path, left: bool) -> None:
    """A process that was killed leaves its socket behind."""
    path = tmp_path / "admin.sock"
    if left:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    with pytest.raises(NotRunning, match=f"admin socket {path}.*; is Caddy running"):
        await AdminApi(path).get("/config/")


async def test_one_that_listens_runs(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with served(path, {"/config/": "no JSON"}), pytest.raises(Unavailable, match="is no Caddy") as strange:
        await AdminApi(path).get("/config/")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "mute.sock"))
        listener.listen()
        listener.setblocking(False)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ingress.caddy.adminapi.TIMEOUT", 0.2)
            with pytest.raises(Unavailable, match="does not answer") as mute:
                await AdminApi(tmp_path / "mute.sock").get("/config/")
    assert not isinstance(strange.value, NotRunning)
    assert not isinstance(mute.value, NotRunning)
