"""A real Chromium without a screen, told what to do by its own protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

DEADLINE = 60.0


class Browser:
    """One tab. ``complaints`` are what it has written to its console, such as what the page's policy forbids."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self._socket = socket
        self._numbers = itertools.count(1)

    async def tell(self, method: str, **parameters: Any) -> Any:
        """One command and its answer; what is reported in between is noted."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            said = await self._socket.receive_json(timeout=DEADLINE)
            if said.get("id") == number:
                assert "error" not in said, said
                return said["result"]
            if said.get("method") == "Log.entryAdded":
                self.complaints.append(said["params"]["entry"]["text"])
            elif said.get("method") == "Network.requestWillBeSent":
                self.asked.append(said["params"]["request"]["url"])

    async def open(self, url: str, *, scheme: str = "light", script: bool = True, width: int = 1240) -> None:
        """Go there, with what the visitor likes."""
        for area in ("Page", "Log", "Network"):
            await self.tell(f"{area}.enable")
        await self.tell("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        await self.tell("Emulation.setScriptExecutionDisabled", value=not script)
        await self.tell("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        await self.tell("Page.navigate", url=url)
        await self.sees("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def value(self, expression: str) -> Any:
        """What an expression is in the page; our own words run also where the page's do not."""
        made = await self.tell("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in made, made
        return made["result"].get("value")

    async def sees(self, expression: str) -> None:
        """Fail unless the expression comes true."""
        until = time.monotonic() + DEADLINE
        while not await self.value(expression):
            assert time.monotonic() < until, f"in vain, waited for {expression}"
            await asyncio.sleep(0.05)

    async def picture(self, *, height: float | None = None) -> bytes:
        """The page as PNG; all of it, or its top."""
        size = await self.value("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": height or size[1], "scale": 1}
        made = await self.tell("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(made["data"])


def missing() -> str | None:
    """Why there is no browser, if so."""
    return None if shutil.which("chromium") else "no chromium: install the package chromium"


@contextlib.asynccontextmanager
async def browser(home: Path) -> AsyncIterator[Browser]:
    """A browser of its own, with everything it keeps below ``home``."""
    process = await asyncio.create_subprocess_exec(
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
        "--remote-debugging-port=0", f"--user-data-dir={home / 'profile'}", "about:blank",
        env={**os.environ, "HOME": str(home)}, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        port = await _port(home / "profile/DevToolsActivePort", process)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
                tabs = await response.json(content_type=None)
            tab = next(tab for tab in tabs if tab["type"] == "page")
            async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Browser(socket)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _port(file: Path, process: asyncio.subprocess.Process) -> int:
    until = time.monotonic() + DEADLINE
    while True:
        with contextlib.suppress(FileNotFoundError, IndexError, ValueError):
            return int(file.read_text().split()[0])  # noqa: ASYNC240 - nobody else waits
        assert process.returncode is None, "Chromium has ended"
        assert time.monotonic() < until, "Chromium does not say its port"
        await asyncio.sleep(0.05)
