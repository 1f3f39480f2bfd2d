"""Bridges and veth pairs on a real kernel: what is applied is observed, and what goes goes in one request."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from plugin import naming
from plugin.kernel import links as links_module
from plugin.kernel.dataplane import EMPTY, UNRESOLVED, Dataplane, desired, plan
from plugin.kernel.links import Links, Trash
from plugin.kernel.switches import Switches
from plugin.model import Protocol, PublishedPort
from stackpad.errors import Unavailable
from tests.netns import PROC, Namespace, ip, run
from tests.samples import endpoint, network, network6

NET, NET6 = network(1), network6(6)
WEB = (PublishedPort(Protocol.TCP, 80, 8080),)


def wanted(*, mtu: int = 1500, ports: int = 2) -> Dataplane:
    made = desired(NET6, [endpoint(NET6, 2 + n, ports=WEB if not n else ()) for n in range(ports)], uplink_mtu=mtu)
    return replace(made, elements=frozenset())


def bring(links: Links, dataplane: Dataplane) -> None:
    steps = plan(dataplane, links.observe())
    links.apply(steps)
    links.discard(steps.old_links)


def shown(name: str) -> dict[str, Any]:
    (link,) = json.loads(ip("-j", "-d", "link", "show", "dev", name))
    return dict(link)


def names() -> set[str]:
    return {name for _, name in socket.if_nameindex()} - {"lo"}


def sysctl(name: str) -> str:
    return (Path("/proc/sys/net") / name).read_text().strip()


def test_nothing_is_there_at_first(links: Links) -> None:
    assert links.observe() == EMPTY


def test_what_is_made_is_observed(links: Links) -> None:
    bring(links, wanted())
    assert links.observe() == wanted()
    assert not plan(wanted(), links.observe())


@pytest.mark.parametrize(
    "then",
    [
        wanted(mtu=1400),
        wanted(ports=0),
        wanted(ports=1),
        replace(wanted(ports=0), bridges={b.name: replace(b, loopback=False) for b in wanted().bridges.values()}),
        replace(
            wanted(),
            bridges={
                b.name: replace(b, addresses=frozenset([ip_interface("10.192.6.9/24")]), mac="02:53:00:00:00:01")
                for b in wanted().bridges.values()
            },
        ),
        replace(
            wanted(),
            bridges={
                b.name: replace(b, ipv6=False, addresses=frozenset([ip_interface("10.192.6.1/24")]))
                for b in wanted().bridges.values()
            },
        ),
        EMPTY,
    ],
)
def test_from_there_to_anywhere_and_back(links: Links, trash: Trash, then: Dataplane) -> None:
    bring(links, wanted())
    index = socket.if_nametoindex(NET6.bridge)
    bring(links, then)
    assert links.observe() == then
    if then.bridges:
        assert socket.if_nametoindex(NET6.bridge) == index, "a bridge is changed, not made anew"
    trash.empty()
    bring(links, wanted())
    assert links.observe() == wanted()


def hide(links: Links, names: set[str], patched: pytest.MonkeyPatch) -> None:
    """Have a list of links lack some, as where others are deleted meanwhile (``rtnl_dump_ifinfo`` before Linux 6.9)."""
    real = links._netlink.get_links

    def lacking(*words: Any, **more: Any) -> list[Any]:
        return [link for link in real(*words, **more) if link.get("ifname") not in names]

    patched.setattr(links._netlink, "get_links", lacking)


def test_what_a_list_of_links_lacks_is_asked_for(links: Links, trash: Trash, monkeypatch: pytest.MonkeyPatch) -> None:
    bring(links, wanted())
    (bridge,), (gone, port) = wanted().bridges, wanted().ports
    hide(links, {bridge, gone, port}, monkeypatch)
    assert links.observe() == EMPTY
    assert links.observe([bridge, gone, port, "spnever"]) == wanted()
    ip("link", "del", gone)
    assert links.observe([bridge, gone, port]).ports.keys() == {port}
    links.discard([port])
    assert not links.observe([port]).ports, "what is in the trash is none of them"
    trash.empty()
    assert links.observe([bridge, gone, port]).bridges == wanted().bridges


def test_what_a_bridge_and_a_port_are(links: Links) -> None:
    bring(links, wanted())
    bridge, port = NET6.bridge, next(iter(wanted().ports))
    peer = naming.PEER_PREFIX + port.removeprefix(naming.PORT_PREFIX)
    assert shown(bridge)["linkinfo"]["info_data"]["mcast_snooping"] == 0
    assert shown(bridge)["group"] == str(naming.LINK_GROUP)
    assert shown(port)["linkinfo"]["info_slave_data"]["hairpin"] is True
    assert (shown(port)["master"], shown(port)["link"]) == (bridge, peer)
    assert (shown(peer)["address"], shown(peer)["mtu"]) == ("02:50:00:00:00:02", 1500)
    assert sysctl(f"ipv6/conf/{port}/disable_ipv6") == "1"
    assert sysctl(f"ipv6/conf/{bridge}/accept_ra") == "0"
    assert sysctl(f"ipv4/conf/{bridge}/route_localnet") == "1"
    (six,) = [
        a for a in json.loads(ip("-j", "-6", "addr", "show", "dev", bridge))[0]["addr_info"] if a["scope"] == "global"
    ]
    assert "tentative" not in six


def test_a_bridge_without_ipv6_has_none(links: Links) -> None:
    bring(links, replace(desired(NET, [], uplink_mtu=1500), elements=frozenset()))
    assert sysctl(f"ipv6/conf/{NET.bridge}/disable_ipv6") == "1"
    assert ip("-6", "addr", "show", "dev", NET.bridge) == ""


def test_what_is_discarded_is_disarmed_at_once_and_deleted_later(links: Links, trash: Trash) -> None:
    bring(links, wanted())
    bring(links, EMPTY)
    assert NET6.bridge in names()
    assert links.observe() == EMPTY
    assert ip("-4", "addr", "show", "dev", NET6.bridge) == ""
    assert "master" not in shown(next(iter(wanted().ports)))
    trash.empty()
    assert names() == set()
    trash.empty()


def test_the_trash_takes_the_end_in_the_container_too(links: Links, trash: Trash, container: Namespace) -> None:
    bring(links, wanted(ports=1))
    (port,) = wanted(ports=1).ports
    ip("link", "set", naming.PEER_PREFIX + port.removeprefix(naming.PORT_PREFIX), "netns", container.path, "name", "eth0")
    assert "eth0" in container.run("ip", "link")
    bring(links, EMPTY)
    trash.empty()
    assert "eth0" not in container.run("ip", "link")


def test_discarding_what_is_gone(links: Links) -> None:
    links.discard(["sp-nothing", "spvnothing"])


def test_discarding_what_goes_meanwhile(links: Links, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that ends takes its pair with it, between our look at it and our request."""
    bring(links, wanted(ports=1))
    (port,) = wanted(ports=1).ports
    index = socket.if_nametoindex(port)
    ip("link", "del", port)
    found = iter([index])
    monkeypatch.setattr(links_module, "_index", lambda name: next(found, None))
    links.discard([port])


