"""The plugin as a process on a state that is cut in half: what it says, what it leaves alone, how it goes on."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import samples
from tests.fuzz.process import ADMIN, DRIVER, Process, plugin
from tests.netns import run

DEADLINE = 60
REASON = "net.db cannot be used: database disk image is malformed; make it root's, repair the disk or put a copy back"


@pytest.fixture
def halved(tmp_path: Path) -> Iterator[Process]:
    """A plugin with one network, started again after its state was cut; the whole one is kept as ``whole``."""
    lib = tmp_path / "lib"
    with plugin(tmp_path / "first", HOST_LIB=str(lib)) as process:
        assert asyncio.run(call(process, "NetworkDriver.CreateNetwork", samples.create_network(1))) == {}
    state = lib / "stackpad" / "net.db"
    shutil.copy(state, tmp_path / "whole")
    os.truncate(state, state.stat().st_size // 2)
    with plugin(tmp_path / "second", HOST_LIB=str(lib)) as process:
        yield process


async def call(process: Process, method: str, body: Any = None) -> dict[str, Any]:
    """What Docker is answered, on a connection of its own."""
    async with (
        process.session(DRIVER) as session,
        session.post(f"http://plugin/{method}", json=body) as answer,
    ):
        assert answer.status == 200
        return dict(json.loads(await answer.read()))


async def ask(process: Process, path: str) -> tuple[int, Any]:
    """What the command line is answered."""
    async with process.session(ADMIN) as session, session.get(f"http://plugin{path}") as answer:
        return answer.status, json.loads(await answer.read())


async def calling(process: Process, done: asyncio.Event) -> list[str]:
    """Call without a pause until ``done``; each call is answered. Returns the errors."""
    errors = []
    while not done.is_set():
        answer = await call(process, "NetworkDriver.DeleteNetwork", {"NetworkID": samples.network_id(9)})
        errors.append(answer.get("Err", ""))
    return errors


async def test_it_says_why_and_goes_on_once_the_state_is_whole(halved: Process, tmp_path: Path) -> None:
    state = tmp_path / "lib" / "stackpad" / "net.db"
    sockets = [(halved.run / DRIVER).stat().st_ino]
    assert await call(halved, "Plugin.Activate") == {"Implements": ["NetworkDriver", "IpamDriver"]}
    assert await call(halved, "NetworkDriver.GetCapabilities") == {"Scope": "local", "ConnectivityScope": "local"}
    for method, body in (
        ("NetworkDriver.CreateNetwork", samples.create_network(2)),
        ("NetworkDriver.Leave", {}),
        ("IpamDriver.RequestPool", None),
    ):
        answer = await call(halved, method, body)
        assert REASON in answer["Err"]
        assert answer["Err"] == answer["Error"]
    for path in ("/status", "/cluster?round-trip"):
        status, said = await ask(halved, path)
        assert (status, REASON in said["error"]) == (503, True)
    assert run("nft", "list", "ruleset") == ""

    done = asyncio.Event()
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as tasks:
        callers = [tasks.create_task(calling(halved, done)) for _ in range(4)]
        shutil.copy(tmp_path / "whole", state)
        # The callers' calls are the pause between two of these.
        while await call(halved, "NetworkDriver.CreateNetwork", samples.create_network(2)):
            pass
        done.set()
    for caller in callers:
        errors = caller.result()
        assert errors == sorted(errors, reverse=True), "first the reason, then none"
        assert REASON in errors[0]
        assert errors[-1] == ""
    _, networks = await ask(halved, "/networks")
    assert {network["id"] for network in networks} == {samples.network_id(1), samples.network_id(2)}
    assert [(halved.run / DRIVER).stat().st_ino] == sockets
    assert halved.words().count("cannot be used") == 1, "said once, however often it has looked"


def test_it_ends_when_it_is_told_to_and_has_changed_nothing(halved: Process, tmp_path: Path) -> None:
    async def refused() -> dict[str, Any]:
        return await call(halved, "NetworkDriver.CreateNetwork", samples.create_network(2))

    assert REASON in asyncio.run(refused())["Err"]
    halved.end()
    assert halved.process.returncode == 0
    whole = (tmp_path / "whole").read_bytes()
    assert (tmp_path / "lib" / "stackpad" / "net.db").read_bytes() == whole[: len(whole) // 2]
