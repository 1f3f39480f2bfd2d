"""What a node needs, so that no network may have it: from its settings, its facts and the other nodes' records."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from plugin.cluster.needs import Needs
from plugin.kernel.node import NodeFacts
from plugin.kernel.reconciler import Reconciler
from plugin.model import ip_network
from plugin.ranges.grounds import Grounds
from plugin.resolver.hostservers import HostServers
from plugin.settings import Settings
from plugin.store.mesh import View
from stackpad import records
from tests.unit.plugin.tunnel.test_wants import MINE

SETTINGS = Settings(dns=("10.53.0.1",), store=("https://10.7.0.7:2379",), network_ranges=(ip_network("203.0.113.0/24"),))
FACTS = NodeFacts(1500, frozenset({ip_address("10.1.0.5")}), frozenset(), frozenset({ip_address("10.1.0.1")}))


def node(number: int, *endpoints: str) -> records.Node:
    return records.Node(owner=f"n{number}", name=f"worker-{number}", public_keys=(), endpoints=endpoints)


NODES = [
    node(0, "172.20.0.1:51820", "[fd20::1]:51820"),
    node(1, "172.21.0.1:51820"),
    node(2, "172.22.0.1:51820", "10.192.5.5:51820"),
    node(3, "172.23.0.1:51820"),
]


@pytest.fixture
def needs(tmp_path: Path) -> Needs:
    (tmp_path / "resolv.conf").write_text("nameserver 10.53.0.2\n")
    reconciler = cast(Reconciler, SimpleNamespace(facts=FACTS))
    return Needs(SETTINGS, reconciler, HostServers(tmp_path, tmp_path / "resolv.conf"))


def grounds(needs: Needs, *, claiming: bool, member: bool = True) -> Grounds:
    membership = msgspec.structs.replace(MINE, store=("http://10.192.0.1:2379", "http://etcd.internal:2379"))
    view = View(nodes={one.owner: one for one in NODES}, removed=frozenset({"n3"}))
    heard = {"n2": ("172.29.0.2", 40000), "n3": ("172.29.0.3", 40000)}
    return needs.grounds(membership if member else None, view, heard, claiming=claiming)


@pytest.mark.parametrize(
    ("net", "said"),
    [
        ("10.1.0.0/30", "a router"),
        ("10.1.0.4/30", "an address of this node's"),
        ("10.53.0.0/31", "a name server"),
        ("10.53.0.2/31", "a name server"),
        ("10.7.0.0/24", "where the cluster's store is"),
        ("172.20.0.0/24", "where node worker-0 is reached"),
        ("fd20::/64", "where node worker-0 is reached"),
        ("172.29.0.0/30", "where node worker-2 is reached"),
        ("198.51.100.0/24", "no private range"),
    ],
)
def test_nobodys_network_may_have_it(needs: Needs, net: str, said: str) -> None:
    for claiming in (False, True):
        assert said in grounds(needs, claiming=claiming).against(ip_network(net))


def test_what_a_node_only_says_of_itself_costs_no_other_node_its_range(needs: Needs) -> None:
    """But nobody makes a network over it."""
    said = ip_network("172.22.0.0/24")
    assert not grounds(needs, claiming=False).against(said)
    assert "worker-2" in grounds(needs, claiming=True).against(said)


@pytest.mark.parametrize("net", ["10.192.0.0/18", "10.192.5.0/24", "203.0.113.128/25", "172.23.0.0/24", "172.21.0.0/24"])
def test_what_is_the_clusters_or_allowed_or_nobodys_any_more(needs: Needs, net: str) -> None:
    for claiming in (False, True):
        assert not grounds(needs, claiming=claiming).against(ip_network(net))


def test_a_node_of_its_own_needs_its_own(needs: Needs) -> None:
    alone = grounds(needs, claiming=True, member=False)
    assert not alone.against(ip_network("172.20.0.0/24"))
    for net in ("10.1.0.0/24", "10.53.0.0/24", "10.7.0.0/24"):
        assert net in alone.against(ip_network(net))
