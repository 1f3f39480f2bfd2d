"""Stable upstreams: what the node sends to a number arrives at the service's containers, and nobody else can use it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from plugin import upstreams
from plugin.admin.upstreams import LARGEST, UpstreamAdmin
from plugin.docker import protocol
from plugin.kernel import leading, loopback
from plugin.kernel.dataplane import Plan
from plugin.kernel.overlay import Overlay
from plugin.kernel.reconciler import Reconciler
from plugin.kernel.writer import Kernel
from stackpad.upstreams import UPSTREAM4, UPSTREAM6
from tests import samples
from tests.kernel.frames import dropped
from tests.kernel.workbench import Node, node
from tests.netns import PROC, Namespace, eventually, ip, run
from tests.samples import endpoint_id, network_id

EVERY = (*UPSTREAM4, *UPSTREAM6)
PORT = 8080
ESTABLISHED, SYN_SENT = 1, 2
TCP_FASTOPEN_CONNECT = 30
"""``TCP_FASTOPEN_CONNECT`` (linux/tcp.h), which Python has no name for."""


class Served:
    """A server in a container: it says its name and who asked, for each line it gets."""

    def __init__(self, container: Namespace, name: str, family: int = socket.AF_INET) -> None:
        self._name = name.encode()
        self._stop = threading.Event()
        self._listening = container.call(lambda: socket.create_server(("", PORT), family=family))
        self._listening.settimeout(0.1)
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.ExitStack() as stack:
            while not self._stop.is_set():
                with contextlib.suppress(TimeoutError):
                    connection, peer = self._listening.accept()
                    stack.enter_context(connection)
                    thread = threading.Thread(target=self._answer, args=(connection, peer[0]), daemon=True)
                    thread.start()

    def _answer(self, connection: socket.socket, peer: str) -> None:
        with contextlib.suppress(OSError):
            while connection.recv(100):
                connection.sendall(self._name + b" " + peer.encode())

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._listening.close()


class Bench:
    """A node with two networks, and what its ingress would do."""

    def __init__(self, made: Node) -> None:
        self.node = made
        self.servers: list[Served] = []

    @property
    def reconciler(self) -> Reconciler:
        return self.node.reconciler

    async def container(self, host: int, net: int = 1, *, serves: bool = True, version: int = 4) -> Namespace:
        made = await self.node.container(host, net)
        if serves:
            self.servers.append(Served(made, f"c{host}", socket.AF_INET if version == 4 else socket.AF_INET6))
        return made

    async def say(self, table: dict[str, list[str]]) -> None:
        """What ``PUT /upstreams`` does."""
        await UpstreamAdmin(self.node.state, self.reconciler).replace(json.dumps(table).encode())

    async def leave(self, host: int) -> None:
        """A container of network 1 ends."""
        ref = protocol.EndpointRef(network_id=network_id(1), endpoint_id=endpoint_id(host))
        await self.node.driver.leave(ref)
        await self.reconciler.settle(network_id(1))

    def close(self) -> None:
        for server in self.servers:
            server.close()


@pytest.fixture
async def bench(netns: None, tmp_path: Path) -> AsyncIterator[Bench]:
    async with node(tmp_path) as made:
        bench = Bench(made)
        for number in (1, 2):
            await made.network(number)
        try:
            yield bench
        finally:
            bench.close()


def dial(number: int, address: str = UPSTREAM4[0], patience: float = 5.0) -> socket.socket:
    return socket.create_connection((address, number), patience)


def ask(number: int, address: str = UPSTREAM4[0], patience: float = 5.0) -> str:
    """What a new connection of the node's own is answered; the kind of failure, where there is none."""
    try:
        with dial(number, address, patience) as connection:
            connection.sendall(b"?\n")
            return connection.recv(100).decode()
    except OSError as error:
        return type(error).__name__


def at(host: int, net: int = 1) -> str:
    return f"10.192.{net}.{host}:{PORT}"


async def asked(number: int, address: str = UPSTREAM4[0], patience: float = 60.0) -> str:
    return await asyncio.to_thread(ask, number, address, patience)


