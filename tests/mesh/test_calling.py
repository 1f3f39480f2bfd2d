"""Where the loop of the mesh calls its peers: after a restart, and when an address in use stops answering."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from plugin import steady
from plugin.kernel.reconciler import Reconciler
from plugin.kernel.writer import Kernel
from plugin.model import ip_network
from plugin.state import State
from plugin.store.mesh import MeshPeer, MeshPlan
from plugin.tunnel import loop as meshloop
from plugin.tunnel import renewal
from plugin.tunnel.fence import Fence
from plugin.tunnel.loop import MeshLoop
from plugin.tunnel.sightings import Sightings
from plugin.tunnel.wants import Wanted
from plugin.wireguard.backend import Backend
from plugin.wireguard.keys import public_key
from plugin.wireguard.model import PATIENCE, PeerState, has_session
from tests.clock import HOUR
from tests.mesh.conftest import Other
from tests.mesh.test_wireguard import PORT, PRIVATE, reaches
from tests.netns import PROC, eventually, ip

OURS = public_key(PRIVATE)
OUR_ADDRESS, THEIRS = "10.192.0.1", "10.192.64.1"


@contextlib.asynccontextmanager
async def looping(directory: Path, backend: Backend, other: Other, *endpoints: str) -> AsyncIterator[MeshLoop]:
    """The loop of a node whose one other node announces ``endpoints``.

    It looks each second, whatever that costs, and may take long: on a machine as slow as an emulated one it would not and
    does.
    """
    peer = MeshPeer(other.public, "", frozenset({ip_network("10.192.64.0/18")}), endpoints, node="n1")
    ours = frozenset({ipaddress.ip_address("10.192.0.1")})
    plan = MeshPlan({peer.public_key: peer}, addresses=ours, routes=peer.allowed)
    wanted = Wanted(plan, PRIVATE, PORT, frozenset())

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(meshloop, "SHARE", 1.0)
        patched.setattr(meshloop, "SOON", 120.0)
        async with running(directory, backend, wanted) as loop:
            yield loop


@contextlib.asynccontextmanager
async def running(directory: Path, backend: Backend, wanted: Wanted) -> AsyncIterator[MeshLoop]:
    """The loop of a node that wants this of its tunnel."""

    async def chosen() -> Backend:
        return backend

    async with State(directory / "net.db") as state, Kernel(run=directory, proc=PROC) as kernel:
        loop = MeshLoop(
            kernel, Reconciler(state, kernel), state, chosen, lambda: wanted, Sightings(directory), Fence(directory)
        )
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(loop.run())
            try:
                await loop.wait_settled()
                yield loop
            finally:
                task.cancel()


def seen(loop: MeshLoop, other: Other) -> PeerState:
    return PeerState() if loop.observed is None else loop.observed.peers.get(other.public, PeerState())


async def test_a_peer_behind_a_nat_is_called_at_once_by_the_next_process(
    backend: Backend, other: Other, tmp_path: Path
) -> None:
    """Its mapping is all there is to call it by, and it says nothing by itself."""
    for words in (
        ["add", "table", "ip", "nat"],
        ["add", "chain", "ip", "nat", "post", "{ type nat hook postrouting priority srcnat; }"],
        ["add", "rule", "ip", "nat", "post", "udp", "sport", str(other.port), "snat", "to", "192.0.2.2:61000"],
    ):
        other.run("nft", *words)
    other.admit(OURS, "10.192.0.0/18")
    async with looping(tmp_path, backend, other) as loop:
        other.run("wg", "set", "wg0", "peer", OURS, "endpoint", f"192.0.2.1:{PORT}", "persistent-keepalive", "1")
        await eventually(lambda: (tmp_path / "sightings.json").exists(), "it is heard, and where is on the disk")
        assert seen(loop, other).endpoint == ("192.0.2.2", 61000)
    other.run("wg", "set", "wg0", "peer", OURS, "persistent-keepalive", "0")
    await backend.remove()
    async with looping(tmp_path, backend, other) as loop:
        await eventually(lambda: seen(loop, other).last_handshake, "a handshake with who does not call")
        assert seen(loop, other).endpoint == ("192.0.2.2", 61000)


async def test_an_address_in_use_that_stops_answering_gives_way_while_the_session_lasts(
    backend: Backend, other: Other, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without that it would be called there until the session is three minutes old; the bound here is two.

    And for an hour more with the clock set back: whoever goes by the date takes all that was before it for just now.
    """
    ip("addr", "add", "198.51.100.1/24", "dev", "wire")
    other.run("ip", "addr", "add", "198.51.100.2/24", "dev", "wire")
    other.admit(OURS, "10.192.0.0/18")
    async with looping(tmp_path, backend, other, "192.0.2.2:51900", "198.51.100.2:51900") as loop:
        assert await reaches(THEIRS)
        await eventually(lambda: seen(loop, other).received, "it answers")
        assert seen(loop, other).endpoint == ("192.0.2.2", 51900)
        for words in (
            ["add", "table", "ip", "dead"],
            ["add", "chain", "ip", "dead", "in", "{ type filter hook input priority 0; }"],
            ["add", "rule", "ip", "dead", "in", "ip", "daddr", "192.0.2.2", "drop"],
        ):
            other.run("nft", *words)
        before = seen(loop, other).last_handshake
        set_clock(monkeypatch, -HOUR)
        ping = await asyncio.create_subprocess_exec(
            "ping", "-i", "0.2", THEIRS, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            await eventually(lambda: seen(loop, other).endpoint == ("198.51.100.2", 51900), "the next address", 120)
            assert has_session(PeerState(last_handshake=before), steady.now())
            assert await reaches(THEIRS)
            assert seen(loop, other).endpoint == ("198.51.100.2", 51900)
        finally:
            ping.kill()
            await ping.wait()


async def test_a_clock_that_is_set_ahead_has_nobody_called_elsewhere(
    backend: Backend, other: Other, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the date the session would have ended an hour ago, and each of the addresses would have its turn."""
    other.admit(OURS, "10.192.0.0/18")
    async with looping(tmp_path, backend, other, "192.0.2.2:51900", "198.51.100.2:51900") as loop:
        assert await reaches(THEIRS)
        await eventually(lambda: has_session(seen(loop, other), steady.now()), "a session")
        set_clock(monkeypatch, HOUR)
        for _ in range(int(PATIENCE) + 3):
            await asyncio.sleep(1.0)
            assert seen(loop, other).endpoint == ("192.0.2.2", 51900)
        assert await reaches(THEIRS)


async def test_who_was_heard_just_now_is_called_when_the_session_ends(
    backend: Backend, other: Other, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may call, and not be heard: the other way round is one. Here the session is taken for ended early."""
    calling(other)
    async with looping(tmp_path, backend, other) as loop:
        await eventually(lambda: answers(other), "answers to who calls")
        await eventually(lambda: seen(loop, other).last_handshake, "a session")
        before = seen(loop, other)
        monkeypatch.setattr(loop._calls._renewal, "_own", (PRIVATE, "~"))  # greater than any key is
        monkeypatch.setattr(renewal, "STALE", 3.0)
        # What was seen before it began is doubted for as long as a session lasts.
        monkeypatch.setattr(loop._calls._renewal, "_began", 1.0)
        other.run("ping", "-c", "1", "-W", "5", OUR_ADDRESS)
        await eventually(lambda: seen(loop, other).last_handshake > before.last_handshake, "a session that is ours")
        monkeypatch.undo()
        await eventually(lambda: answers(other), "answers to who calls, again")
        counted = loop.seen(other.public)
        assert counted is not None
        assert counted.received > before.received, "what was before is not forgotten"


@pytest.mark.skipif(
    not os.environ.get("STACKPAD_GUEST"), reason="it sets the machine's clock; tests/guest runs it in one of its own"
)
@pytest.mark.parametrize("backend", ["kernel"], indirect=True)
async def test_who_set_its_clock_back_is_heard_when_its_session_has_ended(
    backend: Backend, other: Other, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WireGuard drops a first message that is not later than the last one, by the sender's time of day."""
    calling(other)
    async with looping(tmp_path, backend, other) as loop:
        await eventually(lambda: answers(other), "answers to who calls")
        time.clock_settime(time.CLOCK_REALTIME, time.time() - HOUR)
        try:
            # It has lost its session, as by a restart; the other end has not.
            other.run("wg", "set", "wg0", "peer", OURS, "remove")
            calling(other)
            assert not answers(other, 5)
            monkeypatch.setattr(loop._calls._renewal, "_began", 1.0)
            monkeypatch.setattr(renewal, "STALE", 0.5)
            await eventually(lambda: seen(loop, other).last_handshake == 0, "a peer that begins anew")
            monkeypatch.undo()
            await eventually(lambda: answers(other), "answers to who calls, again")
        finally:
            time.clock_settime(time.CLOCK_REALTIME, time.time() + HOUR)


def calling(other: Other) -> None:
    """Have it call us, who do not know where it is."""
    other.run("wg", "set", "wg0", "peer", OURS, "allowed-ips", "10.192.0.0/18", "endpoint", f"192.0.2.1:{PORT}")


def answers(other: Other, seconds: int = 2) -> bool:
    """Whether it gets an answer from us."""
    return "1 received" in other.run("ping", "-c", "1", "-W", str(seconds), OUR_ADDRESS, check=False)


def set_clock(monkeypatch: pytest.MonkeyPatch, ahead: float) -> None:
    """Have this process's clock of the day so far ahead; WireGuard keeps the machine's."""
    monkeypatch.setattr(time, "time", lambda real=time.time: real() + ahead)
