"""A process that may open no more files says so, and goes on when it may."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from aiohttp import web

from plugin.cluster.sites import Sites
from plugin.naming import MESH_LINK
from plugin.resolver.forwarder import Forwarder
from plugin.resolver.hostservers import HostServers
from plugin.resolver.server import Resolver
from plugin.wireguard.backend import kernel_has_wireguard
from plugin.wireguard.link import Condition, Link
from plugin.wireguard.userspace import WireGuardGo
from stackpad.errors import Unavailable
from tests.kernel.test_fence import Still, link, looping
from tests.kernel.workbench import node
from tests.netns import eventually, ip, run

_DELLINK, _REQUEST = 17, 1


@contextlib.contextmanager
def no_more_files() -> Iterator[None]:
    """What is open stays so, and nothing is added."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    # Every number below the limit is taken, or what is closed and opened again would still find room.
    with contextlib.ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
        with contextlib.suppress(OSError):
            while True:
                stack.callback(os.close, os.open("/dev/null", os.O_RDONLY))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_network_is_refused_for_now_and_made_later(netns: None, tmp_path: Path) -> None:
    async with node(tmp_path) as made:
        with no_more_files(), pytest.raises(Unavailable):
            await made.network(1)
        run("nft", "delete", "table", "inet", "stackpad")
        await made.network(2)
        await made.network(1)
        assert len(made.state.networks) == 2
        await eventually(lambda: "table inet stackpad" in run("nft", "list", "tables"), "the rules to come back")


async def test_what_changes_meanwhile_is_seen_later(netns: None, tmp_path: Path) -> None:
    """The node hears that an interface of its own is gone, and cannot look what is left."""
    ip("link", "add", "eth9", "type", "veth", "peer", "name", "eth9-far")
    ip("addr", "add", "192.0.2.5/24", "dev", "eth9")
    ip("link", "set", "eth9", "up")
    async with node(tmp_path):
        assert "192.0.2.5" in run("nft", "list", "set", "inet", "stackpad", "node4")
        delete = struct.pack("=IHHIIBxHiII", 32, _DELLINK, _REQUEST, 1, 0, 0, 0, socket.if_nametoindex("eth9"), 0, 0)
        with _netlink() as channel, structlog.testing.capture_logs() as told, no_more_files():
            channel.send(delete)
            await eventually(lambda: any("brought in step" in each["event"] for each in told), "it to be told")
        await eventually(
            lambda: "192.0.2.5" not in run("nft", "list", "set", "inet", "stackpad", "node4"), "the address to go"
        )


@pytest.mark.parametrize(
    ("ask", "what"),
    [
        (lambda: Link("veth").look("eth9"), "look at the link eth9"),
        (lambda: Link("veth").set_up("eth9", 1420), "set the link eth9 up"),
        (lambda: Link("veth").remove("eth9"), "remove the link eth9"),
        (kernel_has_wireguard, "make a WireGuard link"),
    ],
)
def test_the_tunnels_link_cannot_be_asked_about_and_that_is_told(
    netns: None, ask: Callable[[], object], what: str
) -> None:
    with no_more_files(), pytest.raises(Unavailable, match=rf"asked to {what}: Too many open files; raise the limits"):
        ask()
    assert not Link("veth").well("eth9")


async def test_a_link_that_nobody_can_look_at_is_not_well(netns: None) -> None:
    """And what there is of a tunnel stays as it is."""
    ip("link", "add", "eth9", "type", "veth", "peer", "name", "eth9-far")
    here, backend = Link("veth"), WireGuardGo()
    await asyncio.to_thread(here.set_up, "eth9", 1420)
    assert here.well("eth9")
    with no_more_files():
        assert not here.well("eth9")
        with pytest.raises(Unavailable, match="Too many open files"):
            await asyncio.wait_for(backend.ensure("eth9", 1420), 20)
    assert here.well("eth9")


async def test_what_listens_in_the_tunnel_says_so(netns: None) -> None:
    """The one is tried again, the other is told; neither ends the rest."""
    resolver, sites = Resolver(["127.0.0.1"], Forwarder(HostServers(Path("/run"))), port=5353), Sites()
    with no_more_files():
        with pytest.raises(ExceptionGroup) as caught:
            await resolver.run()
        async with contextlib.AsyncExitStack() as stack:
            await sites.serve(stack, web.Application(), "127.0.0.1", 4000)
    assert caught.group_contains(Unavailable, match="cannot listen on 127.0.0.1 port 5353: Too many open files")
    assert sites.problems == {4000: "127.0.0.1:4000 cannot be listened on: Too many open files"}


async def test_a_link_whose_number_cannot_be_had_is_not_missing(netns: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where others take the last file between two looks; what is missing is made anew, and its sessions end."""
    ip("link", "add", "eth9", "type", "veth", "peer", "name", "eth9-far")
    here = Link("veth")
    assert await asyncio.to_thread(here.look, "eth8") is Condition.MISSING
    monkeypatch.setattr(socket, "if_nametoindex", _no_number)
    assert await asyncio.to_thread(here.look, "eth9") is Condition.DOWN


def _no_number(name: str) -> int:
    raise OSError(f"no interface with this name: {name}")


class _Hindered(Still):
    """A WireGuard that the system has not had a file for the first time, which nobody has put into words."""

    def __init__(self) -> None:
        self.asked = 0

    async def ensure(self, device: str, mtu: int) -> bool:
        self.asked += 1
        if self.asked == 1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return False


async def test_the_mesh_goes_on_after_what_nobody_has_foreseen(netns: None, tmp_path: Path) -> None:
    link(MESH_LINK)
    async with looping(tmp_path, _Hindered()) as made, asyncio.TaskGroup() as tasks:
        with structlog.testing.capture_logs() as told:
            running = tasks.create_task(made.mesh.run())
            await made.mesh.wait_settled()
        assert any("Too many open files" in each.get("reason", "") for each in told)
        assert not made.mesh.problem
        running.cancel()


def _netlink() -> socket.socket:
    """A way to the kernel that is open before nothing more can be opened (rtnetlink(7))."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
