"""Both implementations of WireGuard behind our interface, against the distribution's own tool and a real peer."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess

import pytest

from plugin.model import ip_network
from plugin.wireguard.backend import Backend
from plugin.wireguard.keys import generate, public_key
from plugin.wireguard.model import Address, Device, Observed, Peer, plan
from tests.mesh.conftest import DEVICE, Other

PRIVATE = generate()
PORT = 51820
WIRE: Address = ("192.0.2.2", 51900)
WIRE6: Address = ("2001:db8::2", 51900)


def device(*peers: Peer, private: str = PRIVATE) -> Device:
    return Device(private, PORT, {peer.public_key: peer for peer in peers})


def peer(key: str, *allowed: str, endpoint: Address | None = None, keepalive: int = 0, preshared: str = "") -> Peer:
    return Peer(key, preshared, endpoint, frozenset(map(ip_network, allowed)), keepalive)


async def bring(backend: Backend, wanted: Device, configured: dict[str, Address] | None = None) -> Observed:
    """Make it so; returns what is there then, which must be what was wanted."""
    await backend.ensure(DEVICE, 1420)
    changes = plan(wanted, await backend.observe(), configured or {})
    if changes:
        await backend.apply(changes)
    after = await backend.observe()
    known = {key: one.endpoint for key, one in wanted.peers.items() if one.endpoint is not None}
    assert not plan(wanted, after, known), plan(wanted, after, known)
    return after


def shown(what: str) -> str:
    """What the distribution's tool says of our device."""
    return subprocess.run(["wg", "show", DEVICE, what], capture_output=True, text=True, check=True).stdout


async def reaches(address: str) -> bool:
    """Whether a ping is answered."""
    done = await asyncio.create_subprocess_exec("ping", "-c", "1", "-W", "5", address, stdout=subprocess.DEVNULL)
    return await done.wait() == 0


def other_key(number: int) -> str:
    return public_key(base64.b64encode(bytes([number]) * 32).decode())


async def test_a_device_is_made_once_and_removed(backend: Backend) -> None:
    assert await backend.ensure(DEVICE, 1420)
    assert not await backend.ensure(DEVICE, 1420)
    assert await backend.observe() == Observed("", (await backend.observe()).port, {})
    link = subprocess.run(["ip", "-o", "link", "show", DEVICE], capture_output=True, text=True, check=True).stdout
    assert "mtu 1420" in link
    assert "UP" in link.partition(">")[0]
    await backend.remove()
    assert DEVICE not in subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout
    await backend.remove()


async def test_what_is_set_is_there_and_the_tool_agrees(backend: Backend) -> None:
    secret = base64.b64encode(os.urandom(32)).decode()
    one = peer(other_key(1), "10.192.64.0/18", "fd00:0:0:100::/56", endpoint=WIRE, keepalive=25, preshared=secret)
    two = peer(other_key(2), "10.192.128.0/18", endpoint=WIRE6)
    three = peer(other_key(3))
    seen = await bring(backend, device(one, two, three))
    assert seen.port == PORT
    assert seen.peers[one.public_key].endpoint == WIRE
    assert seen.peers[two.public_key].endpoint == WIRE6
    assert seen.peers[three.public_key].endpoint is None
    assert shown("public-key").strip() == public_key(PRIVATE)
    assert f"{one.public_key}\t{secret}" in shown("preshared-keys")
    assert f"{one.public_key}\t25" in shown("persistent-keepalive")
    assert f"{two.public_key}\t[2001:db8::2]:51900" in shown("endpoints")


async def test_changes_are_of_one_peer_and_complete(backend: Backend) -> None:
    secret = base64.b64encode(os.urandom(32)).decode()
    one = peer(other_key(1), "10.192.64.0/18", "172.30.0.0/24", endpoint=WIRE, keepalive=25, preshared=secret)
    two = peer(other_key(2), "10.192.128.0/18", endpoint=WIRE6)
    known = {one.public_key: WIRE, two.public_key: WIRE6}
    await bring(backend, device(one, two))
    # A range that is taken away really goes, and one that moves is the other's.
    less = peer(one.public_key, "10.192.64.0/18", endpoint=WIRE)
    more = peer(two.public_key, "10.192.128.0/18", "172.30.0.0/24", endpoint=WIRE6)
    seen = await bring(backend, device(less, more), known)
    assert seen.peers[one.public_key].allowed == less.allowed
    assert seen.peers[two.public_key].allowed == more.allowed
    assert f"{one.public_key}\t(none)" in shown("preshared-keys")
    assert f"{one.public_key}\toff" in shown("persistent-keepalive")
    await bring(backend, device(more), known)
    assert one.public_key not in shown("peers")
    another = generate()
    await bring(backend, device(more, private=another), known)
    assert shown("public-key").strip() == public_key(another)


