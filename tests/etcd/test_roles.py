"""Two whole plugins on one etcd with users: each may write what is its own, and is told of what it may not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stackpad import records, roles
from stackpad.errors import Unavailable
from stackpad.etcd import Delete, Etcd, Put
from tests import samples
from tests.bench.engine import SyntheticEngine
from tests.etcd.server import BOUND, Server, running
from tests.fuzz.process import ADMIN, DRIVER, Process, plugin
from tests.netns import run

_MISSING = [name for name in ("nft", "ip", "etcdctl", "nsenter", "unshare") if shutil.which(name) is None]
pytestmark = [pytest.mark.kernel, pytest.mark.skipif(bool(_MISSING), reason=f"missing: {', '.join(_MISSING)}")]

SECRET = "correct-horse"  # noqa: S105 - of a test
MAY_NOT = "may not touch these keys: grant its role readwrite on them"
WEB = {"id": "w", "owner": "", "name": "web", "network": "shop", "org": "", "labels": {}, "state": "starting"}


@dataclass
class Operator:
    """Who has etcd's root user, and runs what is printed as it is printed."""

    server: Server
    user: str = ""

    def run(self, *lines: str) -> str:
        """Have a shell run the lines; returns what they say."""
        environment = {**os.environ, "ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": "unix://client:0"}
        if self.user:
            environment["ETCDCTL_USER"] = self.user
        script = "\n".join(("set -e", *lines))
        done = subprocess.run(
            ["sh", "-c", script], cwd=self.server.directory, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (lines, done.stdout, done.stderr)
        return done.stdout

    def protect(self) -> None:
        """Users for two nodes, with the roles that are there before a node is."""
        self.run(f"etcdctl user add root:{SECRET}", "etcdctl user grant-role root root", *roles.shared_commands())
        self.run(f"etcdctl user add first:{SECRET}", f"etcdctl user add second:{SECRET}")
        self.run("etcdctl user grant-role first stackpad-control", "etcdctl user grant-role second stackpad-node")
        self.run("etcdctl auth enable")
        self.user = f"root:{SECRET}"


@dataclass
class Node:
    """A plugin, its engine and what it is asked."""

    process: Process
    number: int
    engine: SyntheticEngine = field(init=False)

    def __post_init__(self) -> None:
        self.engine = SyntheticEngine(self.process.run / "docker.sock", 80)

    async def ask(self, socket: str, method: str, path: str, body: object = None) -> Any:
        """The answer, or its last line."""
        async with self.process.session(socket) as session:
            data = None if body is None else json.dumps(body)
            async with session.request(method, f"http://plugin{path}", data=data) as answer:
                text = (await answer.text()).strip()
                return json.loads(text.splitlines()[-1]) if text else None

    async def report(self) -> dict[str, Any]:
        """What it says of the cluster."""
        return dict(await self.ask(ADMIN, "GET", "/cluster"))

    async def begin_service(self) -> None:
        """A network with a running container, and the word of an ingress."""
        number = self.number
        pool = f"10.192.{64 * (number - 1) + 9}.0/24"  # in its own block
        options = {"com.docker.network.generic": {"stackpad.environment": "shop"}}
        address = pool.replace(".0/", ".2/")
        self.engine.networks.append({"Id": samples.network_id(number), "Name": "shop", "Driver": "stackpad"})
        for path, body in (
            ("CreateNetwork", samples.create_network(number, pool=pool, options=options)),
            ("CreateEndpoint", samples.create_endpoint(number, address, net=number)),
        ):
            assert not (await self.ask(DRIVER, "POST", f"/NetworkDriver.{path}", body)).get("Err"), path
        attached = {"NetworkID": samples.network_id(number), "EndpointID": samples.endpoint_id(number)}
        container: dict[str, Any] = {
            "Id": samples.identity("container", number),
            "Name": f"/service-{number}",
            "Config": {"Labels": {}},
            "State": {"Running": True},
            "NetworkSettings": {"Networks": {"shop": attached}},
        }
        self.engine.take(container)
        self.engine.tell(container["Id"], "start")
        await self.ask(ADMIN, "PUT", "/web", {"complete": True, "containers": [WEB]})

    async def services(self) -> set[str]:
        """Names it knows of nodes that are there."""
        found = await self.ask(ADMIN, "GET", "/services")
        return {name for service in found if service["alive"] for name in service["names"]}

    def roles(self, *words: str) -> list[str]:
        """What ``stackpad node roles`` prints."""
        command = [sys.executable, "-m", "stackpad.cli", "node", "roles", *words, "--socket"]
        return run(*command, str(self.process.run / ADMIN)).splitlines()


async def eventually(holds: Callable[[], Awaitable[object]], what: Callable[[], Awaitable[object]]) -> None:
    """Wait until it holds; else say what there is instead."""
    try:
        async with asyncio.timeout(BOUND):
            while not await holds():  # noqa: ASYNC110 - what is asked has no event
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(await what()) from None


@contextlib.asynccontextmanager
async def node(directory: Path, number: int, server: Server, user: str) -> AsyncIterator[Node]:
    """A plugin with ``user``, at 10.9.0.<number> once it is wired."""
    settings = {"STORE": server.url, "STORE_USER": user, "STORE_PASSWORD": SECRET, "ENDPOINT": f"10.9.0.{number}"}
    with plugin(directory, **settings) as process:
        made = Node(process, number)
        async with made.engine:
            yield made


def wire(one: Node, other: Node) -> None:
    """A cable between two."""
    ends = [("nsenter", "-t", str(each.process.process.pid), "-n", "ip") for each in (one, other)]
    run(
        *ends[0], "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", str(other.process.process.pid)
    )
    for number, end in enumerate(ends, 1):
        run(*end, "addr", "add", f"10.9.0.{number}/24", "dev", "cable")
        run(*end, "link", "set", "cable", "up")


async def test_each_node_writes_its_own_and_nobody_elses(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(running(tmp_path / "e"))
        operator = Operator(server)
        operator.protect()
        first = await stack.enter_async_context(node(tmp_path / "1", 1, server, "first"))
        second = await stack.enter_async_context(node(tmp_path / "2", 2, server, "second"))
        wire(first, second)

        begun = await first.ask(ADMIN, "POST", "/node/init", {"name": "first"})
        assert begun == {}, begun
        token = (await first.ask(ADMIN, "POST", "/node/token", {}))["token"]
        joined = await second.ask(ADMIN, "POST", "/node/join", {"token": token, "name": "second"})
        assert joined.get("done"), joined
        me, other = (await second.report())["node"], (await first.report())["node"]

        # Its role has nothing of its own yet: it says so, key by key, and goes on here.
        await second.begin_service()
        alive, web = records.key(records.ALIVE, me), records.key(records.NETWORKS, me)

        async def told() -> bool:
            said = [line for line in (await second.report())["problems"] if MAY_NOT in line]
            return any(alive in line for line in said) and any("cannot be published" in line for line in said)

        await eventually(told, second.report)
        assert samples.network_id(2) in {one["id"] for one in await second.ask(ADMIN, "GET", "/networks")}
        root = await stack.enter_async_context(Etcd([server.url], user="root", password=SECRET))
        assert not (await root.list(web)).items

        # What is printed on the other node is run as it is, and it is whole.
        operator.run(*first.roles("second"))
        await first.begin_service()
        names = {"service-1", "service-2"}
        for each in (first, second):

            async def whole(each: Node = each) -> bool:
                report = await each.report()
                return await each.services() >= names and not [p for p in report["problems"] if MAY_NOT in p]

            await eventually(whole, each.report)
        written = {kv.key: kv for kv in (await root.list(records.ROOT)).items}
        for node_id in (me, other):
            for kind in (records.NETWORKS, records.ENDPOINTS, records.WEB):
                assert [key for key in written if key.startswith(records.key(kind, node_id))], (kind, node_id)

        # A role that lacks the ranges keeps no other record back; and what was refused comes when it is granted.
        operator.run(f"etcdctl role revoke-permission --prefix=true stackpad-node {records.RANGES}")
        ranges = [key for key in written if key.startswith(records.RANGES) and me.encode() in written[key].value]
        await root.commit((), [Delete(key) for key in ranges])
        more = {"complete": True, "containers": [WEB, {**WEB, "id": "w2"}]}
        await second.ask(ADMIN, "PUT", "/web", more)

        async def ranges_refused() -> bool:
            said = [line for line in (await second.report())["problems"] if MAY_NOT in line]
            return (
                any(records.RANGES in line for line in said)
                and await root.get(records.key(records.WEB, me, "w2")) is not None
            )

        await eventually(ranges_refused, second.report)
        operator.run(f"etcdctl role grant-permission --prefix=true stackpad-node readwrite {records.RANGES}")

        async def restored() -> bool:
            return ranges == [kv.key for kv in (await root.list(records.RANGES)).items if me.encode() in kv.value]

        await eventually(restored, second.report)

        # With its password, nothing of the other's can be changed: neither made, written, deleted nor let expire.
        theirs = [key for key in written if other in key]
        assert {key.split("/")[3] for key in theirs} >= {"nodes", "alive", "networks", "endpoints", "ingresses", "web"}
        thief = await stack.enter_async_context(Etcd([server.url], user="second", password=SECRET))
        own_tombstone = records.key(records.REMOVED, me)
        made = [
            own_tombstone,
            records.key(records.REMOVED, other),
            records.key(records.HOSTS, "www.example.org"),
            records.CLUSTER,
        ]
        for key in [*theirs, *made]:
            for operation in (Put(key, b"{}"), Delete(key)):
                with pytest.raises(Unavailable, match="permission denied"):
                    await thief.commit((), [operation])
        lease = int(
            json.loads(operator.run(f"etcdctl get -w json {records.key(records.ALIVE, other)}"))["kvs"][0]["lease"]
        )
        with pytest.raises(AssertionError, match="permission denied"):
            Operator(server, f"second:{SECRET}").run(f"etcdctl lease revoke {lease:x}")
        refused = await second.ask(ADMIN, "POST", "/node/rm", {"name": "first"})
        assert MAY_NOT in refused["error"]
        after = {kv.key: kv.value for kv in (await root.list(records.ROOT)).items}
        assert {key: after.get(key) for key in theirs} == {key: written[key].value for key in theirs}

        # The ranges are everybody's: that is what the documents say.
        held = next(kv for key, kv in written.items() if key.startswith(records.RANGES) and other.encode() in kv.value)
        await thief.commit((), [Put(held.key, held.value)])

        # It can leave by itself, and with all it had.
        assert await second.ask(ADMIN, "POST", "/node/leave", {}) == {"freed": True}

        async def gone() -> bool:
            return [kv.key for kv in (await root.list(records.ROOT)).items if me in kv.key] == [own_tombstone]

        # The tombstone is not its own to write, nor to delete: the control node does, as it hears of it.
        await eventually(gone, first.report)
