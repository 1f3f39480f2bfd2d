"""What the kernel says unasked, and what of it is news.

Messages come in order, so a test makes a change that must be heard after those that must not, and looks at what was
heard by then.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from plugin.kernel import monitor
from plugin.kernel.monitor import Hint, Monitor
from plugin.kernel.tunnel import PROTOCOL
from tests.netns import eventually, ip

OURS = "sp-0123456789ab"
PORT = "spv0123456789ab"


class Ear:
    """What was heard, and which links are expected to be there."""

    def __init__(self) -> None:
        self.heard: list[Hint] = []
        self.gone: list[str] = []
        self.expected: set[str] = set()

    async def hears(self, *hints: Hint) -> None:
        """Exactly these come, in whatever number."""
        await eventually(lambda: set(hints) <= set(self.heard), f"{hints} to be heard")
        assert set(self.heard) == set(hints)
        self.heard.clear()

    async def hears_only_the_end(self) -> None:
        """Nothing of what went before was news; what comes now is."""
        ip("link", "add", "marker", "type", "bridge")
        await self.hears(Hint.NODE)


@pytest.fixture
async def ear(netns: None) -> AsyncIterator[Ear]:
    ip("link", "add", OURS, "type", "bridge")
    ip("link", "add", PORT, "type", "veth", "peer", "name", "spc0123456789ab")
    for name in (OURS, PORT, "spc0123456789ab"):
        ip("link", "set", name, "up")
    ip("addr", "add", "10.192.0.1/24", "dev", OURS)
    ear = Ear()
    ear.expected = {OURS, PORT}
    with Monitor(ear.heard.append, ear.expected.__contains__, lambda net: ear.gone.append(str(net))):
        yield ear


@pytest.mark.parametrize(
    "words",
    [
        ("link", "del", OURS),
        ("link", "del", PORT),
        ("link", "set", OURS, "down"),
        ("link", "set", PORT, "down"),
        ("addr", "del", "10.192.0.1/24", "dev", OURS),
    ],
)
async def test_somebody_touches_a_link_of_ours(ear: Ear, words: tuple[str, ...]) -> None:
    ip(*words)
    # The address of a link that has gone has no name any more, and could be one of the node's own.
    await ear.hears(Hint.LINKS, *([Hint.NODE] if words == ("link", "del", OURS) else []))


async def test_a_port_taken_off_its_bridge(ear: Ear) -> None:
    ip("link", "set", PORT, "master", OURS)
    ip("link", "set", PORT, "nomaster")
    await ear.hears(Hint.LINKS)


async def test_links_of_others(ear: Ear) -> None:
    ip("link", "add", "eth0", "type", "veth", "peer", "name", "far")
    await ear.hears(Hint.NODE)
    ip("addr", "add", "192.0.2.1/24", "dev", "eth0")
    await ear.hears(Hint.NODE)
    ip("addr", "del", "192.0.2.1/24", "dev", "eth0")
    await ear.hears(Hint.NODE)
    ip("link", "set", "eth0", "up")
    await ear.hears(Hint.NODE)


async def test_a_default_route(ear: Ear) -> None:
    ip("link", "add", "veth7", "type", "veth", "peer", "name", "veth8")
    ip("link", "set", "veth8", "up")
    ip("link", "set", "veth7", "up")
    ip("route", "add", "default", "dev", "veth7")
    await ear.hears(Hint.NODE)


@pytest.mark.parametrize(("net", "other"), [("10.193.0.0/16", "10.194.0.0/16"), ("fd00:1::/64", "fd00:2::/64")])
async def test_routes_into_the_tunnel(ear: Ear, net: str, other: str) -> None:
    """Only those of our protocol number are the tunnel's."""
    for protocol, each in ((str(PROTOCOL), net), ("static", other)):
        ip("route", "add", each, "dev", OURS, "proto", protocol)
        ip("route", "del", each, "dev", OURS, "proto", protocol)
    await ear.hears_only_the_end()
    assert ear.gone == [net]


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
async def test_somebody_has_the_node_forward_no_more(ear: Ear, family: str) -> None:
    _forward(family, "all", "1")
    _forward(family, OURS, "0")
    await ear.hears_only_the_end()
    _forward(family, "all", "0")
    await ear.hears(Hint.LINKS)


def _forward(family: str, link: str, value: str) -> None:
    Path(f"/proc/sys/net/{family}/conf/{link}/forwarding").write_text(value)


async def test_what_is_not_expected_to_be_there_is_no_news(ear: Ear) -> None:
    """Our own removals are heard after they were decided on."""
    ear.expected.clear()
    ip("addr", "del", "10.192.0.1/24", "dev", OURS)
    ip("link", "set", OURS, "down")
    ip("link", "del", OURS)
    ip("link", "del", PORT)
    await ear.hears_only_the_end()


async def test_what_is_made_is_no_news(ear: Ear) -> None:
    ip("link", "add", "sp-new", "type", "bridge")
    ip("addr", "add", "10.193.0.1/24", "dev", "sp-new")
    ip("link", "set", "sp-new", "up")
    ip("addr", "add", "10.192.0.9/24", "dev", OURS)
    await ear.hears_only_the_end()


async def test_other_engines_containers_are_no_news(ear: Ear) -> None:
    ip("link", "add", "veth1234567", "type", "veth", "peer", "name", "vethabcdefg")
    ip("link", "set", "veth1234567", "up")
    ip("link", "set", "vethabcdefg", "up")
    ip("link", "del", "veth1234567")
    await ear.hears_only_the_end()


async def test_after_messages_were_lost_anything_may_have_changed(ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop stands still while far more is said than fits: the kernel tells that it was so."""
    heard: list[Hint] = []
    monkeypatch.setattr(monitor, "_BUFFER", 2048)
    with Monitor(heard.append, lambda name: False, lambda net: None):
        for number in range(40):
            ip("link", "set", PORT, "mtu", str(1000 + number))
        await eventually(lambda: set(heard) == set(Hint), "everything to be doubted")
