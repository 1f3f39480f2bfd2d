"""Whoever gets an address gets none of the flows of who had it before, on a real connection tracking."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import threading
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from plugin.docker import protocol
from plugin.kernel import conntrack
from plugin.kernel import writer as kernel
from plugin.kernel.conntrack import Selection
from plugin.kernel.dataplane import EMPTY, desired, plan
from plugin.kernel.firewall import Firewall
from plugin.kernel.reconciler import Reconciler
from plugin.kernel.writer import Kernel
from plugin.state import State
from stackpad.errors import Unavailable
from tests import samples
from tests.kernel.test_attacks import CLIENT, NODE, heard, listening
from tests.kernel.workbench import Node, node
from tests.netns import PROC, Namespace, eventually, ip, run
from tests.samples import endpoint, network, network_id

SOURCES, TARGETS = {4: "127.1.0.", 6: "fd00:1::"}, {4: "127.2.0.", 6: "fd00:2::"}
FLOWS = 12
PORT = 8081


def selection(address: str) -> Selection:
    parsed = ipaddress.ip_address(address)
    return Selection(parsed.version, parsed.packed)


def begin(source: str, target: str, port: int = 9) -> None:
    """A UDP flow, to which the answer is that nobody listens."""
    with socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind((source, 0))
        sender.sendto(b"?", (target, port))


def tracked(version: int) -> set[str]:
    """Who began the flows there are, as ``udp fd00:1::1 9``: protocol, source and port."""
    listing = run("conntrack", "-L", "-f", f"ipv{version}")
    found = re.findall(r"^(\w+) .*? src=(\S+) .*? dport=(\d+) ", listing, re.M)
    return {" ".join(each) for each in found if each[1].startswith(SOURCES[version])}


@pytest.fixture
def tracking(netns: None) -> None:
    """A namespace with our rules, by which flows are tracked."""
    Firewall().install([])
    for number in range(1, FLOWS + 1):
        for part in (SOURCES[6], TARGETS[6]):
            ip("-6", "addr", "add", f"{part}{number}/128", "dev", "lo", "nodad")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("number", [2, FLOWS - 1], ids=["few", "many"])
async def test_the_flows_of_an_address_go_and_no_others(tracking: None, version: int, number: int) -> None:
    every = range(1, FLOWS + 1)
    await eventually(
        lambda: version == 4 or ip("-6", "route", "show", "table", "local", f"{TARGETS[6]}{FLOWS}"), "the last route"
    )
    for each in every:
        begin(f"{SOURCES[version]}{each}", f"{TARGETS[version]}{each}")
    assert tracked(version) == {f"udp {SOURCES[version]}{each} 9" for each in every}
    # Every other one by who began it, the rest by who answers.
    gone = [selection(f"{(SOURCES, TARGETS)[each % 2][version]}{each}") for each in range(1, number + 1)]
    assert conntrack.forget([*gone, selection("127.7.7.7")]) == {*gone, selection("127.7.7.7")}
    assert tracked(version) == {f"udp {SOURCES[version]}{each} 9" for each in every if each > number}


async def test_the_udp_flows_to_a_port_go_and_no_others(tracking: None) -> None:
    ends = (f"{SOURCES[4]}1", f"{TARGETS[4]}1")
    for port in (53, 54):
        begin(*ends, port)
    with socket.create_server((ends[1], 53)) as server:
        socket.create_connection(server.getsockname(), source_address=(ends[0], 0)).close()
    assert conntrack.forget([Selection(4, port=53), Selection(6, port=54)]) == {
        Selection(4, port=53),
        Selection(6, port=54),
    }
    assert tracked(4) == {f"udp {SOURCES[4]}1 54", f"tcp {SOURCES[4]}1 53"}


@pytest.mark.parametrize("number", [2, FLOWS])
async def test_a_flow_that_the_kernel_keeps_is_its_addresses_own_trouble(
    tracking: None, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It refuses here what it cannot read."""
    whole = conntrack._message
    for host in range(1, number + 1):
        begin(f"{SOURCES[4]}{host}", f"{TARGETS[4]}{host}")
    kept = selection(f"{SOURCES[4]}2")

    def message(kind: int, flags: int, version: int, attributes: bytes, number: int = 1) -> bytes:
        if kind == conntrack._DELETE and kept.address in attributes:
            attributes = conntrack._attribute(conntrack._ORIGINAL | conntrack._NESTED, b"\0")
        return whole(kind, flags, version, attributes, number)

    monkeypatch.setattr(conntrack, "_message", message)
    wanted = {selection(f"{SOURCES[4]}{host}") for host in range(1, number + 1)}
    assert conntrack.forget(wanted) == wanted - {kept}
    assert tracked(4) == {f"udp {SOURCES[4]}2 9"}


