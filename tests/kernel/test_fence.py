"""What belongs into the tunnel takes no other way: without a tunnel, over its start, and after the node has left."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest

from plugin.cluster.cluster import Cluster
from plugin.docker import protocol
from plugin.kernel.overlay import Overlay
from plugin.kernel.reconciler import Reconciler
from plugin.kernel.tunnel import Tunnel
from plugin.kernel.writer import Kernel
from plugin.model import ip_network
from plugin.naming import MESH_LINK, RESOLVERS
from plugin.settings import Settings
from plugin.state import State
from plugin.store.membership import Memory
from plugin.store.mesh import MeshPeer, MeshPlan
from plugin.tunnel import wants
from plugin.tunnel.fence import Fence
from plugin.tunnel.loop import MeshLoop
from plugin.tunnel.sightings import Sightings
from plugin.tunnel.wants import Wanted
from plugin.wireguard.backend import Backend
from plugin.wireguard.model import Changes, Observed
from stackpad import records
from stackpad.engine import Engine
from stackpad.errors import Unavailable
from tests import samples
from tests.kernel.frames import dropped
from tests.kernel.workbench import node
from tests.netns import PROC, Namespace, eventually, ip, run
from tests.samples import network, network_id
from tests.unit.plugin.joining.test_tokens import TOKEN
from tests.unit.plugin.tunnel.test_wants import MINE

CLUSTER = frozenset(map(ip_network, ("10.192.0.0/10", "fd00:53::/48")))
ELSEWHERE, CLAIMED = "10.200.0.5", "172.18.0.5"
"""Containers of another node's: in its block, and in a range it has claimed."""
PORT = 8081
CLOSED = "only through the tunnel"


@pytest.fixture
def outside(netns: None) -> Iterator[Namespace]:
    """Whoever listens behind the node's default route, and has the addresses of other nodes' containers."""
    made = Namespace()
    ip("link", "add", "uplink0", "type", "veth", "peer", "name", "uplink0", "netns", made.path)
    ip("addr", "add", "198.51.100.1/24", "dev", "uplink0")
    ip("link", "set", "uplink0", "up")
    for words in (
        ["addr", "add", "198.51.100.2/24", "dev", "uplink0"],
        ["link", "set", "uplink0", "up"],
        ["addr", "add", f"{ELSEWHERE}/32", "dev", "lo"],
        ["addr", "add", f"{CLAIMED}/32", "dev", "lo"],
    ):
        made.run("ip", *words)
    ip("route", "add", "default", "via", "198.51.100.2")
    yield made
    made.close()