async def test_one_container_is_reached_at_all_addresses_of_its_number(bench: Bench) -> None:
    await bench.container(2)
    await bench.say({"20001": [at(2)]})
    for address in UPSTREAM4:
        assert await asked(20001, address) == "c2 10.192.1.1", "the gateway is whom it sees"
    assert await asked(20002) == "ConnectionRefusedError"
    assert await asked(20002, UPSTREAM6[0]) == "ConnectionRefusedError"


async def test_several_share_new_connections(bench: Bench) -> None:
    for host in (2, 3, 4):
        await bench.container(host)
    await bench.say({"20001": [at(2), at(3), at(4)]})
    answers = [await asked(20001) for _ in range(60)]
    assert {answer.split()[0] for answer in answers} == {"c2", "c3", "c4"}


async def test_ipv6(bench: Bench) -> None:
    for host in (2, 3):
        await bench.container(host, version=6)
    await bench.say({"20001": ["[fd00:1::2]:8080"], "20002": ["[fd00:1::2]:8080", "[fd00:1::3]:8080"]})
    for address in UPSTREAM6:
        assert await asked(20001, address) == "c2 fd00:1::1"
        assert {(await asked(20002, address)).split()[0] for _ in range(40)} == {"c2", "c3"}


async def test_a_connection_stays_where_it_is_and_new_ones_go_to_the_new(bench: Bench) -> None:
    for host in (2, 3):
        await bench.container(host)
    await bench.say({"20001": [at(2)]})
    with dial(20001) as old:
        old.sendall(b"?\n")
        assert old.recv(100).startswith(b"c2 ")
        for targets in ([at(2), at(3)], [at(3)], []):
            await bench.say({"20001": targets})
            old.sendall(b"?\n")
            assert old.recv(100).startswith(b"c2 ")
        await bench.say({"20001": [at(3)]})
        assert (await asked(20001)).startswith("c3 ")


async def test_who_finds_nobody_waits_and_is_called_when_somebody_comes(bench: Bench) -> None:
    await bench.container(2)
    await bench.say({"20001": []})
    waiting = asyncio.ensure_future(asked(20001))
    await eventually(lambda: dropped("nobody there now: tried again") > 0, "the attempt")
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await bench.say({"20001": [at(2)]})
    # The kernel's own next attempt reaches the container, or who waits is woken before it to try again.
    assert (await waiting).partition(" ")[0] in {"c2", "ConnectionAbortedError"}
    assert (await asked(20001)).startswith("c2 ")


async def test_a_refusal_is_not_passed_on(bench: Bench) -> None:
    """A container that has stopped listening is about to be replaced: who tries again finds the next one."""
    await bench.container(2, serves=False)
    await bench.container(3)
    await bench.say({"20001": [at(2)]})
    waiting = asyncio.ensure_future(asked(20001))
    await eventually(lambda: dropped("tried again") > 0, "the refusal")
    assert not waiting.done()
    await bench.say({"20001": [at(3)]})
    assert (await waiting).partition(" ")[0] in {"c3", "ConnectionAbortedError"}
    assert (await asked(20001)).startswith("c3 ")


async def test_only_who_began_before_a_change_is_called(bench: Bench) -> None:
    """However late it is looked for them: who begins after it has met what is there now."""
    await bench.say({"20001": []})
    before = time.monotonic()
    waiting = asyncio.ensure_future(asked(20001))
    await eventually(lambda: dropped("nobody there now: tried again") > 0, "the attempt")
    await asyncio.sleep(0.1)
    for numbers, moment in (([20001], before), ([20002], time.monotonic())):
        assert await asyncio.to_thread(loopback.hurry, numbers, moment) == 0
    assert await asyncio.to_thread(loopback.hurry, [20001], time.monotonic()) == 1
    assert await waiting == "ConnectionAbortedError"


def attempt(number: int) -> socket.socket:
    """A connection to a number that is being made, and waited for by nobody."""
    connection = socket.socket()
    connection.setblocking(False)
    connection.connect_ex((UPSTREAM4[0], number))
    return connection