class Held:
    """Keeps the kernel from being told what to forget, as long as it is not let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._go, self._forget = threading.Event(), conntrack.forget
        monkeypatch.setattr(conntrack, "forget", self)

    def __call__(self, selections: Collection[Selection]) -> set[Selection]:
        self._go.wait(120)  # a failing test ends, too
        return self._forget(selections)

    def let_go(self) -> None:
        self._go.set()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    monkeypatch.setattr(kernel, "_PATIENCE", 0.3)
    made = Held(monkeypatch)
    yield made
    made.let_go()


@pytest.fixture
def outside(netns: None) -> Iterator[Namespace]:
    made = Namespace()
    ip("link", "add", "eth9", "type", "veth", "peer", "name", "eth0", "netns", made.path)
    ip("addr", "add", f"{NODE}/24", "dev", "eth9")
    ip("link", "set", "eth9", "up")
    made.run("ip", "addr", "add", f"{CLIENT}/24", "dev", "eth0")
    made.run("ip", "link", "set", "eth0", "up")
    yield made
    made.close()


async def join(made: Node, number: int) -> dict[str, Any]:
    """What ``Join`` answers for a container of network 3."""
    return await made.driver.join(msgspec.convert(samples.join(number, net=3), protocol.Join))


async def test_an_address_with_flows_is_not_given_to_another_environment(
    outside: Namespace, tmp_path: Path, held: Held
) -> None:
    """Somebody outside goes on sending to a published port whose container, with its network, is gone."""
    async with node(tmp_path) as made:
        await made.network(1)
        old = await made.container(2, 1)
        body = samples.publish(2, samples.binding(2000, PORT, proto=socket.IPPROTO_UDP))
        await made.driver.program_external_connectivity(msgspec.convert(body, protocol.ProgramExternalConnectivity))
        client, server = outside.call(lambda: listening(socket.AF_INET, CLIENT, 1000)), listens(old)
        client.connect((NODE, PORT))
        client.send(b"hello")
        loop = asyncio.get_running_loop()
        word, sender = await loop.sock_recvfrom(server, 100)
        await loop.sock_sendto(server, word, sender)
        assert await loop.sock_recv(client, 100) == b"hello"
        server.close()

        reference = msgspec.convert(samples.reference(2), protocol.EndpointRef)
        await made.driver.leave(reference)
        await made.driver.delete_endpoint(reference)
        await made.driver.delete_network(protocol.NetworkRef(network_id=network_id(1)))
        await made.reconciler.settle(network_id(1))
        await made.network(3, IPv4Data=samples.create_network(1)["IPv4Data"])
        for number, address in ((9, "10.192.1.2/24"), (10, "10.192.1.3/24")):
            created = samples.create_endpoint(number, address, net=3)
            await made.driver.create_endpoint(msgspec.convert(created, protocol.CreateEndpoint))
        with pytest.raises(Unavailable, match=r"10\.192\.1\.2 before are not forgotten yet"):
            await join(made, 9)
        await made.reconciler.settle(network_id(3))
        held.let_go()
        new = Namespace()
        made.containers.append(new)
        answer = await join(made, 9)
        ip("link", "set", answer["InterfaceName"]["SrcName"], "netns", new.path, "name", "eth0")
        new.run("ip", "addr", "add", "10.192.1.2/24", "dev", "eth0")
        new.run("ip", "link", "set", "eth0", "up")
        with listens(new) as newcomer:
            client.send(b"secret")
            with pytest.raises(ConnectionRefusedError):
                await asyncio.wait_for(loop.sock_recv(client, 100), 30)
            assert heard(newcomer) == []
        client.close()


async def test_an_address_whose_flows_stay_keeps_nobody_else_waiting(netns: None, tmp_path: Path, held: Held) -> None:
    """Its container has left its network and comes back; what it had begun before cannot be forgotten."""
    async with node(tmp_path) as made:
        await made.network(1)
        await made.container(2, 1)
        await made.driver.leave(msgspec.convert(samples.reference(2), protocol.EndpointRef))
        await made.reconciler.settle(network_id(1))
        with pytest.raises(Unavailable, match=r"10\.192\.1\.2, fd00:1::2 before are not forgotten yet"):
            await made.driver.join(msgspec.convert(samples.join(2), protocol.Join))
        for number in (2, 3):
            # What has failed makes the node look at everything, before it does anything else.
            await made.network(number)
            assert not sends("10.192.1.2")
        held.let_go()
        await eventually(lambda: sends("10.192.1.2") and sends("fd00:1::2"), "the container to be let in")


def sends(address: str) -> bool:
    """Whether the rules let anybody send from an address."""
    family = "senders6" if ":" in address else "senders4"
    return address in run("nft", "list", "set", "bridge", "stackpad", family)


def listens(container: Namespace) -> socket.socket:
    return container.call(lambda: listening(socket.AF_INET, "0.0.0.0", 2000))


ONE, OTHER = (desired(network(n), [endpoint(network(1))], uplink_mtu=1500) for n in (1, 2))


async def test_who_has_an_address_for_the_first_time_waits_for_nothing(netns: None, tmp_path: Path, held: Held) -> None:
    async with Kernel(run=tmp_path, proc=PROC) as opened:
        await opened.install_firewall(frozenset())
        assert await opened.apply([plan(ONE, EMPTY)]) == [None]
        assert await opened.apply([plan(EMPTY, ONE)]) == [None], "who leaves waits for nothing either"
        held.let_go()


async def test_an_address_that_changes_hands_at_once_is_left_first(netns: None, tmp_path: Path, held: Held) -> None:
    """One network's container goes and another's comes, in the same batch; a third one has nothing to do with it."""
    third = desired(network(3), [endpoint(network(3))], uplink_mtu=1500)
    async with Kernel(run=tmp_path, proc=PROC) as opened:
        await opened.install_firewall(frozenset())
        await opened.apply([plan(ONE, EMPTY)])
        there, refused, beside = await opened.apply([plan(EMPTY, ONE), plan(OTHER, EMPTY), plan(third, EMPTY)])
        assert (there, beside) == (None, None)
        assert "10.192.1.2 before are not forgotten yet" in str(refused)
        seen = await opened.observe()
        assert (set(seen.links.ports), seen.elements) == (set(third.ports), third.elements)
        held.let_go()
        assert await opened.apply([plan(OTHER, EMPTY)]) == [None]
        assert await opened.observe_firewall() == third.elements | OTHER.elements


@pytest.mark.parametrize("taken", [False, True])
async def test_who_left_while_somebody_flushed_our_tables_has_flows_too(
    netns: None, tmp_path: Path, held: Held, taken: bool
) -> None:
    """His address is given away after that, or at once; who gets it here has a link already, as else he comes later."""
    one, other = network(1), endpoint(network(1), id=samples.endpoint_id(77))
    async with State(tmp_path / "net.db") as state, Kernel(run=tmp_path, proc=PROC) as opened:
        reconciler = Reconciler(state, opened)
        await state.put_network(one)
        await reconciler._compare_everything()
        for there in (endpoint(one), replace(other, address4="10.192.1.9/24")):
            await state.put_endpoint(there)
        reconciler.touch(one.id)
        await reconciler._apply_changes()
        assert sends("10.192.1.2")

        run("nft", "flush", "ruleset")
        await state.drop_endpoint(endpoint(one).id)
        if taken:
            await state.put_endpoint(other)
        await reconciler._compare_everything()
        assert not sends("10.192.1.2")
        await state.put_endpoint(other)
        settled = asyncio.ensure_future(reconciler.settle(one.id))
        await asyncio.sleep(0)
        await reconciler._apply_changes()
        with pytest.raises(Unavailable, match=r"10\.192\.1\.2 before are not forgotten yet"):
            await settled
        held.let_go()


async def test_within_a_network_an_address_changes_hands_in_one_batch(netns: None, tmp_path: Path) -> None:
    before = desired(network(1), [endpoint(network(1))], uplink_mtu=1500)
    after = desired(network(1), [endpoint(network(1), id=samples.endpoint_id(77))], uplink_mtu=1500)
    assert set(before.ports) != set(after.ports)
    async with Kernel(run=tmp_path, proc=PROC) as opened:
        await opened.install_firewall(frozenset())
        await opened.apply([plan(before, EMPTY)])
        assert await opened.apply([plan(after, before)]) == [None]
        seen = await opened.observe()
        assert (set(seen.links.ports), seen.elements) == (set(after.ports), after.elements)