def opened(there: Namespace, *, bind: str = "", connect: str = "") -> socket.socket:
    """A UDP socket in a namespace."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setblocking(False)
        if bind:
            made.bind((bind, 2000))
        if connect:
            made.connect((connect, 2000))
        return made

    return there.call(make)


@dataclass
class Talk:
    """A flow between a container and somebody in clear."""

    here: socket.socket
    there: socket.socket

    async def passes(self) -> bytes:
        """Send a word, and wait until it is there; answers, so that the flow is an established one."""
        self.here.send(b"word")
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(30):
            word, sender = await loop.sock_recvfrom(self.there, 100)
            await loop.sock_sendto(self.there, b"answer", sender)
            await loop.sock_recv(self.here, 100)
        return word

    async def is_dropped(self) -> None:
        """Send, and wait until a rule has dropped it."""
        before = closed()
        self.here.send(b"secret")
        await eventually(lambda: closed() > before, "the packet to be dropped")
        with pytest.raises(BlockingIOError):
            self.there.recv(100)

    def close(self) -> None:
        self.here.close()
        self.there.close()


def closed() -> int:
    return dropped(CLOSED)


async def test_the_clusters_ranges_are_closed_to_what_is_under_way_as_well(outside: Namespace, tmp_path: Path) -> None:
    async with node(tmp_path) as made:
        await made.network(1)
        container = await made.container(2, 1)
        talk = Talk(opened(container, connect=ELSEWHERE), opened(outside, bind=ELSEWHERE))
        assert await talk.passes() == b"word", "nothing but the rules keeps this away"
        made.reconciler.overlay(Overlay(wants.closed(CLUSTER)))
        await eventually(lambda: "10.192.0.0/10" in run("nft", "list", "set", "inet", "stackpad", "tunnel_only4"), "it")
        await talk.is_dropped()
        talk.close()


@pytest.mark.parametrize("known", ["remote", "barred"])
async def test_a_claimed_range_is_closed_to_its_environment_and_to_nobody_else(
    outside: Namespace, tmp_path: Path, known: str
) -> None:
    """Who is called by a name of the environment is on another node; others mean something else by that address."""
    async with node(tmp_path) as made:
        for number in (1, 2):
            await made.network(number)
        one, two = [await made.container(1 + number, number) for number in (1, 2)]
        there = opened(outside, bind=CLAIMED)
        made.reconciler.overlay(Overlay(**{known: {network_id(1): frozenset({ip_network("172.18.0.0/16")})}}))  # type: ignore[arg-type]
        await made.reconciler.settle(network_id(1))
        talks = [Talk(opened(container, connect=CLAIMED), there) for container in (one, two)]
        await talks[0].is_dropped()
        assert await talks[1].passes() == b"word"
        for talk in talks:
            talk.close()


async def test_a_flow_that_is_under_way_ends_where_its_range_is_refused(outside: Namespace, tmp_path: Path) -> None:
    """Its packets would follow the node's own route from that moment on. Another environment's are nobody's business."""
    async with node(tmp_path) as made:
        for number in (1, 2):
            await made.network(number)
        one, two = [await made.container(1 + number, number) for number in (1, 2)]
        there = opened(outside, bind=CLAIMED)
        talks = [Talk(opened(container, connect=CLAIMED), there) for container in (one, two)]
        for talk in talks:
            assert await talk.passes() == b"word"
        made.reconciler.overlay(Overlay(barred={network_id(1): frozenset({ip_network("172.18.0.0/16")})}))
        await made.reconciler.settle(network_id(1))
        await talks[0].is_dropped()
        assert await talks[1].passes() == b"word"
        for talk in talks:
            talk.close()

        body = samples.publish(2, samples.binding(2000, PORT, proto=socket.IPPROTO_UDP))
        await made.driver.program_external_connectivity(msgspec.convert(body, protocol.ProgramExternalConnectivity))
        visit = Talk(opened(outside, bind=CLAIMED), opened(one, bind="0.0.0.0"))
        visit.here.connect(("198.51.100.1", PORT))
        for _ in range(2):
            assert await visit.passes() == b"word", "who has such an address outside visits a published port as before"
        visit.close()
        reference = msgspec.convert(samples.reference(2), protocol.EndpointRef)
        await made.driver.leave(reference)
        await made.driver.delete_endpoint(reference)  # and with it the port


class Broken:
    """A WireGuard that cannot start, as without ``/dev/net/tun``."""

    name = "wireguard-go"

    async def ensure(self, device: str, mtu: int) -> bool:
        raise Unavailable("there is no /dev/net/tun")


class Still:
    """A WireGuard that has its link, and nothing to say."""

    name = "kernel"

    async def ensure(self, device: str, mtu: int) -> bool:
        return False

    async def observe(self) -> Observed:
        return Observed()

    async def apply(self, changes: Changes) -> None:
        pass

    async def remove(self) -> None:
        ip("link", "del", MESH_LINK)


class Late(Broken):
    """The same, which notes the routes that are there when it is asked."""

    def __init__(self) -> None:
        self.found: list[str] = []

    async def ensure(self, device: str, mtu: int) -> bool:
        self.found.append(unreachable())
        return await super().ensure(device, mtu)


@dataclass
class Loop:
    """A mesh at work; ``wanted`` may be changed."""

    mesh: MeshLoop
    reconciler: Reconciler
    state: State
    fence: Fence
    wanted: Wanted | None


@contextlib.asynccontextmanager
async def looping(directory: Path, backend: object) -> AsyncIterator[Loop]:
    """The loop of a node in a cluster whose other node has claimed 172.18.0.0/16."""
    peer = MeshPeer("k", "", frozenset(map(ip_network, ("10.192.64.0/18", "172.18.0.0/16"))), node="n2", name="third")
    plan = MeshPlan({"k": peer}, frozenset({ipaddress.ip_address("10.192.0.1")}), peer.allowed)
    wanted = Wanted(plan, "", 51820, CLUSTER | {ip_network("172.18.0.0/16")}, CLUSTER)

    async def chosen() -> Backend:
        return backend  # type: ignore[return-value]

    async with State(directory / "net.db") as state, Kernel(run=directory, proc=PROC) as kernel:
        reconciler, fence = Reconciler(state, kernel), Fence(directory)
        made = Loop(
            MeshLoop(kernel, reconciler, state, chosen, lambda: made.wanted, Sightings(directory), fence),
            reconciler,
            state,
            fence,
            wanted,
        )
        async with asyncio.TaskGroup() as tasks:
            await made.mesh.prime()
            running = tasks.create_task(reconciler.run())
            await reconciler.ready.wait()
            yield made
            running.cancel()


