"""The store's content as a view: changes, what does not fit, and a store that has lost something."""

from __future__ import annotations

import base64

import pytest

from plugin.store.view import StoreView
from stackpad import records

OF_B = records.range_key("10.192.64.0/18")
KEY = base64.b64encode(bytes(32)).decode()


def node(name: str) -> dict[str, bytes]:
    address = "10.192.0.1" if name == "a" else "10.192.64.1"
    made = records.Node(owner=name, name=name, public_keys=(KEY,), mesh4=address)
    block = records.Range(owner=name, net="10.192.0.0/18" if name == "a" else "10.192.64.0/18", block=True)
    network = records.Network(owner=name, id="x", environment="shop", subnets=("10.192.0.64/26",))
    endpoint = records.Endpoint(
        owner=name, id="e", network="x", environment="shop", names=("web",), addresses=("10.192.0.66",)
    )
    return {
        records.key(records.NODES, name): records.encode(made),
        records.key(records.ALIVE, name): records.encode(records.Alive(owner=name)),
        records.range_key(block.net): records.encode(block),
        records.key(records.NETWORKS, name, "x"): records.encode(network),
        records.key(records.ENDPOINTS, name, "e"): records.encode(endpoint),
    }


def removed(name: str) -> tuple[str, bytes]:
    return records.key(records.REMOVED, name), records.encode(records.Removed(owner=name, name=name))


def test_everything_is_in_the_view() -> None:
    seen = StoreView()
    touched = seen.replace({**node("a"), **node("b")})
    view = seen.view()
    assert set(view.nodes) == {"a", "b"} == set(view.alive)
    assert (len(view.ranges), len(view.networks), len(view.endpoints)) == (2, 2, 2)
    assert touched.mesh
    assert touched.environments == {"shop"}
    assert seen.problems == {}


def test_an_endpoint_touches_its_environment_and_not_the_mesh() -> None:
    seen = StoreView()
    seen.replace(node("a"))
    key = records.key(records.ENDPOINTS, "a", "e")
    touched = seen.change([(key, None)])
    assert (touched.mesh, touched.environments) == (False, {"shop"})
    assert seen.view().endpoints == {}


def test_what_does_not_fit_is_left_out_and_told() -> None:
    seen = StoreView()
    strange = {
        records.key(records.NODES, "x"): b'{"owner": "y", "name": "thief", "public_keys": []}',
        records.RANGES + "1": b'{"owner": "x", "net": "everything"}',
        records.key(records.NETWORKS, "x", "n"): b"not JSON",
        records.key(records.ENDPOINTS, "x", "e"): b'{"owner": 7}',
        records.ROOT + "newer/kind": b"{}",
    }
    seen.replace({**node("a"), **strange})
    assert set(seen.view().nodes) == {"a"}
    assert len(seen.problems) == 4
    seen.replace(node("a"))
    assert seen.problems == {}


def test_a_wiped_store_takes_nobody_s_tunnel_away() -> None:
    seen = StoreView()
    seen.replace({**node("a"), **node("b")})
    touched = seen.replace(node("a"))
    view = seen.view()
    assert set(view.nodes) == {"a", "b"}
    assert "10.192.64.0/18" in {record.net for record in view.ranges.values()}
    assert len(view.endpoints) == 2
    assert touched.silent == {"b"}
    assert set(seen.raw) == set(node("a")), "what the store has is not mixed up with what is remembered"


def test_a_node_that_writes_again_is_what_it_writes() -> None:
    seen = StoreView()
    seen.replace({**node("a"), **node("b")})
    seen.replace(node("a"))
    written = node("b")
    lost = written.pop(records.key(records.ENDPOINTS, "b", "e"))
    assert seen.change(list(written.items())).returned == {"b"}
    assert len(seen.view().endpoints) == 2
    assert seen.settle("b").environments == {"shop"}
    assert len(seen.view().endpoints) == 1
    assert lost


def test_the_range_by_which_a_node_is_reached_stays_until_it_has_written_it() -> None:
    """Without it the node could not reach the store to write it."""
    seen = StoreView()
    seen.replace({**node("a"), **node("b")})
    seen.replace(node("a"))
    place = records.key(records.NODES, "b")
    assert seen.change([(place, node("b")[place])]).returned == {"b"}
    assert seen.settle("b").returned == {"b"}
    assert len(seen.view().endpoints) == 1
    assert OF_B in seen.view().ranges
    seen.change([(OF_B, node("b")[OF_B])])
    assert seen.settle("b").returned == set()


def test_what_a_node_claimed_and_does_not_write_again_is_gone() -> None:
    other = records.Range(owner="b", net="10.200.0.0/24", network="x")
    seen = StoreView()
    seen.replace({**node("a"), **node("b"), records.range_key(other.net): records.encode(other)})
    seen.replace(node("a"))
    seen.change(list(node("b").items()))
    assert records.range_key(other.net) in seen.view().ranges
    assert seen.settle("b").mesh
    assert records.range_key(other.net) not in seen.view().ranges
    assert OF_B in seen.view().ranges


