"""The status page as people see it: in light and dark, with and without JavaScript, live, and with hostile names."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from aiohttp import web

from ingress.page.overview import Attached, PluginWord
from ingress.page.plugindesk import PluginDesk
from ingress.page.statuspage import StatusPage
from ingress.report import Facts
from ingress.routes import Problem
from stackpad.listening import Place
from tests.browser import fleet
from tests.browser.chromium import Browser, browser, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")

PICTURES = os.environ.get("STACKPAD_PICTURES")
"""A directory for the pictures, to be looked at; without it they are not kept."""


class Desk(PluginDesk):
    """The plugin's answers, as the test has them."""

    def __init__(self) -> None:
        super().__init__(Place(Path("/nowhere")))
        self.says = fleet.WORD

    async def word(self) -> PluginWord:
        return self.says


@dataclass
class Shown:
    """A served page, and what it is made of."""

    facts: Facts
    desk: Desk
    url: str = ""


@contextlib.asynccontextmanager
async def shown(facts: Facts) -> AsyncIterator[Shown]:
    there = Shown(facts, Desk())
    runner = web.AppRunner(StatusPage(lambda: there.facts, there.desk, fleet.BASE).application(), shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        there.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        yield there
    finally:
        await runner.cleanup()


async def keep(tab: Browser, name: str, *, height: float | None = None) -> bytes:
    """A picture, kept where the one who runs the tests wants to see it."""
    picture = await tab.picture(height=height)
    if PICTURES:
        (Path(PICTURES) / f"{name}.png").write_bytes(picture)
    return picture


async def test_light_dark_and_narrow(tmp_path: Path) -> None:
    async with shown(fleet.facts(*fleet.CONTAINERS)) as there, browser(tmp_path) as tab:
        backs, pictures = [], []
        for scheme in ("light", "dark"):
            await tab.open(there.url, scheme=scheme)
            await tab.sees("document.getElementById('live').textContent === 'Live'")
            backs.append(await tab.value("getComputedStyle(document.body).backgroundColor"))
            pictures.append(await keep(tab, scheme, height=1310))
        assert backs == ["rgb(244, 245, 248)", "rgb(16, 19, 26)"]
        assert pictures[0] != pictures[1]
        await tab.open(there.url, width=420)
        assert await tab.value("document.documentElement.scrollWidth") <= 420, "a phone need not scroll sideways"
        await keep(tab, "narrow")
        assert not tab.complaints
        assert {url.split("?")[0] for url in tab.asked if not url.startswith("data:")} == {
            there.url, f"{there.url}page.css", f"{there.url}page.js", f"{there.url}events",
        }  # fmt: skip


async def test_everything_is_there_without_javascript(tmp_path: Path) -> None:
    async with shown(fleet.trouble()) as there, browser(tmp_path) as tab:
        await tab.open(there.url, script=False)
        text = await tab.value("document.body.innerText")
        assert "reload for news" in text
        for word in ("frankfurt-2", "helsinki-1", "shop-staging", "postgres", "stats.example.net", "admin.sock", "old-1"):
            assert word in text
        assert await tab.value("document.querySelectorAll('svg.map .host').length") == 7
        assert await tab.value("document.querySelectorAll('svg.map .line').length") == 10
        await keep(tab, "without-javascript")
        assert not [url for url in tab.asked if "events" in url], "no script has run"
        await tab.open(f"{there.url}?q=wiki", script=False)
        assert await tab.value("document.querySelectorAll('#routes tbody tr').length") == 1


async def test_news_come_by_themselves_also_after_an_interruption(tmp_path: Path) -> None:
    async with browser(tmp_path) as tab:
        async with shown(fleet.facts(*fleet.CONTAINERS[:1])) as there:
            await tab.open(there.url)
            assert "wiki.acme" not in await tab.value("document.body.innerText")
            await tab.value("document.querySelector('input').value = 'half typed'")
            there.facts = fleet.facts(*fleet.CONTAINERS)
            await tab.sees("document.querySelector('#routes').innerText.includes('wiki.acme.example.org')")
            await tab.sees("document.querySelector('#map svg').textContent.includes('wiki.acme.example.org')")
            assert await tab.value("document.querySelector('input').value") == "half typed", "nobody loses what they type"
        await tab.sees("document.getElementById('live').className === 'off'")


async def test_what_tenants_write_is_text(tmp_path: Path) -> None:
    evil = '<img src=x onerror="document.title=1"><script>document.title=2</script>\u202egpj.exe'
    made = fleet.facts(
        *(replace(one, name=evil) for one in fleet.CONTAINERS[:1]),
        problems=(Problem("x", evil, f"label {evil} cannot be meant"),),
        problem=evil,
    )
    async with shown(made) as there, browser(tmp_path) as tab:
        there.desk.says = PluginWord((Attached(evil, evil), Attached("a'b\"c", "</text></svg><b>bold</b>")))
        await tab.open(f"{there.url}?q=")
        await tab.sees("document.getElementById('live').textContent === 'Live'")
        await tab.sees("document.querySelector('#map svg').textContent.includes('</svg><b>')")
        assert await tab.value("document.title") == "example.org · Stackpad"
        assert await tab.value("document.querySelectorAll('img, b b, main script').length") == 0
        text = await tab.value("document.body.innerText")
        assert "<script>" in text
        assert "\u202e" not in text, "nothing turns the line around"
        assert not tab.complaints, "escaped, not only stopped by the policy"