def state(connection: socket.socket) -> int:
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def attempt_after(target: str) -> socket.socket:
    """One that begins when number 20001 leads to ``target``, and keeps the event loop busy until long after that."""
    for _ in range(1000):
        if target in run("nft", "list", "map", "inet", "stackpad", "upstream4"):
            break
    time.sleep(0.2)
    begun = attempt(20001)
    time.sleep(0.2)
    return begun


async def test_an_attempt_whose_timer_does_not_run_is_not_called(bench: Bench) -> None:
    """It may be a moment old: here it is one that is sent with its first words only, and waits for them."""
    await bench.say({"20001": []})
    run("sysctl", "-qw", "net.ipv4.tcp_fastopen=5")  # for clients, also to servers they do not know
    with socket.socket() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
        connection.connect((UPSTREAM4[0], 20001))
        assert state(connection) == SYN_SENT
        await asyncio.sleep(0.2)
        assert await asyncio.to_thread(loopback.hurry, [20001], time.monotonic() - 0.1) == 0
        assert state(connection) == SYN_SENT


async def test_who_begins_after_a_change_is_not_called_however_late_the_loop_hears_of_it(
    netns: None, tmp_path: Path
) -> None:
    ip("addr", "add", f"{UPSTREAM4[0]}/32", "dev", "lo")
    elsewhere = leading.elements(20001, [upstreams.Target("192.0.2.7", 80)])
    ip("route", "add", "blackhole", "192.0.2.0/24")
    there = leading.elements(20001, [])
    with contextlib.ExitStack() as stack:
        async with Kernel(run=tmp_path, proc=PROC) as kernel:
            await kernel.install_firewall(there)
            changing = asyncio.ensure_future(kernel.apply([Plan(new_elements=elsewhere - there)]))
            await asyncio.sleep(0)  # it is in the kernel's thread now, and this one is busy
            connection = stack.enter_context(attempt_after("192.0.2.7"))
            assert await changing == [None]
        # Whoever was to be called has been, now that it is closed.
        assert state(connection) == SYN_SENT