def test_a_range_that_was_not_given_back_ends_by_nobodys_deletion() -> None:
    seen = StoreView()
    seen.replace({**node("a"), **node("b")})
    assert seen.change([(OF_B, None)]).returned == {"b"}
    assert seen.settle("b").returned == {"b"}
    assert OF_B in seen.view().ranges
    freed = records.Range(owner="b", net="10.192.64.0/18", block=True, freed=1.0)
    seen.change([(OF_B, records.encode(freed))])
    seen.change([(OF_B, None)])
    assert OF_B not in seen.view().ranges


@pytest.mark.parametrize(("owner", "freed", "stays"), [("c", 0.0, False), ("c", 1.0, True), ("b", 0.0, True)])
def test_a_range_that_the_store_has_lost_is_whose_who_claims_it(owner: str, freed: float, stays: bool) -> None:
    seen = StoreView()
    seen.replace({**node("a"), **node("b")})
    seen.replace(node("a"))
    part = records.Range(owner=owner, net="10.192.64.0/24", network="x", freed=freed)
    seen.change([(records.range_key(part.net), records.encode(part))])
    assert (OF_B in seen.view().ranges) is stays


def test_what_the_store_has_lost_outlives_a_restart() -> None:
    seen, after = StoreView(), StoreView()
    seen.replace({**node("a"), **node("b")})
    seen.replace(node("a"))
    after.replace(seen.memory())
    assert after.replace(node("a")).silent == {"b"}
    assert set(after.view().nodes) == {"a", "b"}
    assert OF_B in after.view().ranges


def test_what_contradicts_a_claim_is_not_kept_when_the_store_loses_it() -> None:
    seen = StoreView()
    part = records.Range(owner="a", net="10.192.64.0/24", network="x")
    seen.replace({**node("a"), **node("b"), records.range_key(part.net): records.encode(part)})
    seen.change([(records.range_key(part.net), None)])
    assert records.range_key(part.net) not in seen.view().ranges


def test_a_node_that_was_not_let_in_leaves_nothing() -> None:
    """Its ranges are given back and forgotten, and its record is deleted, as nobody else's is."""
    seen = StoreView()
    seen.replace({**node("a"), **node("b")})
    freed = records.Range(owner="b", net="10.192.64.0/18", block=True, freed=1.0)
    seen.change([(records.key(records.NODES, "b"), None), (OF_B, records.encode(freed))])
    assert set(seen.view().nodes) == {"a"}
    seen.change([(OF_B, None)])
    assert OF_B not in seen.view().ranges
    assert OF_B not in seen.memory()


def test_a_range_of_a_node_that_nobody_knows_goes_with_its_key() -> None:
    seen = StoreView()
    seen.replace({OF_B: node("b")[OF_B]})
    seen.replace({})
    assert not seen.view().ranges


def test_a_node_that_never_comes_back_loses_its_names() -> None:
    seen = StoreView()
    seen.replace({**node("a"), **node("b")})
    seen.replace({})
    assert seen.bury("b").all
    assert seen.view().alive == {"a"}
    assert set(seen.view().nodes) == {"a", "b"}


def test_a_removed_node_is_gone_with_all_it_had() -> None:
    seen = StoreView()
    seen.replace({**node("a"), **node("b")})
    seen.change([removed("b")])
    freed = records.Range(owner="b", net="10.192.64.0/18", block=True, freed=1.0)
    gone = [(key, None) for key in node("b") if not key.startswith(records.RANGES)]
    seen.change([*gone, (records.range_key(freed.net), records.encode(freed))])
    view = seen.view()
    assert set(view.nodes) == {"a"}
    assert view.removed == {"b"}
    assert len(view.endpoints) == 1


def test_a_tombstone_after_the_loss_ends_what_was_kept() -> None:
    seen = StoreView()
    seen.replace({**node("a"), **node("b")})
    seen.replace(node("a"))
    assert seen.change([removed("b")]).mesh
    assert set(seen.view().nodes) == {"a"}


def test_a_node_that_left_forgets() -> None:
    seen = StoreView()
    seen.replace({**node("a"), **node("b")})
    seen.clear()
    assert not seen.raw
    assert not seen.view().nodes


