"""The operator's certificate files in real Caddies: what they cover, what a change does, and what a bad one costs."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingress.caddy import loadfiles
from ingress.caddy.adapter import Caddy
from ingress.certificates.files import CertificateFiles
from stackpad.errors import InvalidRequest
from tests import certs
from tests.caddy.workshop import HOST, Shop, container, shop, table, upstream

OTHER = "shop.zed.stackpad.test"
WILDCARD = "*.acme.stackpad.test"


@pytest.fixture(autouse=True)
def _look_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loadfiles, "LOOK", 0.0)


@pytest.fixture
async def place(binary: str, tmp_path: Path) -> AsyncIterator[Shop]:
    """A shop with a directory of certificates, with one for all of acme in it."""
    certs.put(tmp_path / "certs", "acme", WILDCARD, issuer="From a file")
    async with shop(binary, tmp_path, certificates=tmp_path / "certs") as made:
        yield made


async def loaded(place: Shop) -> list[dict[str, Any]]:
    found = await place.caddy.ask("GET", "/config/apps/tls/certificates/load_files")
    assert isinstance(found, list)
    return found


async def looked(place: Shop, made: Any) -> None:
    """Two looks, after which a change on disk counts; and Caddy brought to it."""
    for _ in range(3):
        if not await place.adapter.in_step():
            assert not (await place.adapter.apply(made)).rejected


async def test_covered_hosts_ask_nobody_and_the_others_have_theirs_on_demand(place: Shop) -> None:
    async with upstream() as port:
        made = await place.apply(container(port=port), container("z", port=port, org="zed"))
        assert await place.issuer() == "From a file"
        assert await place.issuer("unknown.acme.stackpad.test") == "From a file", "who answers 404 there is our page"
        assert place.questions == []
        assert "Caddy Local Authority" in str(await place.issuer(OTHER))
        assert place.questions == [OTHER]
        assert await place.issuer("unknown.zed.stackpad.test") is None
        assert await place.adapter.in_step()
        assert (await place.adapter.apply(made)).writes == 0


async def test_a_changed_file_is_loaded_without_a_restart(place: Shop, tmp_path: Path) -> None:
    async with upstream() as port:
        made = await place.apply(container(port=port))
        certs.put(tmp_path / "certs", "acme", WILDCARD, issuer="Renewed")
        assert await place.adapter.in_step(), "it may be half-written"
        assert await place.issuer() == "From a file"
        assert not await place.adapter.in_step()
        await place.adapter.apply(made)
        assert await place.issuer() == "Renewed"
        certs.put(tmp_path / "certs", "zed", "*.zed.stackpad.test", issuer="New")
        await looked(place, made)
        assert await place.issuer(OTHER) == "New"
        for file in (tmp_path / "certs").iterdir():
            file.unlink()
        await looked(place, made)
        assert await loaded(place) == []
        assert "Caddy Local Authority" in str(await place.issuer())


async def test_the_operators_own_entries_stay(place: Shop, tmp_path: Path) -> None:
    certs.put(tmp_path / "own", "own", "own.example.test", issuer="The operator's")
    own = {"certificate": f"{tmp_path}/own/own.crt", "key": f"{tmp_path}/own/own.key", "tags": ["mine"]}
    place.caddy.stop()
    await place.caddy.start({"apps": {"tls": {"certificates": {"load_files": [own]}}}})
    async with upstream() as port:
        made = await place.apply(container(port=port))
        assert [one.get("@id") for one in await loaded(place)] == [None, "stackpad-cert-acme"]
        assert (await place.issuer(), await place.issuer("own.example.test")) == ("From a file", "The operator's")
        await place.caddy.ask("DELETE", "/id/stackpad-cert-acme")
        assert not await place.adapter.in_step()
        await place.adapter.apply(made)
        assert await place.issuer() == "From a file"
        later = Caddy(replace(place.settings, certificates=None))
        await later.apply(made)
        assert await loaded(place) == [own], "an ingress without the setting takes its own away, and no other"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: (d / "bad.key").unlink(), "bad.key is missing"),
        (lambda d: (d / "bad.crt").write_text("-----BEGIN CERTIFICATE-----\n"), "no certificate in PEM form"),
        (lambda d: shutil.copy(d / "acme.key", d / "bad.key"), "is not the key of"),
        (lambda d: certs.put(d, "bad", "*.zed.stackpad.test", first=-9, last=-1), "has expired"),
    ],
)
async def test_a_bad_pair_costs_itself_only(
    place: Shop, tmp_path: Path, spoil: Callable[[Path], object], words: str
) -> None:
    certs.put(tmp_path / "certs", "bad", "*.zed.stackpad.test", issuer="Bad")
    spoil(tmp_path / "certs")
    async with upstream() as port:
        await place.apply(container(port=port), container("z", port=port, org="zed"))
        assert await place.issuer() == "From a file"
        assert "Caddy Local Authority" in str(await place.issuer(OTHER)), "on demand, as without the file"
        (problem,) = place.adapter.certificates.problems
        assert words in problem


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: [(d / f"{name}.key").unlink() for name in ("acme", "zed")],
        lambda d: [(d / f"{name}.key").write_text("junk") for name in ("acme", "zed")],
        lambda d: [shutil.copy(d / "fine.key", d / f"{name}.key") for name in ("acme", "zed")],
    ],
)
async def test_files_that_go_bad_later_are_no_hosts_fault(
    place: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], object]
) -> None:
    """Caddy reads all files again with every change, and refuses it if one cannot be used."""
    directory = tmp_path / "certs"
    certs.put(directory, "zed", "*.zed.stackpad.test", issuer="Zed")
    certs.put(directory, "fine", "*.fine.stackpad.test", issuer="Fine")
    async with upstream("hello") as port:
        made = await place.apply(container(port=port))
        spoil(directory)
        # Nobody has looked at the files since: Caddy's refusal is the first sign.
        monkeypatch.setattr(loadfiles, "LOOK", 1000.0)
        made = await place.apply(container(port=port), container("n", port=port, project="new"), before=made)
        assert await place.visit("new.acme.stackpad.test") == (200, "hello")
        assert await place.issuer("x.fine.stackpad.test") == "Fine"
        assert await place.visit(HOST) == (200, "hello")
        monkeypatch.setattr(loadfiles, "LOOK", 0.0)
        await looked(place, made)
        assert [one["@id"] for one in await loaded(place)] == ["stackpad-cert-fine"]
        assert len(place.adapter.certificates.problems) == 2
        certs.put(directory, "acme", WILDCARD, issuer="Mended")
        await looked(place, made)
        assert await place.issuer("late.acme.stackpad.test") == "Mended"


async def test_a_file_of_the_operators_that_goes_bad_is_no_hosts_fault(place: Shop, tmp_path: Path) -> None:
    certs.put(tmp_path / "own", "own", "own.example.test", issuer="The operator's")
    own = {"certificate": f"{tmp_path}/own/own.crt", "key": f"{tmp_path}/own/own.key"}
    place.caddy.stop()
    await place.caddy.start({"apps": {"tls": {"certificates": {"load_files": [own]}}}})
    async with upstream("hello") as port:
        made = await place.apply(container(port=port))
        more = table(container(port=port), container("n", port=port, project="new"), before=made)
        (tmp_path / "own" / "own.key").unlink()
        for _ in range(2):
            with pytest.raises(InvalidRequest, match=r"every change .*own/own.key.* mend that"):
                await place.adapter.apply(more)
        assert await place.visit(HOST, "/", "--insecure") == (200, "hello")
        assert await place.issuer() == "From a file"
        certs.put(tmp_path / "own", "own", "own.example.test", issuer="Mended")
        assert not (await place.adapter.apply(more)).rejected
        assert await place.visit("new.acme.stackpad.test", "/", "--insecure") == (200, "hello")
        assert await place.issuer() == "From a file"


async def test_a_host_with_a_certificate_of_its_own_is_covered_later(place: Shop, tmp_path: Path) -> None:
    async with upstream() as port:
        made = await place.apply(container("z", port=port, org="zed"))
        assert "Caddy Local Authority" in str(await place.issuer(OTHER))
        certs.put(tmp_path / "certs", "zed", "*.zed.stackpad.test", issuer="New")
        await looked(place, made)
        assert await place.issuer("late.zed.stackpad.test") == "New"
        # 2.6 goes over to the file; newer ones use up what they have in memory.
        assert ("Caddy Local Authority" in str(await place.issuer(OTHER))) is place.adapter._keep_streams
        place.caddy.stop()
        await place.caddy.start()
        await place.adapter.apply(made)
        assert await place.issuer(OTHER) == "New"


async def test_files_that_caddy_does_not_find_are_told(
    place: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where Caddy runs in a container: the path is right here, and nothing there."""
    monkeypatch.chdir(tmp_path / "certs")
    files = loadfiles.LoadedFiles(place.adapter._api, CertificateFiles(Path("/proc/self/cwd")))
    place.adapter.certificates._files = files
    async with upstream("hello") as port:
        made = await place.apply(container(port=port))
        assert await place.visit(HOST) == (200, "hello")
        (problem,) = place.adapter.certificates.problems
        assert "Caddy does not find /proc/self/cwd/acme.crt" in problem
        assert "mount the directory" in problem
        assert (await place.adapter.apply(made)).writes == 0, "what was refused is not tried all the time"
        assert await place.adapter.in_step()


