"""A tunnel over time: a peer behind a NAT, an implementation that ends; and nothing in clear."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import time

import pytest

from plugin.store import mesh
from plugin.tunnel.handover import LINGER, SWITCH
from plugin.wireguard.backend import Backend
from plugin.wireguard.keys import generate, public_key
from plugin.wireguard.model import Address, failover
from tests.mesh.conftest import DEVICE, Other
from tests.mesh.test_wireguard import PRIVATE, WIRE, bring, device, peer, reaches
from tests.netns import ip

OURS = public_key(PRIVATE)
THEIRS = "10.192.64.1"


def addressed() -> None:
    """Our address in the tunnel, and the way to theirs."""
    ip("addr", "replace", "10.192.0.1/32", "dev", DEVICE)
    ip("route", "replace", "10.192.64.0/18", "dev", DEVICE)


def counts(text: str) -> tuple[int, int]:
    """Sent and received packets, as ping counts them."""
    found = re.search(r"(\d+) packets transmitted, (\d+) received", text)
    assert found is not None, text
    return int(found[1]), int(found[2])


async def test_a_peer_behind_a_nat_calls_and_is_never_cut(backend: Backend, other: Other) -> None:
    """Its address is known only from its packets; comparing again, and again after a restart, leaves it alone."""
    for words in (
        ["add", "table", "ip", "nat"],
        ["add", "chain", "ip", "nat", "post", "{ type nat hook postrouting priority srcnat; }"],
        ["add", "rule", "ip", "nat", "post", "udp", "sport", str(other.port), "snat", "to", "192.0.2.2:61000"],
    ):
        other.run("nft", *words)
    wanted = device(peer(other.public, "10.192.64.0/18"))
    await bring(backend, wanted)
    addressed()
    assert not (await backend.observe()).peers[other.public].endpoint
    other.admit(OURS, "10.192.0.0/18")
    other.run("wg", "set", "wg0", "peer", OURS, "endpoint", "192.0.2.1:51820", "persistent-keepalive", "25")
    deadline = time.monotonic() + 30
    while not (await backend.observe()).peers[other.public].last_handshake:
        assert time.monotonic() < deadline, "the peer behind the NAT was never heard"
        await asyncio.sleep(0.05)
    ping = await asyncio.create_subprocess_exec(
        "ping", "-c", "50", "-i", "0.05", "-W", "5", THEIRS, stdout=asyncio.subprocess.PIPE
    )
    for configured in ({}, {other.public: WIRE}, {}):
        seen = await bring(backend, wanted, configured)
        assert seen.peers[other.public].endpoint == ("192.0.2.2", 61000)
        await asyncio.sleep(0.3)
    sent, received = counts((await ping.communicate())[0].decode())
    assert (sent, received) == (50, 50)


async def test_changes_of_one_peer_lose_nothing_of_another(backend: Backend, other: Other) -> None:
    other.admit(OURS, "10.192.0.0/18")
    there = peer(other.public, "10.192.64.0/18", endpoint=WIRE)
    await bring(backend, device(there))
    addressed()
    assert await reaches(THEIRS)
    ping = await asyncio.create_subprocess_exec(
        "ping", "-c", "100", "-i", "0.02", "-W", "5", THEIRS, stdout=asyncio.subprocess.PIPE
    )
    for number in range(20):
        strangers = [peer(public_key(generate()), f"10.193.{one}.0/24", endpoint=WIRE) for one in range(number)]
        await bring(backend, device(there, *strangers), {other.public: WIRE})
    assert counts((await ping.communicate())[0].decode()) == (100, 100)


@pytest.mark.replay("S42")
async def test_what_has_ended_is_made_again_with_the_same_keys(backend: Backend, other: Other) -> None:
    """A keepalive that is switched on is the first packet, so the peer need not wait for its own timers."""
    other.admit(OURS, "10.192.0.0/18")
    wanted = device(peer(other.public, "10.192.64.0/18", endpoint=WIRE))
    await bring(backend, wanted)
    addressed()
    assert await reaches(THEIRS)
    await backend.remove()
    assert await backend.ensure(DEVICE, 1420)
    calling = device(peer(other.public, "10.192.64.0/18", endpoint=WIRE, keepalive=mesh.KEEPALIVE))
    await bring(backend, calling)
    addressed()
    deadline = time.monotonic() + 30
    while not (await backend.observe()).peers[other.public].last_handshake:
        assert time.monotonic() < deadline, "no handshake of its own accord"
        await asyncio.sleep(0.01)
    assert " 0% packet loss" in other.run("ping", "-c", "3", "-i", "0.1", "-W", "5", "10.192.0.1", check=False)


@pytest.mark.replay("S31")
async def test_an_address_that_does_not_answer_gives_way_to_the_next(backend: Backend, other: Other) -> None:
    other.admit(OURS, "10.192.0.0/18")
    candidates: list[Address] = [("192.0.2.77", 51900), ("192.0.2.2", 1), WIRE]
    current: Address | None = None
    tried = list[Address]()
    since = time.time()
    await backend.ensure(DEVICE, 1420)
    deadline = time.monotonic() + 60
    while True:
        state = (await backend.observe()).peers.get(other.public)
        if state is not None and state.last_handshake:
            break
        assert time.monotonic() < deadline, "never reached"
        chosen = failover(candidates, state, current, time.time(), since)
        if chosen is not None:
            known: dict[str, Address] = {} if current is None else {other.public: current}
            called = peer(other.public, "10.192.64.0/18", endpoint=chosen, keepalive=mesh.KEEPALIVE)
            await bring(backend, device(called), known)
            current, since = chosen, time.time()
            tried.append(chosen)
        await asyncio.sleep(0.1)
    # Where nobody is comes first, and on a slow machine the answer may come when the next one is called already.
    assert tried[:3] == candidates


async def test_nothing_is_in_clear_on_the_wire(backend: Backend, other: Other) -> None:
    """A text is sent through the tunnel, over the start and the end of the device, and looked for on the wire."""
    marker = os.urandom(8).hex()
    wanted = device(peer(other.public, "10.192.64.0/18", endpoint=WIRE))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3)) as wire:
        wire.bind(("wire", 0))
        wire.setblocking(False)
        await bring(backend, wanted)
        addressed()
        other.admit(OURS, "10.192.0.0/18")
        for _ in range(2):
            done = await asyncio.create_subprocess_exec(
                "ping", "-c", "5", "-i", "0.05", "-W", "5", "-p", marker, THEIRS, stdout=subprocess.DEVNULL
            )
            assert await done.wait() == 0
            await bring(backend, device(peer(other.public, "10.192.64.0/18", endpoint=WIRE, keepalive=25)), {})
        frames = []
        while True:
            try:
                frames.append(wire.recv(65535))
            except BlockingIOError:
                break
    carried = [frame for frame in frames if frame[12:14] == b"\x08\x00" and frame[23] == 17]
    assert len(carried) >= 20, "the tunnel's packets were not seen"
    assert not [frame for frame in frames if bytes.fromhex(marker) in frame]
    assert all(frame[26:28] != b"\x0a\xc0" for frame in frames), "an address of the tunnel is on the wire"


async def test_a_peer_changes_its_key_and_no_packet_is_lost(backend: Backend, other: Other) -> None:
    """The order of :mod:`plugin.tunnel.handover`, with ours as the node that follows."""
    await bring(backend, device(peer(other.public, "10.192.64.0/18", endpoint=WIRE)))
    addressed()
    other.admit(OURS, "10.192.0.0/18")
    other.run("wg", "set", "wg0", "peer", OURS, "endpoint", "192.0.2.1:51820")
    assert await reaches(THEIRS)
    ways = (["ping"], ["ip", "netns", "exec", other.netns, "ping"])
    running = [
        await asyncio.create_subprocess_exec(
            *way, "-c", "100", "-i", "0.02", "-W", "5", address, stdout=asyncio.subprocess.PIPE
        )
        for way, address in zip(ways, (THEIRS, "10.192.0.1"), strict=True)
    ]
    await asyncio.sleep(0.5)
    private = generate()
    other.run("wg", "set", "wg0", "private-key", "/dev/stdin", stdin=private)
    await asyncio.sleep(LINGER - SWITCH)
    seen = await bring(backend, device(peer(public_key(private), "10.192.64.0/18", endpoint=WIRE, keepalive=25)))
    assert set(seen.peers) == {public_key(private)}
    for process in running:
        assert counts((await process.communicate())[0].decode()) == (100, 100)


async def test_ours_changes_its_key_and_no_packet_is_lost(backend: Backend, other: Other) -> None:
    """The same with ours as the node that changes its key."""
    wanted = device(peer(other.public, "10.192.64.0/18", endpoint=WIRE))
    await bring(backend, wanted)
    addressed()
    other.admit(OURS, "10.192.0.0/18")
    assert await reaches(THEIRS)
    ping = await asyncio.create_subprocess_exec(
        "ping", "-c", "100", "-i", "0.02", "-W", "5", THEIRS, stdout=asyncio.subprocess.PIPE
    )
    await asyncio.sleep(0.5)
    private = generate()
    await bring(backend, device(*wanted.peers.values(), private=private), {other.public: WIRE})
    await asyncio.sleep(LINGER - SWITCH)
    new = ["peer", public_key(private), "allowed-ips", "10.192.0.0/18", "endpoint", "192.0.2.1:51820"]
    other.run("wg", "set", "wg0", *new, "persistent-keepalive", "25")
    other.run("wg", "set", "wg0", "peer", OURS, "remove")
    assert counts((await ping.communicate())[0].decode()) == (100, 100)
