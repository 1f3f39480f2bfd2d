"""The whole plugin, with a real kernel, etcd and resolver: whatever is said, it answers, runs on, and keeps nothing."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import socket
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import aiohttp
import dns.message
import pytest

from plugin.admin.ingress import FOR_INGRESS
from tests import samples
from tests.fuzz.corpus import seeds
from tests.fuzz.mutate import mutations
from tests.fuzz.process import ADMIN, DRIVER, WEB, Census, Process, plugin
from tests.fuzz.sandbox import sentence

TIMES = int(os.environ.get("STACKPAD_FUZZ") or 1)
ROUND = int(os.environ.get("STACKPAD_FUZZ_ROUND") or 0)
CALLS, COMMANDS, QUESTIONS = 1500 * TIMES, 800 * TIMES, 1000 * TIMES
RESOLVER = "169.254.53.53"

_MISSING = [name for name in ("nft", "ip", "etcd", "unshare") if shutil.which(name) is None]
pytestmark = [pytest.mark.kernel, pytest.mark.skipif(bool(_MISSING), reason=f"missing: {', '.join(_MISSING)}")]

NETWORK = [
    "CreateNetwork", "CreateNetwork", "DeleteNetwork", "CreateEndpoint", "CreateEndpoint", "DeleteEndpoint", "Join",
    "Leave", "EndpointOperInfo", "ProgramExternalConnectivity", "RevokeExternalConnectivity", "AllocateNetwork",
    "Nonsense",
]  # fmt: skip
ADDRESS = ["RequestPool", "ReleasePool", "RequestAddress", "ReleaseAddress", "GetCapabilities"]
READERS = [
    ("PUT", "/web", "web-report"), ("PUT", "/upstreams", "upstreams"), ("PATCH", "/upstreams", "upstreams"),
    ("POST", "/web/hosts", "hosts-written"), ("POST", "/node/token", "command"), ("POST", "/node/token/rm", "command"),
    ("POST", "/node/rm", "command"), ("POST", "/node/join", "command"), ("POST", "/node/init", "command"),
    ("GET", "/cluster", "command"), ("GET", "/status", "command"), ("GET", "/networks", "command"),
]  # fmt: skip
"""Not among them: what ends the cluster or changes its keys, which is what it is asked for with any body at all."""

COMMANDS_SAID = {
    "command": [
        b"{}", b'{"name":"second"}', b'{"token":"stackpad-1-AAAA","name":"x"}', b'{"lifetime":5}', b'{"lifetime":1e300}',
        b'{"lifetime":"x","id":7}', b'{"id":"00ff00ff"}', b"[]", b'{"name":"\xff"}', b"[" * 2000,
        b'{"name":"\\u001b[2J"}',
    ],
    "hosts-written": [
        b'[{"host":"www.example.org","before":null,"after":{"owner":"n","claim":{}}}]', b'[{"host":"a/b"}]',
        b'[{"host":"x.example","after":{"owner":7}}]', b'[{"host":"\xff","after":null}]', b'[{"after":"\xff"}]', b"[]",
        b'[{"host":"y.example","before":{"owner":"x","claim":{}},"after":null}]',
    ],
}  # fmt: skip


def bodies(chance: random.Random) -> dict[str, Any]:
    """Bodies of Docker's that can be meant, of a few networks and endpoints, so that one call builds on another."""
    net, number = chance.randrange(3), chance.randrange(6)
    pool = chance.choice((f"10.{net}.0.0/24", f"10.{net}.0.0/29", f"fd00:{net}::/64", ""))
    version = 6 if ":" in pool else 4
    data = {"Pool": pool, "Gateway": ""}
    at = chance.choice((f"10.{net}.0.{number + 2}/24", f"10.{net}.0.{number + 2}/29", "", "x"))
    port = samples.binding(80, chance.choice((0, 8080, 40000 + number)), proto=chance.choice((6, 17, 1)))
    return {
        "NetworkID": samples.network_id(net),
        "EndpointID": samples.endpoint_id(number),
        f"IPv{version}Data": [data],
        "Options": {
            "com.docker.network.generic": chance.choice(
                ({}, {"stackpad.egress": "false"}, {"stackpad.environment": "e"})
            ),
            "com.docker.network.portmap": [port],
            "com.docker.network.internal": chance.random() < 0.2,
        },
        "Interface": {"Address": at, "AddressIPv6": "", "MacAddress": ""},
        "SandboxKey": "/var/run/docker/netns/x",
        "PoolID": f"stackpad/{pool}",
        "Pool": pool,
        "Address": at.partition("/")[0],
    }