async def test_files_that_caddy_may_not_read_are_told(
    binary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root, to have a Caddy that may not read what we may")
    certs.put(tmp_path / "certs", "acme", WILDCARD, issuer="From a file")
    (tmp_path / "certs" / "acme.key").chmod(0)
    weak = tmp_path / "weak-caddy"
    weak.write_text(f'#!/bin/sh\nexec setpriv --bounding-set=-dac_override,-dac_read_search "{binary}" "$@"\n')
    weak.chmod(0o755)
    async with shop(str(weak), tmp_path, certificates=tmp_path / "certs") as place, upstream("hello") as port:
        made = await place.apply(container(port=port))
        assert await place.visit(HOST) == (200, "hello")
        (problem,) = place.adapter.certificates.problems
        assert "Caddy may not read" in problem
        (tmp_path / "certs" / "acme.key").chmod(0o400)
        await looked(place, made)
        assert place.adapter.certificates.problems == []
        assert await place.issuer("late.acme.stackpad.test") == "From a file"
        # Rights above the files leave no trace in them: it is tried again by the clock.
        (tmp_path / "certs" / "acme.key").chmod(0)
        made = await place.apply(container(port=port), container("n", port=port, project="new"), before=made)
        await looked(place, made)
        assert len(place.adapter.certificates.problems) == 1
        monkeypatch.setattr(loadfiles, "AGAIN", 0.0)
        writes = place.adapter._api.writes
        assert not await place.adapter.in_step()
        await place.adapter.apply(made)
        assert place.adapter._api.writes > writes


async def test_a_caddy_that_was_restarted_with_nothing_has_them_again(place: Shop) -> None:
    async with upstream() as port:
        made = await place.apply(container(port=port))
        place.caddy.stop()
        await place.caddy.start()
        assert not await place.adapter.in_step()
        await place.adapter.apply(made)
        assert await place.issuer() == "From a file"
