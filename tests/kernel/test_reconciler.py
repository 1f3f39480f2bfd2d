"""Links, firewall and foreign chains come to what the state says, and come back to it whatever somebody does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from plugin import naming
from plugin.kernel.dataplane import FILTER, Element, Plan
from plugin.kernel.reconciler import Reconciler
from plugin.kernel.writer import Kernel
from plugin.model import Endpoint, Network, Protocol, PublishedPort, Subnet
from plugin.state import State
from stackpad.errors import StackpadError
from tests.netns import PROC, eventually, ip, run

RUN = Path("/run")
SHOP = Network(
    id="a" * 64,
    subnets=(Subnet("10.1.0.0/24", "10.1.0.1/24"), Subnet("fd01::/64", "fd01::1/64")),
    ipv6=True,
    bridge=naming.bridge_name("a" * 64),
)
OTHER = Network(
    id="b" * 64, subnets=(Subnet("10.2.0.0/24", "10.2.0.1/24"),), mtu=1400, bridge=naming.bridge_name("b" * 64)
)
WEB = Endpoint("c" * 64, SHOP.id, "02:50:0a:01:00:02", "10.1.0.2/24", "fd01::2/64", sandbox="/run/x")
PORT = naming.port_name(WEB.id)


@contextlib.asynccontextmanager
async def running(state: State) -> AsyncIterator[Reconciler]:
    """A reconciler at work on this namespace."""
    async with Kernel(run=RUN, proc=PROC) as kernel:
        reconciler = Reconciler(state, kernel)
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(reconciler.run())
            await asyncio.wait_for(reconciler.ready.wait(), 20)
            yield reconciler
            task.cancel()


@contextlib.asynccontextmanager
async def filled() -> AsyncIterator[State]:
    """A state with two networks and an endpoint that has joined."""
    with tempfile.TemporaryDirectory() as directory:
        async with State(Path(directory) / "net.db") as state:
            for network in (SHOP, OTHER):
                await state.put_network(network)
            await state.put_endpoint(WEB)
            yield state


def links() -> dict[str, dict[str, object]]:
    """Our links by name."""
    listed = json.loads(ip("-j", "-d", "addr"))
    return {str(link["ifname"]): link for link in listed if naming.is_ours(str(link["ifname"]))}


def elements(name: str, table: str = "inet") -> str:
    """The elements of one of our sets or maps, as text."""
    kind = "map" if name.startswith("published") else "set"
    return run("nft", "list", kind, table, "stackpad", name)


async def settle_all(reconciler: Reconciler) -> None:
    """Have what the state says in the kernel; at the start, an endpoint without a link counts as lost."""
    reconciler.forget_port(SHOP.id, WEB.id)
    for network in (SHOP, OTHER):
        await reconciler.settle(network.id)


async def test_a_network_with_an_endpoint(netns: None) -> None:
    async with filled() as state, running(state) as reconciler:
        await settle_all(reconciler)
        found = links()
        assert set(found) == {SHOP.bridge, OTHER.bridge, PORT, naming.peer_name(WEB.id)}
        assert found[OTHER.bridge]["mtu"] == 1400
        assert found[PORT]["master"] == SHOP.bridge
        assert found[naming.peer_name(WEB.id)]["address"] == WEB.mac
        shown = ip("-br", "addr", "show", "dev", SHOP.bridge)
        assert "10.1.0.1/24" in shown
        assert "fd01::1/64" in shown
        assert f"{PORT} . {WEB.mac} . 10.1.0.2" in elements("senders4", "bridge").replace('"', "")
        await state.put_endpoint(replace(WEB, ports=(PublishedPort(Protocol.TCP, 80, 8080),)))
        await reconciler.settle(SHOP.id)
        assert "tcp . 8080 : 10.1.0.2 . 80" in elements("published4")
        assert "tcp . 8080 : fd01::2 . 80" in elements("published6")
        await state.drop_network(SHOP.id)
        await reconciler.settle(SHOP.id)
        await eventually(lambda: set(links()) == {OTHER.bridge}, "the links of the network to go")
        assert "10.1.0.2" not in elements("published4") + elements("senders4", "bridge")


async def test_a_fresh_process_takes_over_what_it_finds(netns: None) -> None:
    async with filled() as state:
        async with running(state) as first:
            await settle_all(first)
            before = {name: link["ifindex"] for name, link in links().items()}
        async with running(state) as second:
            for _ in range(2):
                await second.settle(OTHER.id)  # a round, and with it whatever it would have repaired
            assert {name: link["ifindex"] for name, link in links().items()} == before
            assert second.repairs == 0
            assert WEB.mac in elements("senders4", "bridge")


async def test_everything_is_made_anew_after_a_reboot(netns: None) -> None:
    async with filled() as state, running(state) as reconciler:
        assert set(links()) == {SHOP.bridge, OTHER.bridge}
        assert reconciler.lost == {WEB.id}, "its link did not survive, and a new one would not be in its container"
        assert WEB.mac not in elements("senders4", "bridge")
        assert run("cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"


async def test_what_somebody_else_destroys_comes_back(netns: None) -> None:
    async with filled() as state, running(state) as reconciler:
        await settle_all(reconciler)
        for words in (
            ("nft", "flush", "ruleset"),
            ("nft", "delete", "table", "bridge", "stackpad"),
            ("nft", "flush", "chain", "inet", "stackpad", "forward_guard"),
            ("nft", "flush", "set", "bridge", "stackpad", "senders4"),
        ):
            run(*words)
            await eventually(lambda: _intact(), f"the firewall after {' '.join(words)}")
        ip("link", "del", OTHER.bridge)
        await eventually(lambda: OTHER.bridge in links(), "the bridge")
        ip("addr", "flush", "dev", SHOP.bridge, "scope", "global")
        await eventually(lambda: "10.1.0.1/24" in ip("-br", "addr", "show", "dev", SHOP.bridge), "the address")
        ip("link", "set", SHOP.bridge, "down")
        await eventually(lambda: "UP" in str(links()[SHOP.bridge]["flags"]), "the bridge to be up")
        assert reconciler.repairs > 0


async def test_forwarding_that_somebody_switches_off_comes_back(netns: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says so; nothing else would have it looked at in this test."""
    monkeypatch.setattr("plugin.kernel.reconciler.RESYNC", 1e6)
    setting = Path("/proc/sys/net/ipv4/ip_forward")
    async with filled() as state, running(state) as reconciler:
        setting.write_text("0")  # noqa: ASYNC240 - takes no time
        await eventually(lambda: setting.read_text().strip() == "1", "packets to be forwarded again")
        await eventually(lambda: reconciler.repairs == 1, "it to be told")


