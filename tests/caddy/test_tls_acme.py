"""Certificates on demand from an ACME authority that checks and counts, over restarts of everybody."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ingress.caddy.adapter import Caddy
from ingress.certificates import seen
from ingress.certificates.seen import UNVISITED, Seen
from ingress.routes import Table
from tests.caddy.authority import Authority, authority
from tests.caddy.workshop import HOST, Shop, container, eventually, free_port, shop, upstream

MISSING = "missing.acme.stackpad.test"
OTHER = "other.acme.stackpad.test"


@dataclass
class Scene:
    """A shop whose Caddy has its certificates from an authority, and a tenant's server."""

    place: Shop
    authority: Authority
    port: int
    served: Table

    async def visit(self, host: str = HOST, *options: str) -> tuple[int, str]:
        """A visitor who believes the authority, and nobody else."""
        return await self.place.visit(host, "/", "--cacert", str(self.authority.root), *options)

    async def in_step_again(self, adapter: Caddy | None = None) -> None:
        """Have Caddy what it should have, by the ingress that was there or by a new one."""
        chosen = adapter or self.place.adapter
        assert not (await chosen.apply(self.served)).rejected
        assert await chosen.in_step()


@pytest.fixture
async def scene(binary: str, tmp_path: Path) -> AsyncIterator[Scene]:
    ports = {"http_port": free_port(), "https_port": free_port()}
    async with authority(tmp_path / "pebble", **ports) as made:
        trust = {"acme_ca": made.directory, "acme_ca_root": str(made.signed_by)}
        async with shop(binary, tmp_path, tls="acme", **trust, **ports) as place, upstream("hello") as port:
            served = await place.apply(container(port=port), container("m", port=port, project="missing"))
            yield Scene(place, made, port, served)


async def test_the_first_visit_has_a_certificate_and_restarts_have_none_anew(scene: Scene) -> None:
    place = scene.place
    assert await scene.visit() == (200, "hello")
    assert (scene.authority.orders(), scene.authority.issued()) == (1, 1)
    assert place.questions == [HOST]
    # The ingress anew.
    await scene.in_step_again(Caddy(place.settings))
    assert await scene.visit() == (200, "hello")
    # Caddy anew with what it had, kindly and not, and with nothing at all.
    kept: dict[str, Any] = {"apps": (await place.caddy.ask("GET", "/config/"))["apps"]}
    for how, base in ((signal.SIGTERM, kept), (signal.SIGKILL, kept), (signal.SIGTERM, None), (signal.SIGKILL, None)):
        place.caddy.stop(how)
        await place.caddy.start(base)
        await scene.in_step_again()
        assert await scene.visit() == (200, "hello")
    # And both at once.
    place.caddy.stop(signal.SIGKILL)
    await place.caddy.start()
    await scene.in_step_again(Caddy(place.settings))
    assert await scene.visit() == (200, "hello")
    assert (scene.authority.orders(), scene.authority.issued()) == (1, 1), "the authority has not heard of us again"


async def test_no_order_is_made_for_a_name_nobody_has(scene: Scene) -> None:
    for host in ("unknown.acme.stackpad.test", "www.example.org", "stackpad.test"):
        assert (await scene.visit(host))[0] == 0
    assert scene.authority.orders() == 0
    assert scene.place.questions == ["unknown.acme.stackpad.test"], "of names outside, nobody is even asked"


async def test_while_the_ingress_is_down_no_name_is_had_and_those_that_are_go_on(scene: Scene) -> None:
    assert await scene.visit() == (200, "hello")
    await scene.place.asking.aclose()
    scene.place.known.add(OTHER)
    for host in (MISSING, OTHER, "unknown.acme.stackpad.test"):
        assert (await scene.visit(host))[0] == 0
    assert await scene.visit() == (200, "hello")
    assert scene.authority.orders() == 1


async def test_a_name_that_fails_is_not_tried_in_a_hot_loop(scene: Scene) -> None:
    await scene.authority.fail(MISSING)
    impatient = ("--max-time", "2")
    for _ in range(3):
        found = await asyncio.gather(*(scene.visit(MISSING, *impatient) for _ in range(5)))
        assert {status for status, _ in found} == {0}
    questions = scene.place.questions.count(MISSING)
    assert 1 <= questions <= 2, "visitors wait for the try that is under way"
    assert 1 <= scene.authority.orders() <= 3, "one for each kind of challenge, and then a pause"
    assert await scene.visit() == (200, "hello"), "nobody else has to wait"


@contextlib.asynccontextmanager
async def looking(scene: Scene, path: Path) -> AsyncIterator[Seen]:
    """The ingress's own looks, told of Caddy's questions."""
    found = Seen(scene.place.settings.https_port, path)
    scene.place.heard.append(found.asked)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(found.run())
        try:
            yield found
        finally:
            scene.place.heard.remove(found.asked)
            running.cancel()


async def test_certificates_are_seen_and_none_is_had_by_looking(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seen, "GAP", 0.0)
    kept = tmp_path / "certificates.json"

    async def found_out() -> bool:
        return looks.of(HOST)[0] is not None

    async with looking(scene, kept) as looks:
        looks.cover({}, [], [host.host for host in scene.served.hosts])
        assert looks.of(HOST) == (None, UNVISITED)
        assert await scene.visit() == (200, "hello")
        await eventually(found_out, "the certificate to be seen")
        certificate, _ = looks.of(HOST)
        assert certificate is not None
        assert certificate.issuer.startswith("Pebble Intermediate CA")
        assert looks.of(MISSING) == (None, UNVISITED)
    assert (scene.authority.orders(), scene.authority.issued()) == (1, 1)
    # Both anew: the looks know what the ones before have seen, and nothing is had for it.
    scene.place.caddy.stop(signal.SIGKILL)
    await scene.place.caddy.start()
    await scene.in_step_again(Caddy(scene.place.settings))
    async with looking(scene, kept) as later:
        assert later.of(HOST) == (certificate, None)
        assert await scene.visit() == (200, "hello")
    assert (scene.authority.orders(), scene.authority.issued()) == (1, 1)


async def test_a_look_beside_a_failing_visit_makes_no_order_of_its_own(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seen, "GAP", 0.0)
    await scene.authority.fail(MISSING)
    async with looking(scene, tmp_path / "certificates.json") as looks:
        for _ in range(2):
            assert (await scene.visit(MISSING, "--max-time", "3"))[0] == 0
        assert looks.of(MISSING)[0] is None
    assert 1 <= scene.authority.orders() <= 3, "as many as without a look"
