"""What earlier versions have written is read, what a newer one has written is refused or kept, and never spoilt.

``tests/golden/layouts`` was written by the versions themselves: the first plugin's state, the first cluster's files and
records, the first ingress's claims.
"""

from __future__ import annotations

import shutil
import sqlite3
from ipaddress import ip_address, ip_network
from pathlib import Path

import msgspec
import pytest

from ingress.owners.claims import Claims
from ingress.owners.ledger import How
from plugin.database import SCHEMA as STATE_SCHEMA
from plugin.joining.guests import Guests
from plugin.model import AddressKind, Protocol, PublishedPort
from plugin.resolver import table
from plugin.state import State
from plugin.store.membership import SCHEMA, Memory
from plugin.store.view import StoreView
from stackpad import records
from stackpad.errors import Unavailable

LAYOUTS = Path(__file__).parents[1] / "golden" / "layouts"
NET, CLOSED, GUEST = "a" * 64, "b" * 64, "e" * 64


@pytest.fixture
def first_state(tmp_path: Path) -> Path:
    """The state of the first plugin, as it wrote it."""
    path = tmp_path / "net.db"
    database = sqlite3.connect(path)
    database.executescript((LAYOUTS / "first-plugin" / "net.db.sql").read_text())
    database.close()
    return path


async def test_the_first_plugins_state(first_state: Path) -> None:
    async with State(first_state) as state:
        assert set(state.networks) == {NET, CLOSED}
        shop = state.networks[NET]
        assert [subnet.pool for subnet in shop.subnets] == ["10.192.1.0/24", "fd00:1::/64"]
        assert (shop.egress, shop.ipv6, shop.mtu, shop.environment) == (False, True, 1400, "shop-production")
        assert shop.reserved == ("10.192.1.9",)
        assert state.networks[CLOSED].internal
        assert state.endpoints[GUEST].ports == (
            PublishedPort(Protocol.TCP, 80, 8080),
            PublishedPort(Protocol.UDP, 53, 53, "192.0.2.1"),
        )
        assert state.endpoints["f" * 64].left
        (pool,) = state.pools.values()
        assert (pool.sub_pool, pool.dynamic, pool.created) == ("10.192.1.0/25", True, 1.5)
        taken = state.allocations_of(pool.id)
        assert taken[ip_address("10.192.1.1")].kind is AddressKind.GATEWAY
        assert str(state.unique_local_range) == "fd2c:5579:cdec::/48", "a new one would be a new range for every network"
        assert state.upstreams == {}
        await state.put_upstreams({20001: ()})
    async with State(first_state) as state:
        assert (set(state.networks), state.upstreams) == ({NET, CLOSED}, {20001: ()})


def test_a_newer_state_is_refused_and_stays_as_it_is(first_state: Path) -> None:
    database = sqlite3.connect(first_state)
    database.execute("CREATE TABLE of_the_future (x)")
    database.execute(f"PRAGMA user_version = {STATE_SCHEMA + 1}")
    database.commit()
    database.close()
    before = first_state.read_bytes()
    with pytest.raises(Unavailable, match=r"a newer version of the plugin .*layout 2, known is 1"):
        State(first_state)
    assert first_state.read_bytes() == before
    assert [path.name for path in first_state.parent.iterdir()] == ["net.db"]


@pytest.fixture
def first_cluster(tmp_path: Path) -> Path:
    """The directory of a node of the first clusters."""
    return Path(shutil.copytree(LAYOUTS / "first-cluster", tmp_path / "node"))


def test_the_first_clusters_membership_and_tokens(first_cluster: Path) -> None:
    kept = Memory(first_cluster).load()
    assert kept is not None
    assert (kept.node, kept.name, kept.control, kept.key) == ("n1", "first", True, b"s" * 32)
    assert kept.held() == [ip_network("10.192.0.0/18"), ip_network("172.29.0.0/24")]
    assert kept.gateway is not None
    assert kept.schema == 1
    (guest,) = Guests(first_cluster).peers(0.0)
    assert guest.address == ip_address("10.192.0.66")


def test_the_first_clusters_records(first_cluster: Path) -> None:
    assert Memory(first_cluster).load_view() == {}, "its copy was no JSON for the lock in it; the store has it all"
    text = (first_cluster / "view.json").read_text().replace(":n1", ':"n1"')
    raw = {key: bytes(value) for key, value in msgspec.json.decode(text, type=dict[str, msgspec.Raw]).items()}
    raw[records.RANGES_LOCK] = b"n1"
    seen = StoreView()
    seen.replace(raw)
    assert seen.problems == {}
    view = seen.view()
    assert view.cluster is not None
    assert (set(view.nodes), set(view.alive), set(view.removed)) == ({"n2"}, {"n2"}, {"n9"})
    names = table.view(view, "n1", [table.Own("c", "shop", ("10.192.0.2",), internal=False)])
    assert set(names.environments["shop"].names) == {"postgres"}


def test_a_newer_membership_is_refused_and_stays_as_it_is(first_cluster: Path) -> None:
    file = first_cluster / "membership.json"
    newer = {**msgspec.json.decode(file.read_bytes()), "schema": SCHEMA + 1, "of_the_future": True}
    file.write_bytes(msgspec.json.encode(newer))
    with pytest.raises(Unavailable, match=r"newer version of the plugin \(layout 2, known is 1\)"):
        Memory(first_cluster).load()
    assert msgspec.json.decode(file.read_bytes()) == newer


def test_what_a_membership_has_more_is_kept(first_cluster: Path) -> None:
    file = first_cluster / "membership.json"
    file.write_bytes(msgspec.json.encode({**msgspec.json.decode(file.read_bytes()), "of_the_future": [1]}))
    memory = Memory(first_cluster)
    kept = memory.load()
    assert kept is not None
    memory.save(msgspec.structs.replace(kept, nat=True))
    after = msgspec.json.decode(file.read_bytes())
    assert (after["nat"], after["of_the_future"]) == (True, [1])


def test_a_newer_nodes_records_are_read_and_what_they_have_more_is_kept() -> None:
    node = records.Node(owner="n2", name="second", public_keys=())
    newer = msgspec.json.encode({**msgspec.to_builtins(node), "schema": 7, "of_the_future": {"a": 1}})
    seen = StoreView()
    seen.replace({records.key(records.NODES, "n2"): newer, f"{records.ROOT}of-the-future/x": b"{}"})
    assert (set(seen.view().nodes), seen.problems) == ({"n2"}, {})
    after = msgspec.json.decode(records.encode(msgspec.structs.replace(node, name="other"), newer))
    assert (after["name"], after["schema"], after["of_the_future"]) == ("other", 7, {"a": 1})


def test_the_first_ingresss_claims_and_a_newer_ones(tmp_path: Path) -> None:
    path = tmp_path / "claims.json"
    shutil.copy(LAYOUTS / "first-ingress" / "claims.json", path)
    claims = Claims(path).current.claims
    assert set(claims) == {"shop.acme.example.org", "www.example.org"}
    assert claims["shop.acme.example.org"].paths == {"": "web", "/api": "api"}
    assert all(claim.proof is not None and claim.proof.how is How.OPERATOR for claim in claims.values())
    path.write_bytes(newer := b'{"schema":3,"claims":{},"of_the_future":{}}')
    with pytest.raises(Unavailable, match="its layout 3 is not one this version knows"):
        Claims(path)
    assert path.read_bytes() == newer