def test_an_old_link_that_goes_while_its_successor_is_made(links: Links, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trash is emptied in another thread."""
    ip("link", "add", "gone", "type", "bridge")
    stale = iter([socket.if_nametoindex("gone")])
    ip("link", "del", "gone")
    real = links_module._index
    monkeypatch.setattr(links_module, "_index", lambda name: next(stale, None) or real(name))
    bring(links, wanted())
    assert links.observe() == wanted()


def test_links_of_others_are_not_ours(links: Links, trash: Trash) -> None:
    """Not even by their name: the group decides, and a user may have one that begins like ours."""
    ip("link", "add", "docker0", "type", "bridge")
    ip("link", "add", "sp-own", "type", "bridge")
    assert links.observe() == EMPTY
    trash.empty()
    assert names() == {"docker0", "sp-own"}


def test_applying_twice_is_applying_once(links: Links) -> None:
    steps = plan(wanted(), EMPTY)
    links.apply(steps)
    links.apply(steps)
    assert links.observe() == wanted()


def test_a_link_of_somebody_else_in_the_way_is_named(links: Links) -> None:
    ip("link", "add", NET6.bridge, "type", "veth", "peer", "name", "other")
    with pytest.raises(Unavailable, match=rf"{NET6.bridge}.* is not ours"):
        links.apply(plan(wanted(), EMPTY))
    assert shown(NET6.bridge)["linkinfo"]["info_kind"] == "veth"


def test_a_bridge_made_anew_before_the_old_one_was_deleted(links: Links, trash: Trash) -> None:
    """The old one is in the trash, and must not take its successor with it."""
    bring(links, wanted())
    bring(links, EMPTY)
    bring(links, wanted())
    trash.empty()
    assert links.observe() == wanted()


def test_a_pair_whose_other_end_is_in_a_container_is_made_anew(links: Links, container: Namespace) -> None:
    """A second Join: the engine needs an end to move, and the first one it has moved already."""
    bring(links, wanted(ports=1))
    (port,) = wanted(ports=1).ports.values()
    ip("link", "set", port.peer, "netns", container.path)
    links.apply(plan(wanted(ports=1), replace(wanted(ports=1), ports={})))
    assert port.peer in names()
    assert links.observe() == wanted(ports=1)
    assert port.peer not in container.run("ip", "link")


@pytest.mark.parametrize("words", [("set", "down"), ("set", "nomaster"), ("set", "mtu", "1300")])
def test_what_somebody_changes_on_a_port_is_seen_and_put_right(links: Links, words: tuple[str, ...]) -> None:
    bring(links, wanted())
    ip("link", words[0], "dev", next(iter(wanted().ports)), *words[1:])
    assert links.observe() != wanted()
    bring(links, wanted())
    assert links.observe() == wanted()


@pytest.mark.parametrize("words", [("set", "down"), ("set", "mtu", "1300"), ("set", "address", "02:53:00:00:00:99")])
def test_what_somebody_changes_on_a_bridge_is_seen_and_put_right(links: Links, words: tuple[str, ...]) -> None:
    bring(links, wanted())
    ip("link", words[0], "dev", NET6.bridge, *words[1:])
    assert links.observe() != wanted()
    bring(links, wanted())
    assert links.observe() == wanted()


def test_little_waits_for_an_address_that_nobody_has(links: Links) -> None:
    """Also on a bridge of an earlier version, which has the kernel's default."""
    bring(links, wanted())
    settings = [f"{family}/neigh/{NET6.bridge}/unres_qlen_bytes" for family in ("ipv4", "ipv6")]
    assert {sysctl(name) for name in settings} == {str(UNRESOLVED)}
    for name in settings:
        Path("/proc/sys/net", name).write_text("212992")
        assert links.observe() != wanted()
        bring(links, wanted())
        assert {sysctl(name) for name in settings} == {str(UNRESOLVED)}


def test_a_port_needs_its_bridge(links: Links) -> None:
    with pytest.raises(Unavailable, match=f"bridge {NET6.bridge} is not there"):
        links.apply(plan(replace(wanted(), bridges={}), EMPTY))


def test_forwarding_for_ipv6_only_where_it_is_needed(netns: None) -> None:
    Switches(PROC).forward(ipv6=False)
    assert (sysctl("ipv4/ip_forward"), sysctl("ipv6/conf/all/forwarding")) == ("1", "0")
    assert sysctl("ipv4/tcp_migrate_req") == "1"


def test_an_uplink_goes_on_listening_to_its_router(netns: None) -> None:
    """A router ignores advertisements unless told otherwise, and the node would lose its own default route."""
    ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
    Path("/proc/sys/net/ipv6/conf/eth1/accept_ra").write_text("0")
    Switches(PROC).forward(ipv6=True)
    assert sysctl("ipv6/conf/all/forwarding") == "1"
    assert [sysctl(f"ipv6/conf/{name}/accept_ra") for name in ("eth0", "eth1")] == ["2", "0"]


def test_the_bridge_knows_a_mac_behind_its_latest_port(links: Links) -> None:
    """A container takes over the address of one whose link is still there, and goes with it; learning is off."""
    first, second = endpoint(NET6, 2), replace(endpoint(NET6, 3), mac=endpoint(NET6, 2).mac)
    for there in ([first], [second]):
        bring(links, replace(desired(NET6, there, uplink_mtu=1500), elements=frozenset()))
        entries = [entry for entry in json.loads(run("bridge", "-j", "fdb", "show")) if entry["mac"] == first.mac]
        assert [entry["ifname"] for entry in entries if "master" in entry] == [naming.port_name(there[0].id)]
        assert shown(naming.port_name(there[0].id))["linkinfo"]["info_slave_data"]["learning"] is False
