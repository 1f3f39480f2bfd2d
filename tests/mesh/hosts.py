"""Hosts with the whole plugin, as Docker runs it, and containers on them: what ends with the plugin ends here, too.

A host is a network and a mount namespace, with ``/run`` and ``/var/lib`` of its own, that stay while its plugin
comes and goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests import samples
from tests.bench.engine import SyntheticEngine
from tests.netns import eventually, run
from tests.testbed.shell import ROOT

_HOLD = """
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=755 lib /var/lib
ip link set lo up
touch /run/ready
exec sleep infinity
"""
DRIVER, ADMIN = "docker/plugins/stackpad.sock", "stackpad/net.sock"
ENVIRONMENT = "shop"
SLOW = 600.0
"""Seconds that bound a failure: an emulated machine takes a minute for what a real one does in two seconds."""


@dataclass
class Container:
    """A namespace that is on a network of a host."""

    process: subprocess.Popen[bytes]
    address: str = ""

    def run(self, *command: str) -> str:
        """What a command prints inside."""
        return run("nsenter", f"--net=/proc/{self.process.pid}/ns/net", *command)


@dataclass
class Host:
    """Host ``number``, at 192.0.2.``number``; without its plugin at first."""

    number: int
    implementation: str
    log: Path
    holder: subprocess.Popen[bytes]
    engine: SyntheticEngine
    plugin: subprocess.Popen[bytes] | None = None
    containers: list[Container] = field(default_factory=list)

    def run(self, *command: str) -> str:
        """What a command prints there."""
        return run("nsenter", f"--target={self.holder.pid}", "--net", "--mount", "--root", *command)

    @property
    def name(self) -> str:
        return f"n{self.number}"

    @property
    def sockets(self) -> Path:
        """Its ``/run``, as seen from here."""
        return Path(f"/proc/{self.holder.pid}/root/run")

    async def start(self, version: str = "1.0.0") -> None:
        """Start the plugin, which says it is this version, and wait until it listens."""
        # A checkout is on the path and not installed; a node of a cluster says its version.
        metadata = self.sockets / "path" / f"stackpad-{version}.dist-info" / "METADATA"
        run("rm", "-rf", str(metadata.parents[1]))
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: stackpad\nVersion: {version}\n")
        settings = {
            "HOST_RUN": "/run", "HOST_PROC": "/proc", "HOST_LIB": "/var/lib", "LOG_LEVEL": "warning",
            "WIREGUARD": self.implementation, "ENDPOINT": f"192.0.2.{self.number}", "PYTHONPATH": f"/run/path:{ROOT}",
        }  # fmt: skip
        words = ["nsenter", f"--target={self.holder.pid}", "--net", "--mount", "--root", "unshare", "--pid", "--fork"]
        words += ["env", *(f"{name}={value}" for name, value in settings.items()), sys.executable, "-m", "plugin"]
        self.plugin = _begun(*words, output=self.log)
        await eventually(self._listens, f"the plugin of {self.name} to listen\n{self.words()}", SLOW)

    async def end(self, number: signal.Signals) -> None:
        """End the plugin by a signal, and with it all that it has started."""
        assert self.plugin is not None
        (child,) = Path(f"/proc/{self.plugin.pid}/task/{self.plugin.pid}/children").read_text().split()
        run("kill", f"-{number.value}", child)
        await asyncio.to_thread(self.plugin.wait, SLOW)
        self.plugin = None

    async def call(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """A call of Docker's, that has to succeed."""
        said = dict(json.loads(await self._ask(DRIVER, "POST", name, body)))
        assert not said.get("Err"), (name, said)
        return said

    async def admin(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """What the command line would get; the last line of it."""
        said = await self._ask(ADMIN, "GET" if body is None else "POST", path, body)
        return json.loads(said.splitlines()[-1])

    async def connected(self) -> None:
        """Wait until the plugin serves and reaches the store."""
        async with asyncio.timeout(SLOW):
            while not (await self._cluster()).get("store", {}).get("connected"):  # noqa: ASYNC110 - it is asked over HTTP
                await asyncio.sleep(0.1)

    async def sees(self, number: int, version: str, *, alive: bool = True) -> None:
        """Wait until this node sees the other one, or itself, so."""
        async with asyncio.timeout(SLOW):
            while (await self._versions()).get(f"n{number}") != (version, alive):  # noqa: ASYNC110 - the same
                await asyncio.sleep(0.1)

    async def container(self) -> Container:
        """Another container of the one environment, on this host's network of it."""
        if not self.containers:
            await self._network()
        process = _begun("unshare", "--net", "sleep", "infinity")
        made = Container(process)
        self.containers.append(made)
        await eventually(lambda: _apart(process.pid), "a namespace for a container")
        asked = await self.call("IpamDriver.RequestAddress", {"PoolID": self._pool_id, "Address": "", "Options": None})
        at, number = str(asked["Address"]), len(self.containers)
        await self.call("NetworkDriver.CreateEndpoint", samples.create_endpoint(number, at))
        joined = await self.call("NetworkDriver.Join", samples.join(number))
        link = joined["InterfaceName"]["SrcName"]
        run("nsenter", f"--net=/proc/{self.holder.pid}/ns/net", "ip", "link", "set", link, "netns", str(process.pid))
        made.run("ip", "link", "set", link, "name", "eth0", "up")
        made.run("ip", "addr", "add", at, "dev", "eth0")
        made.run("ip", "route", "add", "default", "via", str(joined["Gateway"]))
        made.address = at.partition("/")[0]
        self.engine.take(_running(number, made.address))
        self.engine.tell(samples.endpoint_id(number), "start")
        return made

    def words(self) -> str:
        """All that its plugins have logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    async def _network(self) -> None:
        pool = await self.call("IpamDriver.RequestPool", {"AddressSpace": "stackpad", "Pool": "", "V6": False})
        self._pool_id = str(pool["PoolID"])
        gateway = {"RequestAddressType": "com.docker.network.gateway"}
        asked = await self.call("IpamDriver.RequestAddress", {"PoolID": self._pool_id, "Address": "", "Options": gateway})
        body = samples.create_network(pool=str(pool["Pool"]))
        body["IPv4Data"][0]["Gateway"] = asked["Address"]
        await self.call("NetworkDriver.CreateNetwork", body)

    async def _cluster(self) -> dict[str, Any]:
        """What it says of the cluster, if it answers."""
        with contextlib.suppress(aiohttp.ClientError):
            return dict(await self.admin("cluster"))
        return {}

    async def _versions(self) -> dict[str, tuple[str, bool]]:
        nodes = (await self._cluster()).get("nodes", ())
        return {node["name"]: (node["version"], node["alive"]) for node in nodes}

    async def _ask(self, socket: str, method: str, path: str, body: dict[str, Any] | None) -> str:
        connector = aiohttp.UnixConnector(path=str(self.sockets / socket))
        timeout = aiohttp.ClientTimeout(SLOW)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.request(method, f"http://plugin/{path}", json=body) as answer,
        ):
            said = await answer.text()
            assert answer.status == 200 or "its store does not answer yet" in said, said
            return said

    def _listens(self) -> bool:
        assert self.plugin is not None
        assert self.plugin.poll() is None, self.words()
        return (self.sockets / ADMIN).is_socket()


class Pings:
    """Pings from a container to an address, ``often`` a second; what was answered, by number."""

    def __init__(self, container: Container, address: str, answers: Path, often: int) -> None:
        self._file, self._rest, self._often = answers, "", often
        self._answered, self._latest = set[int](), 0
        self.judged = 0
        """The number of the last one that :meth:`lost` has looked at."""
        words = ["nsenter", f"--net=/proc/{container.process.pid}/ns/net", "stdbuf", "-oL", "ping", "-n"]
        self.process = _begun(*words, "-i", str(1 / often), address, output=answers)
        self._read = 0

    async def begun(self) -> None:
        """Wait until there are answers; what was sent before is not judged."""
        await eventually(lambda: self._look() > 0, "answers to pings", SLOW)
        self.judged = self._latest
        self._answered.clear()

    async def lost(self) -> list[int]:
        """Those without an answer since the last time, up to now: it waits for answers to some that are sent later."""
        # A second's worth, so that all that are judged have had a second for their answers at least.
        until = self._look()
        await eventually(lambda: self._look() >= until + self._often, "answers to pings again", SLOW)
        lost = [number for number in range(self.judged + 1, until + 1) if number not in self._answered]
        self.judged = until
        return lost

    def _look(self) -> int:
        """Read what has come since the last time; the latest number that was answered."""
        with self._file.open() as file:
            file.seek(self._read)
            self._rest += file.read()
            self._read = file.tell()
        *lines, self._rest = self._rest.split("\n")
        for line in lines:
            if found := re.search(r"bytes from \S+ icmp_seq=(\d+) ", line):
                self._answered.add(int(found[1]))
                self._latest = max(self._latest, int(found[1]))
        return self._latest


def _begun(*command: str, output: Path = Path(os.devnull)) -> subprocess.Popen[bytes]:
    """A process that runs beside the test, and adds what it prints to a file."""
    with output.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)


def _running(number: int, address: str) -> dict[str, Any]:
    """What an engine says of a container; its own id is that of its endpoint."""
    attached = {"NetworkID": samples.network_id(1), "EndpointID": samples.endpoint_id(number), "IPAddress": address}
    return {
        "Id": samples.endpoint_id(number),
        "Name": f"/c{number}",
        "Config": {"Labels": {}},
        "State": {"Status": "running", "Running": True},
        "NetworkSettings": {"Networks": {ENVIRONMENT: attached}},
    }


@contextlib.asynccontextmanager
async def hosts(count: int, implementation: str, directory: Path) -> AsyncIterator[list[Host]]:
    """So many hosts on one wire, in the namespace of this thread; none has a plugin yet."""
    made = list[Host]()
    run("ip", "link", "add", "wires", "type", "bridge")
    run("ip", "link", "set", "wires", "up")
    try:
        for number in range(1, count + 1):
            holder = _begun("unshare", "--net", "--mount", "sh", "-c", _HOLD)
            engine = SyntheticEngine(Path(f"/proc/{holder.pid}/root/run/docker.sock"), 0)
            engine.networks = [{"Id": samples.network_id(1), "Name": ENVIRONMENT, "Driver": "stackpad"}]
            host = Host(number, implementation, directory / f"n{number}.log", holder, engine)
            made.append(host)
        async with contextlib.AsyncExitStack() as stack:
            for host in made:
                _wire(host)
                await stack.enter_async_context(host.engine)
            yield made
    finally:
        for host in made:
            for process in (host.plugin, *(container.process for container in host.containers), host.holder):
                _reap(process)
        run("ip", "link", "del", "wires")


def _wire(host: Host) -> None:
    ready = host.sockets / "ready"
    run("timeout", "60", "sh", "-c", f"until test -e {ready}; do sleep 0.05; done")
    near = f"wire{host.number}"
    run("ip", "link", "add", near, "master", "wires", "type", "veth", "peer", "eth0", "netns", str(host.holder.pid))
    run("ip", "link", "set", near, "up")
    host.run("ip", "addr", "add", f"192.0.2.{host.number}/24", "dev", "eth0")
    host.run("ip", "link", "set", "eth0", "up")


def _apart(process: int) -> bool:
    """Whether it is in a namespace other than ours."""
    return Path(f"/proc/{process}/ns/net").readlink() != Path("/proc/thread-self/ns/net").readlink()


def _reap(process: subprocess.Popen[bytes] | None) -> None:
    """Kill it with its children, the plugin of a namespace among them."""
    if process is None or process.poll() is not None:
        return
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        subprocess.run(["kill", "-KILL", child], check=False)
    process.kill()
    process.wait()