def link(name: str) -> None:
    """A link that is up."""
    ip("link", "add", name, "type", "veth", "peer", "name", f"{name}-far")
    ip("link", "set", f"{name}-far", "up")
    ip("link", "set", name, "up")


def unreachable() -> str:
    return ip("route", "show", "type", "unreachable")


def closed_ranges() -> str:
    return run("nft", "list", "set", "inet", "stackpad", "tunnel_only4")


def known_ranges() -> str:
    return run("nft", "list", "set", "inet", "stackpad", "remote4_16")


async def test_before_the_node_is_ready_and_without_wireguard_the_fence_stands(netns: None, tmp_path: Path) -> None:
    async with looping(tmp_path, Broken()) as made, asyncio.TaskGroup() as tasks:
        assert "10.192.0.0/10" in unreachable()
        assert "172.18.0.0/16" in unreachable()
        assert "10.192.0.0/10" in closed_ranges()
        running = tasks.create_task(made.mesh.run())
        await eventually(lambda: "no /dev/net/tun" in made.mesh.problem, "the trouble to be told")
        ip("route", "del", "unreachable", "10.192.0.0/10", "metric", str(2**31))
        assert "10.192.0.0/10" not in unreachable()
        await eventually(lambda: "10.192.0.0/10" in unreachable(), "it to be put back, tunnel or none")
        assert "169.254.53.53" in ip("addr", "show", "dev", "lo"), "and names are answered without a tunnel"
        running.cancel()


@pytest.mark.parametrize("guest", [True, False])
async def test_whoever_joins_is_fenced_before_there_is_anything_of_a_tunnel(
    netns: None, tmp_path: Path, guest: bool
) -> None:
    """As a guest and as a member: a WireGuard that is slow to start, or does not, opens nothing meanwhile."""
    late = Late()
    async with looping(tmp_path, late) as made, asyncio.TaskGroup() as tasks:
        member, made.wanted = made.wanted, None
        made.mesh.observed = None
        for route in ("10.192.0.0/10", "172.18.0.0/16"):
            ip("route", "del", "unreachable", route, "metric", str(2**31))
        made.mesh._applied = Tunnel(0)  # as after it has left another cluster
        running = tasks.create_task(made.mesh.run())
        await made.mesh.wait_settled()
        assert not unreachable()
        assert not late.found
        token = msgspec.structs.replace(TOKEN, ranges=tuple(map(str, CLUSTER)))
        made.wanted = wants.of_guest(token, "192.0.2.1:51820", 51820) if guest else member
        made.mesh.touch()
        await eventually(lambda: late.found, "the implementation to be asked")
        assert "10.192.0.0/10" in late.found[0]
        await eventually(lambda: "10.192.0.0/10" in closed_ranges(), "the firewall to close them")
        running.cancel()


async def test_a_range_this_node_has_itself_is_left_alone_and_told(netns: None, tmp_path: Path) -> None:
    link(MESH_LINK)
    link("br-x")
    ip("addr", "add", "172.18.0.1/16", "dev", "br-x")
    own = ip("route", "show", "172.18.0.0/16")
    heard: list[int] = []
    async with looping(tmp_path, Still()) as made, asyncio.TaskGroup() as tasks:
        made.mesh.unreached, made.mesh.unreached_changed = {}, lambda: heard.append(1)
        made.mesh._left_of = None
        running = tasks.create_task(made.mesh.run())
        await made.mesh.wait_settled()
        assert MESH_LINK in ip("route", "show", "10.192.64.0/18")
        assert ip("route", "show", "172.18.0.0/16") == own
        assert "172.18.0.0/16" not in unreachable()
        assert made.mesh.unreached == {"n2": {ip_network("172.18.0.0/16")}}
        (problem,) = made.mesh.contested
        assert "172.18.0.0/16 of node third" in problem
        assert "device br-x" in problem
        ip("addr", "del", "172.18.0.1/16", "dev", "br-x")
        await eventually(lambda: MESH_LINK in ip("route", "show", "172.18.0.0/16"), "the range to be routed")
        assert not made.mesh.contested
        assert (made.mesh.unreached, heard) == ({}, [1, 1])
        assert made.wanted is not None
        made.wanted = replace(made.wanted, refused=("a range that no network may have",))
        await eventually(lambda: made.mesh.contested == made.wanted.refused, "it to be told")  # type: ignore[union-attr]
        made.wanted = replace(made.wanted, refused=())
        ip("addr", "add", "172.18.0.1/16", "dev", "br-x")
        await eventually(lambda: ip("route", "show", "172.18.0.0/16") == own, "ours to give way again")
        running.cancel()