async def test_accepts_in_dockers_chains(netns: None) -> None:
    for tool in ("iptables-nft", "ip6tables-nft"):
        run(f"{tool}-restore", script=_DOCKER)
    async with filled() as state, running(state):
        for tool in ("iptables-nft", "ip6tables-nft"):
            await eventually(lambda t=tool: _accepted(t), f"{tool} at the start")  # type: ignore[misc]
        run("iptables-nft", "-F", "DOCKER-USER")
        await eventually(lambda: _accepted("iptables-nft"), "the accepts after a flush")
        listed = run("iptables-nft", "-S", "DOCKER-USER").splitlines()
        assert len([line for line in listed if "stackpad" in line]) == 2


async def test_the_nodes_addresses_and_its_uplink_bridge(netns: None) -> None:
    ip("link", "add", "br0", "type", "bridge")
    ip("link", "add", "docker9", "type", "bridge")
    for name, address in (("br0", "192.0.2.5/24"), ("docker9", "172.30.0.1/16")):
        ip("addr", "add", address, "dev", name)
        ip("link", "set", name, "up")
    ip("route", "add", "default", "via", "192.0.2.1")
    async with filled() as state, running(state):
        assert "192.0.2.5" in elements("node4")
        assert "172.30.0.1" not in elements("node4")
        assert "br0" in elements("uplink_bridges")
        ip("addr", "add", "192.0.2.6/24", "dev", "br0")
        await eventually(lambda: "192.0.2.6" in elements("node4"), "the node's new address")


async def test_who_asks_for_the_same_while_it_is_done_is_answered_too(
    netns: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else happens that would have it looked at."""
    monkeypatch.setattr("plugin.kernel.reconciler.RESYNC", 1e6)
    begun, go, apply = asyncio.Event(), asyncio.Event(), Kernel.apply

    async def slow(self: Kernel, plans: Sequence[Plan]) -> list[StackpadError | None]:
        begun.set()
        await go.wait()
        return await apply(self, plans)

    door = frozenset({Element(FILTER, "web4", "10.1.0.2 . 80")})
    async with filled() as state, running(state) as reconciler, asyncio.TaskGroup() as tasks:
        monkeypatch.setattr(Kernel, "apply", slow)
        one = tasks.create_task(reconciler.admit("web", door))
        await begun.wait()
        other = tasks.create_task(reconciler.admit("web", door))
        await asyncio.sleep(0)
        go.set()
        await eventually(lambda: one.done() and other.done(), "both to be answered")
        assert "10.1.0.2 . 80" in elements("web4")


def _intact() -> bool:
    try:
        rules = run("nft", "list", "chain", "inet", "stackpad", "forward_guard")
        return "from_container" in rules and WEB.mac in elements("senders4", "bridge")
    except RuntimeError:
        return False


def _accepted(tool: str) -> bool:
    return run(tool, "-S", "DOCKER-USER").count("sp-+") == 2


_DOCKER = """*filter
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A DOCKER-USER -j RETURN
COMMIT
"""