async def test_a_connection_that_is_made_meanwhile_is_not_cut(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.container(2)
    await bench.say({"20001": []})
    hurry, looks = loopback.hurry, []
    monkeypatch.setattr(loopback, "hurry", lambda *_: 0)
    with attempt(20001) as connection:
        await eventually(lambda: dropped("nobody there now: tried again") > 0, "the attempt")
        await asyncio.sleep(0.1)
        before, loop = loopback._before, asyncio.get_running_loop()

        def slow(*words: Any) -> list[tuple[int, bytes]]:
            found = list(before(*words))
            looks.append(len(found))
            if len(looks) == 2:
                asyncio.run_coroutine_threadsafe(bench.say({"20001": [at(2)]}), loop).result(30)
                deadline = time.monotonic() + 30
                # The kernel tries again by itself, after a second or some.
                while state(connection) == SYN_SENT and time.monotonic() < deadline:
                    time.sleep(0.01)
            return found

        monkeypatch.setattr(loopback, "_before", slow)
        assert await asyncio.to_thread(hurry, [20001], time.monotonic()) == 0
        assert looks == [1, 1]
        assert state(connection) == ESTABLISHED


async def test_a_connection_that_a_container_resets_ends(bench: Bench) -> None:
    container = await bench.container(2, serves=False)
    listening = container.call(lambda: socket.create_server(("", PORT)))
    await bench.say({"20001": [at(2)]})
    with dial(20001) as connection, listening:
        there, _ = listening.accept()
        connection.sendall(b"?\n")
        assert there.recv(10) == b"?\n"
        there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        there.close()
        with pytest.raises(ConnectionResetError):
            connection.recv(10)


@pytest.mark.parametrize("address", EVERY)
async def test_a_container_cannot_use_it(bench: Bench, address: str) -> None:
    await bench.container(2)
    stranger = await bench.container(3, net=2, serves=False)
    stranger.run("ip", "route", "add", "default", "via", "fd00:2::1", "dev", "eth0")
    await bench.say({"20001": [at(2)], "20002": ["[fd00:1::2]:8080"]})
    for number in (20001, 20002):
        assert await asyncio.to_thread(stranger.call, lambda n=number: ask(n, address, 0.5)) == "TimeoutError"
    assert dropped("upstreams are for the node") > 0


async def test_a_server_of_the_nodes_own_is_not_reached_by_it(bench: Bench) -> None:
    await bench.say({"20001": []})
    with socket.create_server(("0.0.0.0", 20005)), socket.create_server(("0.0.0.0", 20001)):
        assert await asked(20005, patience=1.0) == "ConnectionRefusedError"
        assert await asked(20001, patience=0.5) == "TimeoutError"


async def test_an_address_that_changes_hands_is_nobodys_until_it_is_said_anew(bench: Bench) -> None:
    await bench.container(2)
    await bench.say({"20001": [f"{at(2)}@{endpoint_id(2)}"]})
    assert (await asked(20001)).startswith("c2 ")
    ref = protocol.EndpointRef(network_id=network_id(1), endpoint_id=endpoint_id(2))
    await bench.leave(2)
    assert await asked(20001, patience=0.5) == "TimeoutError"
    await bench.node.driver.delete_endpoint(ref)
    # The next one gets its address, and listens on the same port.
    body = samples.create_endpoint(9, "10.192.1.2/24", net=1)
    await bench.node.driver.create_endpoint(msgspec.convert(body, protocol.CreateEndpoint))
    await bench.node.driver.join(msgspec.convert(samples.join(9, net=1), protocol.Join))
    await bench.say({"20001": [f"{at(2)}@{endpoint_id(2)}"], "20002": []})
    assert "10.192.1.2" not in run("nft", "list", "map", "inet", "stackpad", "upstream4"), "who was meant is gone"
    await bench.say({"20001": [f"{at(2)}@{endpoint_id(9)}"], "20002": []})
    assert "10.192.1.2" in run("nft", "list", "map", "inet", "stackpad", "upstream4")


async def test_one_of_several_leaves_and_the_others_take_its_places(bench: Bench) -> None:
    for host in (2, 3):
        await bench.container(host)
    await bench.say({"20001": [at(2), at(3)]})
    await bench.leave(2)
    assert {(await asked(20001)).split()[0] for _ in range(20)} == {"c3"}


async def test_containers_of_other_nodes_as_long_as_their_ranges_are_known(bench: Bench) -> None:
    def lead() -> bool:
        return "10.7.0.2 . 80" in run("nft", "list", "map", "inet", "stackpad", "upstream4")

    await bench.say({"20001": ["10.7.0.2:80"], "20002": ["10.8.0.2:80"]})
    assert not lead()
    bench.reconciler.overlay(Overlay(beyond=frozenset({ip_network("10.7.0.0/26")})))
    await eventually(lead, "the other node's container to be led to")
    assert "10.8.0.2" not in run("nft", "list", "map", "inet", "stackpad", "upstream4"), "a range that is nobody's"
    bench.reconciler.overlay(Overlay())
    await eventually(lambda: not lead(), "it to be left")


async def test_the_last_number_takes_everything_with_it(bench: Bench) -> None:
    await bench.container(2)
    await bench.say({"20001": [at(2)], "20002": [at(2)]})
    assert all(address in ip("addr", "show", "dev", "lo") for address in EVERY)
    await bench.say({"20002": [at(2)]})
    assert (await asked(20001), (await asked(20002)).split()[0]) == ("ConnectionRefusedError", "c2")
    await bench.say({})
    assert not any(f"{address}/" in ip("addr", "show", "dev", "lo") for address in EVERY)
    listing = run("nft", "list", "table", "inet", "stackpad")
    assert "10.192.1.2 . 8080" not in listing
    assert "2000" not in listing


@pytest.mark.parametrize(
    "words",
    [
        ("nft", "flush", "ruleset"),
        ("nft", "flush", "map", "inet", "stackpad", "upstream4"),
        ("nft", "flush", "chain", "inet", "stackpad", "upstream"),
        ("ip", "addr", "del", f"{UPSTREAM4[1]}/32", "dev", "lo"),
    ],
    ids=" ".join,
)
async def test_damage_is_mended(bench: Bench, words: tuple[str, ...]) -> None:
    await bench.container(2)
    await bench.say({"20001": [at(2)]})
    run(*words)
    await eventually(lambda: bench.reconciler.repairs, "the repair")
    await eventually(lambda: ask(20001, UPSTREAM4[1], 0.5).startswith("c2 "), "the way to the container")


async def test_a_restarted_plugin_has_the_same_table_before_anybody_asks(netns: None, tmp_path: Path) -> None:
    async with node(tmp_path) as made:
        await made.network(1)
        first = Bench(made)
        container = await first.container(2)
        await first.say({"20001": [at(2)], "20002": []})
        before = run("nft", "list", "table", "inet", "stackpad")
        made.containers.clear()
    try:
        assert (await asked(20001)).startswith("c2 "), "also while there is no plugin"
        async with node(tmp_path) as again:
            assert again.reconciler.repairs == 0
            assert _elements(run("nft", "list", "table", "inet", "stackpad")) == _elements(before)
            assert (await asked(20001)).startswith("c2 ")
            assert await asked(20002, patience=0.5) == "TimeoutError"
    finally:
        first.close()
        container.close()


def _elements(listing: str) -> list[str]:
    return sorted(_lines(listing))


def _lines(listing: str) -> Iterator[str]:
    for line in listing.splitlines():
        if "counter" not in line:
            yield line


@contextlib.asynccontextmanager
async def admin_socket(made: Node, path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """The table as the ingress says it, over the socket."""
    application = web.Application()
    UpstreamAdmin(made.state, made.reconciler).add_to(application)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.UnixSite(runner, path).start()
        async with aiohttp.ClientSession("http://plugin", connector=aiohttp.UnixConnector(str(path))) as session:
            yield session
    finally:
        await runner.cleanup()


async def test_what_is_said_over_the_socket_is_in_the_kernel_when_it_is_answered(bench: Bench, tmp_path: Path) -> None:
    await bench.container(2)
    async with admin_socket(bench.node, tmp_path / "net.sock") as session:
        async with session.put("/upstreams", json={"20001": [at(2)], "20002": []}) as answer:
            assert (answer.status, await answer.json()) == (200, {"numbers": 2})
        assert (await asked(20001)).startswith("c2 ")
        async with session.patch("/upstreams", json={"20001": None, "20003": [at(2)]}) as answer:
            assert (answer.status, await answer.json()) == (200, {"numbers": 2})
        assert await asked(20001) == "ConnectionRefusedError"
        assert (await asked(20003)).startswith("c2 ")
        async with session.patch("/upstreams", json={"20001": [at(2)], "20003": None}) as answer:
            assert answer.status == 200
        for body, words in (('{"1": []}', "from 20000 to 64999"), ("[]", "cannot be read")):
            async with session.put("/upstreams", data=body) as answer:
                assert answer.status == 400
                assert words in (await answer.json())["error"]
        async with session.get("/upstreams") as answer:
            there = {"address": at(2), "network": network_id(1), "endpoint": endpoint_id(2), "there": True}
            assert await answer.json() == {"20001": [there], "20002": []}
        large = json.dumps({str(number): [at(2), at(3), at(4)] for number in range(62000, 65000)})
        async with session.put("/upstreams", data=io.BytesIO(large.encode())) as answer:
            assert (answer.status, await answer.json()) == (200, {"numbers": 3000})
        assert (await asked(64999)).startswith("c2 ")
        async with session.put("/upstreams", data=io.BytesIO(b" " * (LARGEST + 1))) as answer:
            assert answer.status == 413
        async with session.put("/upstreams", json={"20002": []}) as answer:
            assert answer.status == 200
    assert await asked(20001) == "ConnectionRefusedError"


async def test_a_kernel_that_refuses_is_told_and_made_good(bench: Bench, tmp_path: Path) -> None:
    await bench.container(2)
    async with admin_socket(bench.node, tmp_path / "net.sock") as session:
        run("nft", "delete", "table", "inet", "stackpad")
        async with session.put("/upstreams", json={"20001": [at(2)]}) as answer:
            told = answer.status
        assert told in {200, 503}, "somebody has just taken the rules away; it is mended, or said"
        await eventually(lambda: ask(20001, patience=0.5).startswith("c2 "), "the way to the container")
