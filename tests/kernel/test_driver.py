"""Driver calls on a real kernel, where what the kernel does decides the answer."""

from __future__ import annotations

import socket
from collections.abc import Collection
from pathlib import Path

import msgspec
import pytest

from plugin import naming
from plugin.docker import protocol
from plugin.kernel.monitor import Hint
from plugin.kernel.vanished import exists
from plugin.kernel.writer import Observation
from stackpad.errors import Conflict, Unavailable
from tests import samples
from tests.kernel.test_links import hide
from tests.kernel.workbench import node
from tests.netns import eventually, ip
from tests.samples import endpoint_id, network, network_id

pytestmark = pytest.mark.usefixtures("netns")


def links() -> dict[str, int]:
    return {name: index for index, name in socket.if_nameindex() if name.startswith("sp")}


async def test_joining_again_gives_the_engine_a_new_end_to_move(tmp_path: Path) -> None:
    async with node(tmp_path) as made:
        await made.network(1)
        container = await made.container(2, 1)
        assert "eth0" in container.run("ip", "link")
        answer = await made.endpoint(2, 1)
        assert answer["InterfaceName"]["SrcName"] in links()
        assert "eth0" not in container.run("ip", "link")


async def test_a_bridge_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    async with node(tmp_path) as made:
        ip("link", "add", network(1).bridge, "type", "bridge")
        with pytest.raises(Unavailable, match="is not ours; remove it"):
            await made.network(1)
        assert made.state.networks == {}
        ip("link", "del", network(1).bridge)
        await made.network(1)
        assert network(1).bridge in links()


async def test_a_range_the_node_has_a_route_to(tmp_path: Path) -> None:
    ip("link", "add", "eth0", "type", "bridge")
    ip("addr", "add", "10.192.1.77/25", "dev", "eth0")
    ip("link", "set", "eth0", "up")
    async with node(tmp_path) as made:
        with pytest.raises(Conflict, match=r"overlaps 10\.192\.1\.0/25, which this node reaches by device eth0"):
            await made.network(1)
        assert (made.state.networks, links()) == ({}, {})


async def test_a_network_removed_and_made_again_at_once(tmp_path: Path) -> None:
    async with node(tmp_path) as made:
        for _ in range(5):
            await made.network(1)
            await made.driver.delete_network(protocol.NetworkRef(network_id=network_id(1)))
        await made.network(1)
        # The trash of all of them has been emptied when the bridge is the only link there is.
        await eventually(lambda: set(links()) == {network(1).bridge}, "the old ones to go")
        assert "10.192.1.1/24" in ip("addr", "show", "dev", network(1).bridge)


async def test_everything_taken_back_leaves_nothing(tmp_path: Path) -> None:
    async with node(tmp_path) as made:
        await made.network(1)
        for number in (2, 3):
            await made.container(number, 1)
        for number in (2, 3):
            ref = protocol.EndpointRef(network_id=network_id(1), endpoint_id=endpoint_id(number))
            await made.driver.leave(ref)
            await made.driver.delete_endpoint(ref)
        await made.driver.delete_network(protocol.NetworkRef(network_id=network_id(1)))
        await eventually(lambda: links() == {}, "the links to go")


async def test_an_address_whose_container_has_just_died_is_given_to_its_successor(tmp_path: Path) -> None:
    """An engine that was killed takes nothing back, and starts its containers again before anybody has looked."""
    async with node(tmp_path) as made:
        await made.network(1)
        await made.endpoint(2, 1)
        successor = msgspec.convert(samples.create_endpoint(9, "10.192.1.2/24", net=1), protocol.CreateEndpoint)
        with pytest.raises(Conflict, match=r"10\.192\.1\.2 is taken by endpoint"):
            await made.driver.create_endpoint(successor)
        ip("link", "del", naming.port_name(endpoint_id(2)))
        await made.driver.create_endpoint(successor)
        assert set(made.state.endpoints) == {endpoint_id(9)}


async def test_who_comes_while_others_go_has_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All is compared when a link has gone, here before each round: one that is not made yet is not taken for gone."""
    async with node(tmp_path) as made:
        await made.network(1)
        kernel = made.reconciler._kernel
        observe, looks = kernel.observe, 0

        async def and_again(expected: Collection[str]) -> Observation:
            nonlocal looks
            looks += 1
            made.reconciler._hear(Hint.LINKS)
            return await observe(expected)

        monkeypatch.setattr(kernel, "observe", and_again)
        made.reconciler._hear(Hint.LINKS)
        for number in range(2, 6):
            answer = await made.endpoint(number, 1)
            assert exists(answer["InterfaceName"]["SrcName"])
        assert made.reconciler.lost == frozenset()
        assert looks >= 4
        assert made.reconciler.repairs == 0, "nobody had changed anything"
        # One that was there, and is not, is.
        ip("link", "del", naming.port_name(endpoint_id(2)))
        await eventually(lambda: made.reconciler.lost == {endpoint_id(2)}, "its loss to be seen")


async def test_a_container_that_a_list_of_links_lacks_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is its link made anew, which would take it from the container."""
    async with node(tmp_path) as made:
        await made.network(1)
        for number in (2, 3):
            await made.container(number, 1)
        reconciler, there, gone = made.reconciler, *(naming.port_name(endpoint_id(number)) for number in (2, 3))
        hide(reconciler._kernel._links, {network(1).bridge, there}, monkeypatch)
        before = links()
        ip("link", "del", gone)
        await eventually(lambda: reconciler.lost, "the links to be compared")
        assert reconciler.lost == {endpoint_id(3)}
        await made.network(2)
        assert links().items() >= {name: index for name, index in before.items() if name != gone}.items()


async def test_a_restart_under_running_containers_changes_nothing(tmp_path: Path) -> None:
    async with node(tmp_path) as first:
        await first.network(1)
        container = await first.container(2, 1)
        first.containers.clear()
        before = links()
    async with node(tmp_path) as second:
        second.containers.append(container)
        assert links() == before
        assert second.reconciler.repairs == 0
        assert second.reconciler.lost == frozenset()
        await second.network(2)
        assert before.items() <= links().items()


async def test_an_engine_that_starts_gives_an_address_whose_old_container_has_left_a_namespace(tmp_path: Path) -> None:
    """It forgets those without a word, and starts the containers before it can be asked."""
    successor = msgspec.convert(samples.create_endpoint(9, "10.192.1.2/24", net=1), protocol.CreateEndpoint)
    async with node(tmp_path) as first:
        await first.network(1)
        container = await first.container(2, 1)
        first.containers.clear()
    async with node(tmp_path) as second:
        second.containers.append(container)
        await second.driver.create_endpoint(successor)
        assert set(second.state.endpoints) == {endpoint_id(9)}


async def test_an_engine_that_has_been_heard_gives_no_address_twice(tmp_path: Path) -> None:
    successor = msgspec.convert(samples.create_endpoint(9, "10.192.1.2/24", net=1), protocol.CreateEndpoint)
    async with node(tmp_path) as first:
        await first.network(1)
        container = await first.container(2, 1)
        first.containers.clear()
    async with node(tmp_path) as second:
        second.containers.append(container)
        second.driver.heard()
        with pytest.raises(Conflict, match=r"10\.192\.1\.2 is taken by endpoint"):
            await second.driver.create_endpoint(successor)