def driver_calls(count: int) -> Iterator[tuple[str, bytes]]:
    """Calls and bodies: half of them can be meant, a quarter is almost so, a quarter is anything."""
    chance = random.Random(ROUND)  # noqa: S311 - to be repeated
    known = [json.dumps(bodies(chance)).encode() for _ in range(20)] + list(seeds("call").values())
    for wild in mutations(known, count, ROUND + 1):
        name = (
            f"NetworkDriver.{chance.choice(NETWORK)}" if chance.random() < 0.7 else f"IpamDriver.{chance.choice(ADDRESS)}"
        )
        if name.endswith("RequestAddress"):
            # Its options are texts alone.
            meant = {**bodies(chance), "Options": None}
        else:
            meant = {**bodies(chance), "Options": None} if "Pool" in name else bodies(chance)
        yield f"/{name}", wild if chance.random() < 0.5 else json.dumps(meant).encode()


async def call_all(session: aiohttp.ClientSession) -> int:
    """Make the calls; returns how many succeeded."""
    well = 0
    for path, body in driver_calls(CALLS):
        async with session.post(f"http://plugin{path}", data=body) as answer:
            said = json.loads(await answer.read())
            assert answer.status == 200
            assert "failed inside" not in said.get("Err", ""), (path, body)
            if said.get("Err"):
                sentence(said["Err"])
            well += not said.get("Err")
    return well


async def clear(session: aiohttp.ClientSession, admin: aiohttp.ClientSession) -> None:
    """Take everything back."""
    async with admin.get("http://plugin/node/token") as answer:
        for token in json.loads(await answer.read()):
            await admin.post("http://plugin/node/token/rm", json={"id": token["id"]})
    async with admin.get("http://plugin/networks") as answer:
        # Those of ids that nobody meant, too.
        left = [network["id"] for network in json.loads(await answer.read())]
    for network in left:
        await session.post("http://plugin/NetworkDriver.DeleteNetwork", json={"NetworkID": network})
    for net in range(3):
        for pool in (f"10.{net}.0.0/24", f"10.{net}.0.0/29", f"fd00:{net}::/64"):
            await session.post("http://plugin/IpamDriver.ReleasePool", json={"PoolID": f"stackpad/{pool}"})


async def command_all(admin: aiohttp.ClientSession, ingress: aiohttp.ClientSession) -> int:
    """Say the commands, those of an ingress on its own socket; returns how many were taken."""
    chance = random.Random(ROUND + 2)  # noqa: S311 - to be repeated
    said = {kind: COMMANDS_SAID.get(kind) or list(seeds(kind).values()) for _, _, kind in READERS}
    wild = {kind: mutations(known, COMMANDS, ROUND + 3) for kind, known in said.items()}
    well = 0
    for _ in range(COMMANDS):
        method, path, kind = chance.choice(READERS)
        body = chance.choice(said[kind]) if chance.random() < 0.3 else next(wild[kind])
        session = ingress if (method, path) in FOR_INGRESS else admin
        async with session.request(method, f"http://plugin{path}", data=body) as answer:
            told = await answer.read()
            assert answer.status < 500, (method, path, body, told)
            well += answer.status == 200
            if answer.status >= 400 and told.startswith(b'{"error"'):
                sentence(json.loads(told)["error"])
    return well


