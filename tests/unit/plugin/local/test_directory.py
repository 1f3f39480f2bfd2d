"""What the engine no longer lists: forgotten after a while, and at once where it has given it up before."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from plugin.local.directory import Directory
from plugin.state import State
from stackpad.engine import Engine
from stackpad.errors import Unavailable
from tests.samples import endpoint, network

NET = network()


class Lists:
    """An engine that has nothing any more."""

    async def networks(self) -> list[dict[str, Any]]:
        return []

    async def containers(self) -> list[dict[str, Any]]:
        return []

    async def version(self) -> str:
        return "1"


@pytest.mark.parametrize("given_up", [True, False])
async def test_what_was_given_up_on_a_full_disk_goes_with_the_next_list(tmp_path: Path, given_up: bool) -> None:
    async with State(tmp_path / "net.db") as state:
        await state.put_network(NET)
        await state.put_endpoint(guest := endpoint(NET))
        unwanted = {NET.id, guest.id, "long gone"} if given_up else set()
        directory = Directory(cast(Engine, Lists()), state, state.drop_network, state.drop_endpoint, unwanted)
        state._database.connection.execute("PRAGMA query_only = ON")
        if given_up:
            with pytest.raises(Unavailable):
                await directory._list()
            assert unwanted == {NET.id, guest.id}
            assert directory._pause() < 5
        state._database.connection.execute("PRAGMA query_only = OFF")
        await directory._list()
        assert (NET.id in state.networks, guest.id in state.endpoints) == (not given_up, not given_up)
        await directory._list()
        assert unwanted == set()