async def test_a_range_that_is_refused_here_is_closed_to_its_environment_all_the_same(
    netns: None, tmp_path: Path
) -> None:
    """What is sent to its containers has no way but the node's own, in clear."""
    link(MESH_LINK)
    async with looping(tmp_path, Still()) as made, asyncio.TaskGroup() as tasks:
        for number, environment in ((1, "shop"), (2, "blog")):
            await made.state.put_network(network(number, environment=environment))
            await made.reconciler.settle(network_id(number))
        assert made.wanted is not None
        made.wanted = replace(made.wanted, barred={"shop": frozenset({ip_network("192.168.0.0/16")})})
        running = tasks.create_task(made.mesh.run())
        await eventually(lambda: network(1).bridge in known_ranges(), "the range to be closed to the environment")
        assert network(2).bridge not in known_ranges(), "others mean something else by these addresses"
        assert "192.168.0.0/16" not in ip("route", "show", "table", "all"), "nor is it closed to the node"
        assert not made.reconciler.remote(network_id(1)), "nobody is told that it is reached"
        running.cancel()


async def test_after_leaving_the_address_that_the_engine_asks_for_names_stays(netns: None, tmp_path: Path) -> None:
    """It does so until it has read another configuration; without the address each question waits for a time-out."""
    link(MESH_LINK)
    async with looping(tmp_path, Still()) as made, asyncio.TaskGroup() as tasks:
        running = tasks.create_task(made.mesh.run())
        await made.mesh.wait_settled()
        assert "10.192.0.1/" in ip("addr", "show", "dev", "lo")
        made.wanted = None
        made.mesh.touch()
        await eventually(lambda: not unreachable(), "the node to leave")
        left = ip("addr", "show", "dev", "lo")
        assert "10.192.0.1/" not in left
        assert all(f"{address}/" in left for address in RESOLVERS)
        running.cancel()


async def test_after_leaving_the_ranges_stay_closed_until_the_networks_are_gone(netns: None, tmp_path: Path) -> None:
    link(MESH_LINK)
    async with looping(tmp_path, Still()) as made, asyncio.TaskGroup() as tasks:
        await made.state.put_network(network(1))
        await made.reconciler.settle(network_id(1))
        running = tasks.create_task(made.mesh.run())
        await made.mesh.wait_settled()
        made.fence.keep(CLUSTER, made.state.networks)
        made.wanted = None
        made.mesh.touch()
        await eventually(lambda: not unreachable(), "the routes to go: they would close the ranges to the node as well")
        assert "10.192.0.0/10" in closed_ranges()
        await made.state.drop_network(network_id(1))
        await eventually(lambda: "10.192.0.0/10" not in closed_ranges(), "the ranges to be free again")
        running.cancel()


@pytest.mark.parametrize("ending", ["left", "damaged"])
async def test_a_node_that_leaves_or_cannot_read_who_it_is_keeps_the_ranges_closed(
    netns: None, tmp_path: Path, ending: str
) -> None:
    settings = Settings(host_lib=tmp_path)
    tmp_path = settings.state_file.parent
    tmp_path.mkdir()
    memory = Memory(tmp_path)
    memory.save(msgspec.structs.replace(MINE, gateway=None))
    memory.save_view({records.CLUSTER: records.encode(MINE.cluster)})
    if ending == "damaged":
        (tmp_path / "membership.json").write_text("{")

    async def never() -> Backend:
        raise Unavailable("none in this test")

    async with State(settings.state_file) as state, Kernel(run=tmp_path, proc=PROC) as kernel:
        await state.put_network(network(1))
        cluster = Cluster(settings, state, kernel, Reconciler(state, kernel), Engine(f"unix://{tmp_path}/engine"), never)
        await cluster.mesh.prime()
        assert ("10.192.0.0/10" in unreachable()) == (ending == "left")
        if ending == "left":
            cluster.forget()
        closed = Fence(tmp_path).closed([network_id(1)])
        assert closed == {ip_network(MINE.cluster.range4), ip_network(MINE.cluster.range6)}