async def ask_all() -> int:
    """Ask the resolver; every datagram that is answered is answered in DNS. Returns how many were."""
    loop, answered = asyncio.get_running_loop(), 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.setblocking(False)
        asker.connect((RESOLVER, 53))
        known = list(seeds("dns").values())
        for number, data in enumerate(mutations(known, QUESTIONS, ROUND + 4)):
            await loop.sock_sendall(asker, data)
            if number % 50:
                continue
            # One that can be meant now and then: it is answered, so that those before it have been read.
            mark = number.to_bytes(2, "big")
            await loop.sock_sendall(asker, mark + known[0][2:12] + b"\x03foo\x07invalid\0\0\x01\0\x01")
            async with asyncio.timeout(60):
                while True:
                    answer = await loop.sock_recv(asker, 65535)
                    answered += 1
                    if answer[:2] == mark:
                        dns.message.from_wire(answer)
                        break
    return answered


async def steady(process: Process, session: aiohttp.ClientSession) -> None:
    """Return when nothing that was begun is under way any more: two looks a second apart are the same."""
    before = None
    async with asyncio.timeout(120):
        while before != (now := process.census()):
            before = now
            await asyncio.sleep(1.0)
            async with session.get("http://plugin/status") as answer:
                assert answer.status == 200


def grown(before: Census, after: Census) -> dict[str, tuple[int, int]]:
    """Kinds of descriptors there are more of; fewer there may be, of connections kept for the next request."""
    had = dict(before.descriptors)
    return {kind: (had.get(kind, 0), has) for kind, has in after.descriptors if has > had.get(kind, 0)}


async def begin(session: aiohttp.ClientSession) -> None:
    """Begin a cluster, and wait for its store: on a slow machine that is later than the answer."""
    async with session.post("http://plugin/node/init", json={"name": "first"}) as begun:
        assert begun.status in {200, 503}, await begun.read()
    async with asyncio.timeout(120):
        while True:
            async with session.get("http://plugin/cluster") as answer:
                if json.loads(await answer.read()).get("store", {}).get("connected"):
                    return
            await asyncio.sleep(0.2)


async def test_whatever_is_said_at_its_sockets(tmp_path: Path) -> None:
    with plugin(tmp_path) as process:
        async with process.session(DRIVER) as docker, process.session(ADMIN) as admin:
            await begin(admin)
            # Once around, so that what is made at the first use is there.
            await call_all_of_one(docker, admin)
            await steady(process, admin)
            before = process.census()
            called = await call_all(docker)
            async with process.session(WEB) as ingress:
                commanded = await command_all(admin, ingress)
            await clear(docker, admin)
            await call_all_of_one(docker, admin)
            asked = await ask_all()
            await steady(process, admin)
            after = process.census()
            # Connections to the store that several needed at once are kept for a quarter of a minute.
            for _ in range(60):
                if not grown(before, after):
                    break
                await asyncio.sleep(1.0)
                after = process.census()
            assert called > CALLS / 10, "the calls get somewhere"
            assert commanded > COMMANDS / 10
            assert asked
            for part in fields(before):
                if part.name == "descriptors":
                    assert grown(before, after) == {}
                else:
                    assert getattr(after, part.name) == getattr(before, part.name), part.name
            async with admin.get("http://plugin/metrics") as metrics:
                text = await metrics.text()
            assert 'outcome="failed"' not in text
            assert 'outcome="timeout"' not in text
        assert process.process.poll() is None, process.words()
    assert process.process.returncode == 0, process.words()
    for word in ("Traceback", "never awaited", "Task exception"):
        assert word not in process.words(), process.words()[-4000:]


async def call_all_of_one(docker: aiohttp.ClientSession, admin: aiohttp.ClientSession) -> None:
    """One network with one endpoint comes and goes, and the ingress's words are none."""
    for path, body in (
        ("CreateNetwork", samples.create_network(1)),
        ("CreateEndpoint", samples.create_endpoint(2, "10.192.1.2/24")),
        ("Join", samples.join(2)),
        ("Leave", samples.reference(2)),
        ("DeleteEndpoint", samples.reference(2)),
        ("DeleteNetwork", {"NetworkID": samples.network_id(1)}),
    ):
        async with docker.post(f"http://plugin/NetworkDriver.{path}", json=body) as answer:
            assert "Err" not in json.loads(await answer.read()), path
    for path in ("/web", "/upstreams"):
        async with admin.put(f"http://plugin{path}", data=b"{}") as answer:
            assert answer.status == 200, await answer.read()
