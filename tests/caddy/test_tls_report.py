"""What the whole ingress says of certificates, with a real Caddy: in its report, to the command line, in its metrics.

The engine here is a script, which has nothing to do with certificates; the real one is in tests/e2e.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import msgspec
import pytest

from ingress.app import Ingress
from ingress.caddy import loadfiles
from ingress.certificates import seen
from stackpad.cli import render
from stackpad.cli.reports import RouteReport, Routes
from stackpad.engine import Engine
from tests import certs
from tests.caddy.workshop import Shop, eventually, shop
from tests.unit.ingress.following.test_follower import Script

HOST = "my-app.acme.stackpad.test"
FILED = "my-app.filed.stackpad.test"


@contextlib.asynccontextmanager
async def running(place: Shop, *hosts: str) -> AsyncIterator[Ingress]:
    """The ingress as it runs, with a container for each of these hosts."""
    engine = Script()
    for host in hosts:
        labels = {"stackpad.type": "web", "stackpad.port": "80", "stackpad.org": host.split(".")[1]}
        # None runs: nobody is to be called at the addresses of the script.
        engine.put(host.replace(".", "-"), Config__Labels=labels, State={"Running": False})
    made = Ingress(place.settings, cast(Engine, engine))
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(made.run())

        async def in_step() -> bool:
            return made.report()["problem"] is None

        try:
            await eventually(in_step, f"Caddy to be in step: {made.report()['problem']}")
            yield made
        finally:
            task.cancel()


def routes(ingress: Ingress) -> dict[str, RouteReport]:
    """What ``stackpad routes`` reads, by host."""
    return {route.host: route for route in msgspec.convert(ingress.report(), Routes).routes}


@pytest.fixture
async def place(binary: str, tmp_path: Path) -> AsyncIterator[Shop]:
    """A shop where nobody is asked for certificates yet: the ingress itself is to be."""
    own = {"admin_socket": tmp_path / "run/ingress.sock", "state_dir": tmp_path / "state", "org": "acme"}
    async with shop(binary, tmp_path, certificates=tmp_path / "certs", **own) as made:
        await made.asking.aclose()
        yield made


async def test_each_host_is_told_with_its_certificate(
    place: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seen, "GAP", 0.0)
    certs.put(tmp_path / "certs", "filed", "*.filed.stackpad.test", issuer="From a file", last=0.4)
    certs.put(tmp_path / "certs", "bad", "*.bad.stackpad.test", last=-0.5)
    async with running(place, HOST, FILED) as ingress:
        metric = ingress.registry.get_sample_value
        unvisited, filed = routes(ingress)[HOST], routes(ingress)[FILED].certificate
        assert unvisited.certificate is None
        assert "nobody has visited it yet" in str(unvisited.certificate_reason)
        assert filed is not None
        assert filed.issuer == "From a file"
        assert metric("stackpad_ingress_asked_total", {"answer": "yes"}) is None

        async def seen_it() -> bool:
            return routes(ingress)[HOST].certificate is not None

        assert await place.status(HOST) == 503, "a certificate, and nobody up behind it"
        await eventually(seen_it, "the certificate to be seen")
        found = routes(ingress)[HOST].certificate
        assert found is not None
        assert found.issuer.startswith("Caddy Local Authority")
        assert metric("stackpad_ingress_asked_total", {"answer": "yes"}) == 1.0
        assert await place.status("unknown.acme.stackpad.test") == 0
        assert metric("stackpad_ingress_asked_total", {"answer": "no"}) == 1.0
        assert metric("stackpad_ingress_certificate_problems") == 1.0
        ends = metric("stackpad_ingress_earliest_expiry_seconds")
        assert ends == min(found.not_after, filed.not_after)
        report = msgspec.convert(ingress.report(), Routes)
        shown = render.text(render.routes(report, time.time()))
        assert "Caddy Local Authority" in shown
        assert "From a file, until " in shown
        assert f"certificate: {tmp_path}/certs/bad.crt has expired; put a new certificate and its key there" in shown
        assert report.troubled
    async with running(place, HOST) as again:
        assert routes(again)[HOST].certificate == found, "known also to an ingress that has just started"
        assert again.registry.get_sample_value("stackpad_ingress_asked_total", {"answer": "yes"}) is None


async def test_a_file_that_changes_is_noticed_without_anything_else_happening(
    place: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loadfiles, "LOOK", 0.0)
    async with running(place, FILED):

        async def is_from(issuer: str) -> bool:
            return await place.issuer("x.filed.stackpad.test") == issuer

        certs.put(tmp_path / "certs", "filed", "*.filed.stackpad.test", issuer="First")
        await eventually(lambda: is_from("First"), "a new file to be loaded")
        certs.put(tmp_path / "certs", "filed", "*.filed.stackpad.test", issuer="Second")
        await eventually(lambda: is_from("Second"), "a changed file to be loaded")


async def test_without_the_ingress_what_there_is_goes_on(place: Shop, tmp_path: Path) -> None:
    certs.put(tmp_path / "certs", "filed", "*.filed.stackpad.test", issuer="From a file")
    async with running(place, HOST, FILED):
        assert await place.status(HOST) == 503
    assert await place.status(HOST) == 503
    assert await place.issuer(FILED) == "From a file"
    for host in ("other.acme.stackpad.test", "my-app.zed.stackpad.test"):
        assert await place.issuer(host) is None
    assert place.settings.seen_file.exists()
