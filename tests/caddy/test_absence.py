"""A plugin that is not there yet, or is too old to be seen: what Caddy has of other nodes stays meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import msgspec
import pytest

from ingress.app import Ingress
from ingress.following import absence
from stackpad.cli import render
from stackpad.cli.reports import Routes
from stackpad.engine import Engine
from tests.caddy.test_tls_report import FILED, HOST, running
from tests.caddy.workshop import eventually, shop
from tests.unit.ingress.following.test_follower import Script


async def test_what_caddy_has_stays_until_it_is_clear_that_no_plugin_comes(
    binary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets = tmp_path / "plugin"
    own = {"admin_socket": tmp_path / "run/ingress.sock", "state_dir": tmp_path / "state", "org": "acme"}
    async with shop(binary, tmp_path, net_socket=sockets / "web.sock", **own) as place:
        await place.asking.aclose()
        async with running(place, HOST, FILED):
            before = await place.adapter.generation()
        assert before is not None
        # A container has the directory from outside; and this time, the second host would be another node's.
        sockets.mkdir()
        monkeypatch.setattr(absence, "PATIENCE", 1e9)
        engine = Script()
        made = Ingress(place.settings, cast(Engine, engine))
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(made.run())

            async def waits() -> bool:
                return "the plugin has not said yet" in str(made.report()["problem"])

            async def gone_on() -> bool:
                return made.report()["problem"] is None

            await eventually(waits, "the ingress to wait for a plugin")
            assert await place.adapter.generation() == before
            monkeypatch.setattr(absence, "PATIENCE", 0.0)
            await eventually(gone_on, "the ingress to go on without")
            assert await place.adapter.generation() != before
            report = msgspec.convert(made.report(), Routes)
            assert report.troubled
            assert f"ingress: no plugin has a socket in {sockets}" in render.text(render.routes(report, 1.0))
            task.cancel()