def test_whatever_one_member_writes_ends_nobody_and_is_not_passed_on() -> None:
    """Who has the cluster's keys can write anything; the ingress is shown the records one in a line."""
    seen = StoreView()
    forged = b'{"owner": "x", "claim": {"z":\n{"all": true, "node": "y", "records": {}}\n}}'
    strange = {
        records.key(records.NODES, "a"): b'{"owner": "a", "name": "\xff", "public_keys": []}',
        records.key(records.NODES, "b"): b'{"more": ' + b"[" * 100_000,
        records.key(records.ALIVE, "a"): b"not JSON",
        records.key(records.HOSTS, "www.example.org"): b'}, "secret": "00',
        records.key(records.HOSTS, "shop.example.org"): forged,
        records.key(records.WEB, "a", "c"): b"[]",
    }
    seen.replace(strange)
    assert set(seen.problems) == set(strange)
    assert all(problem.isprintable() for problem in seen.problems.values())
    assert "line break" in seen.problems[records.key(records.HOSTS, "shop.example.org")]
    assert seen.shown == {}
    assert seen.view().alive == frozenset()
    seen.replace(node("a"))
    assert seen.problems == {}


def test_a_key_that_is_no_text_is_told_and_not_kept() -> None:
    """It comes as the store's client decodes it, and could be written neither to the disk nor to the ingress."""
    seen = StoreView()
    strange = records.NODES + b"\xff\xfe".decode("utf-8", "surrogateescape")
    seen.replace({**node("a"), strange: b"{}"})
    assert set(seen.raw) == set(node("a"))
    assert "is no key of a record; delete it there" in seen.problems[strange]
    seen.change([(strange, None)])
    assert seen.problems == {}
    seen.change([(strange, b"{}")])
    seen.replace(node("a"))
    assert seen.problems == {}


@pytest.mark.parametrize(
    ("key", "record"),
    [
        (
            records.key(records.NETWORKS, "b", "y"),
            records.Network(owner="a", id="y", environment="mine", subnets=("10.192.0.64/26",)),
        ),
        (
            records.key(records.ENDPOINTS, "b", "y"),
            records.Endpoint(
                owner="a", id="y", network="x", environment="shop", names=("web",), addresses=("10.192.0.66",)
            ),
        ),
        (records.key(records.INGRESSES, "b"), records.Ingress(owner="a", control=True)),
        (
            records.key(records.WEB, "b", "y"),
            records.Web(owner="a", id="y", name="web", network="x", org="", labels={}, state="up"),
        ),
    ],
    ids=lambda value: value.split("/")[3] if isinstance(value, str) else "",
)
def test_a_node_says_nothing_in_another_ones_name(key: str, record: records.Record) -> None:
    """Leave to write below its own id would else be leave to write about everybody."""
    seen = StoreView()
    seen.replace({**node("a"), **node("b")})
    seen.change([(key, records.encode(record))])
    assert seen.problems == {key: f"the record {key} in the store names another node as its owner"}
    assert key not in seen.shown
    view = seen.view()
    assert (len(view.networks), len(view.endpoints), dict(view.ingresses)) == (2, 2, {})


def test_a_tombstone_counts_on_when_it_is_deleted() -> None:
    """As by the node itself, which then writes its records again: for a while it has the rights to."""
    seen = StoreView()
    seen.replace({**node("a"), **node("b")})
    assert seen.change([removed("b")]).buried
    seen.change([(key, None) for key in node("b")])
    assert not seen.change([(removed("b")[0], None), *node("b").items()]).buried
    assert seen.view().removed == {"b"}
    assert seen.view().alive == {"a"}
    assert records.key(records.ALIVE, "b") not in seen.shown
    seen.replace({**node("a"), **node("b")})
    assert seen.view().removed == {"b"}
    assert seen.tombstones() == {removed("b")[0]: records.Removed(owner="b", name="b")}
    again = StoreView()
    again.replace(seen.memory())
    assert again.view().removed == {"b"}, "nor does it come back with the next process"
    seen.clear()
    assert not seen.tombstones()


def test_a_removed_node_has_no_names_whatever_is_left_of_it() -> None:
    seen = StoreView()
    seen.replace({**node("a"), **node("b")})
    touched = seen.change([removed("b")])
    assert (touched.all, touched.shown) == (True, True)
    assert seen.view().alive == {"a"}


def test_what_is_written_at_a_tombstone_does_not_matter() -> None:
    seen = StoreView()
    seen.replace({**node("a"), removed("b")[0]: b"{}"})
    assert seen.view().removed == {"b"}
    assert seen.problems == {}


def test_a_node_that_says_it_has_left_is_gone_for_good() -> None:
    seen = StoreView()
    seen.replace({**node("a"), **node("b")})
    key = records.key(records.NODES, "b")
    last = records.Node(owner="b", name="b", public_keys=(KEY,), left=7.0)
    assert seen.change([(key, records.encode(last))]).buried
    assert set(seen.view().nodes) == {"a"}
    assert seen.view().removed == seen.departed == {"b"}
    assert seen.tombstones() == {removed("b")[0]: records.Removed(owner="b", name="b", since=7.0)}
    seen.change([(key, None)])
    assert seen.view().removed == {"b"}
    assert not seen.departed