async def test_a_thousand_peers(backend: Backend) -> None:
    """Whatever the number: what is answered of them is long."""
    keys = [public_key(base64.b64encode((number << 64).to_bytes(32, "little")).decode()) for number in range(1, 1001)]
    peers = [peer(key, f"10.{number // 256}.{number % 256}.0/24") for number, key in enumerate(keys)]
    assert len((await bring(backend, device(*peers))).peers) == 1000


@pytest.mark.parametrize("wire", [WIRE, WIRE6])
async def test_packets_pass_with_the_right_keys_only(backend: Backend, other: Other, wire: Address) -> None:
    secret = base64.b64encode(os.urandom(32)).decode()
    ours = public_key(PRIVATE)
    other.admit(ours, "10.192.0.0/18,fd00::/56", secret)
    there = peer(other.public, "10.192.64.0/18", "fd00:0:0:100::/56", endpoint=wire, preshared=secret)
    await bring(backend, device(there))
    for words in (
        ["addr", "add", "10.192.0.1/32", "dev", DEVICE],
        ["addr", "add", "fd00::1/128", "dev", DEVICE, "nodad"],
        ["route", "add", "10.192.64.0/18", "dev", DEVICE],
        ["-6", "route", "add", "fd00:0:0:100::/56", "dev", DEVICE],
    ):
        subprocess.run(["ip", *words], check=True)
    assert await reaches("10.192.64.1")
    assert await reaches("fd00:0:0:100::1")
    state = (await backend.observe()).peers[other.public]
    assert state.last_handshake > 0
    assert state.received > 0
    assert state.sent > 0
    # What the peer may not send is not let in.
    other.run("ip", "addr", "add", "10.192.200.1/32", "dev", "wg0")
    subprocess.run(["ip", "route", "add", "10.192.200.1/32", "dev", DEVICE], check=True)
    forged = other.run("ping", "-c", "1", "-W", "1", "-I", "10.192.200.1", "10.192.0.1", check=False)
    assert " 0% packet loss" not in forged
    # Another preshared key: the session is at an end with the next handshake, so begin one.
    await bring(backend, device(), {})
    wrong = peer(other.public, "10.192.64.0/18", endpoint=wire, preshared=base64.b64encode(os.urandom(32)).decode())
    await bring(backend, device(wrong))
    assert not await reaches("10.192.64.1")


async def test_a_learnt_endpoint_stays(backend: Backend, other: Other) -> None:
    """The peer moves to another port; what WireGuard learnt from its packets is not set back by the next comparison."""
    ours = public_key(PRIVATE)
    other.admit(ours, "10.192.0.0/18")
    wanted = device(peer(other.public, "10.192.64.0/18", endpoint=WIRE))
    await bring(backend, wanted)
    subprocess.run(["ip", "addr", "add", "10.192.0.1/32", "dev", DEVICE], check=True)
    subprocess.run(["ip", "route", "add", "10.192.64.0/18", "dev", DEVICE], check=True)
    assert await reaches("10.192.64.1")
    other.run("wg", "set", "wg0", "listen-port", "51901")
    other.run("wg", "set", "wg0", "peer", ours, "endpoint", f"192.0.2.1:{PORT}")
    assert " 0% packet loss" in other.run("ping", "-c", "2", "-W", "5", "10.192.0.1", check=False)
    seen = await bring(backend, wanted, {other.public: WIRE})
    assert seen.peers[other.public].endpoint == ("192.0.2.2", 51901)
    assert await reaches("10.192.64.1")


async def test_a_new_process_finds_the_device_as_it_is(backend: Backend, other: Other) -> None:
    """Another instance of ours takes it over: no step is due, and the session goes on."""
    other.admit(public_key(PRIVATE), "10.192.0.0/18")
    wanted = device(peer(other.public, "10.192.64.0/18", endpoint=WIRE))
    await bring(backend, wanted)
    subprocess.run(["ip", "addr", "add", "10.192.0.1/32", "dev", DEVICE], check=True)
    subprocess.run(["ip", "route", "add", "10.192.64.0/18", "dev", DEVICE], check=True)
    assert await reaches("10.192.64.1")
    before = (await backend.observe()).peers[other.public].last_handshake
    again: Backend = type(backend)()
    assert not await again.ensure(DEVICE, 1420)
    assert not plan(wanted, await again.observe(), {})
    assert (await again.observe()).peers[other.public].last_handshake == before
    await again.close()
