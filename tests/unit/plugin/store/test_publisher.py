"""A node's own records, and the difference to what the store has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.local import webdesk
from plugin.local.attachments import NAMES, PORTS, Attachment, attachments
from plugin.store.membership import Membership
from plugin.store.publisher import chunks, differences, own_records
from stackpad import records
from stackpad.etcd import Delete, Op, Put
from tests.samples import endpoint, network

CLUSTER = records.Cluster(
    owner="me", id="c", range4="10.192.0.0/10", range6="fd00::/48", block_prefix=18, network_prefix=26
)
BLOCK = records.Range(owner="me", net="10.192.0.0/18", block=True)
MEMBERSHIP = Membership(
    node="me",
    name="worker",
    cluster=CLUSTER,
    secret="",
    mesh4="10.192.0.1",
    mesh6="fd00::1",
    control=True,
    ranges=(BLOCK,),
)
NODE = records.Node(owner="me", name="worker", public_keys=())
SHOP = replace(network(1), environment="shop")
END = replace(endpoint(SHOP), sandbox="/run/ns")
ATTACHED = Attachment(END.id, "c" * 64, "web", SHOP.id, ("web", "www"), ("80/tcp",))


def own(**changes: Any) -> dict[str, records.Record]:
    values: dict[str, Any] = {
        "membership": MEMBERSHIP,
        "node": NODE,
        "networks": [SHOP],
        "endpoints": {END.id: END},
        "attachments": {END.id: ATTACHED},
    }
    return own_records(**{**values, **changes})


def test_all_that_is_this_nodes() -> None:
    made = own()
    assert set(made) == {
        records.CLUSTER,
        records.key(records.NODES, "me"),
        records.range_key("10.192.0.0/18"),
        records.key(records.NETWORKS, "me", SHOP.id),
        records.key(records.ENDPOINTS, "me", END.id),
    }
    end = made[records.key(records.ENDPOINTS, "me", END.id)]
    assert isinstance(end, records.Endpoint)
    assert (end.environment, end.names, end.ports) == ("shop", ("web", "www"), ("80/tcp",))
    assert {record.owner for record in made.values()} == {"me"}


@pytest.mark.parametrize(("said", "proofs"), [({"proofs": True}, True), ({"proofs": False}, False), ({}, None)])
def test_what_the_ingress_says_of_itself_is_told_the_others_and_what_an_older_one_does_not_say_is_not_made_up(
    said: dict[str, bool], proofs: bool | None
) -> None:
    report = webdesk.read(msgspec.json.encode({"control": True, "complete": True, "stale": False, **said}))
    (there,) = (record for key, record in own(report=report).items() if key.startswith(records.INGRESSES))
    assert there == records.Ingress(owner="me", control=True, complete=True, proofs=proofs)


@pytest.mark.parametrize(
    "changes",
    [
        {"attachments": {}},
        {"networks": [replace(SHOP, environment="")]},
        {"endpoints": {END.id: replace(END, left=True)}},
        {"endpoints": {}},
    ],
)
def test_nobody_is_told_of_what_does_not_run_or_has_no_name_yet(changes: dict[str, Any]) -> None:
    assert not any(key.startswith(records.ENDPOINTS) for key in own(**changes))


def test_the_store_is_brought_to_it_and_then_left_alone() -> None:
    writes, deletions = differences(own(), {}, "me")
    assert (set(writes), deletions) == (set(own()), [])
    assert differences(own(), writes, "me") == ({}, [])
    assert differences(own(attachments={}), writes, "me") == ({}, [records.key(records.ENDPOINTS, "me", END.id)])


def test_records_of_others_are_never_touched() -> None:
    others = {
        records.key(records.ENDPOINTS, "meow", "e"): b"{}",
        records.key(records.NETWORKS, "you", "n"): b"{}",
        records.range_key("10.192.0.0/18"): records.encode(msgspec.structs.replace(BLOCK, owner="you")),
    }
    writes, deletions = differences(own(), others, "me")
    assert not writes.keys() & others.keys()
    assert deletions == []


def test_a_range_record_that_nobody_can_read_is_written_again() -> None:
    key = records.range_key("10.192.0.0/18")
    writes, _ = differences(own(), {key: b"spoilt"}, "me")
    assert records.decode(writes[key], records.Range) == BLOCK


def test_a_range_is_given_back_by_its_record_and_not_by_its_absence() -> None:
    stored = differences(own(), {}, "me")[0]
    without = msgspec.structs.replace(MEMBERSHIP, ranges=())
    assert differences(own(membership=without), stored, "me") == ({}, [])


INSPECTED: dict[str, Any] = {
    "Id": "c" * 64,
    "Name": "/Shop-DB",
    "State": {"Running": True},
    "Config": {"ExposedPorts": {"5432/tcp": {}, "junk": {}, "70000/tcp": {}, "53/udp": {}}},
    "NetworkSettings": {
        "Networks": {
            "shop": {
                "EndpointID": "e1",
                "NetworkID": "n1",
                "Aliases": ["postgres", "POSTGRES", "bad name", "x" * 64, "a..b", "ünï"],
                "DNSNames": ["Shop-DB", "postgres", "c" * 12],
            },
            "gone": {"EndpointID": "", "NetworkID": "n2"},
            "strange": None,
        }
    },
}


def test_names_are_those_the_engine_answers_and_no_other() -> None:
    (found,) = attachments(INSPECTED)
    assert found.names == ("shop-db", "postgres", "c" * 12)
    assert found.ports == ("53/udp", "5432/tcp")
    assert (found.endpoint, found.network, found.container_name) == ("e1", "n1", "Shop-DB")


def test_who_exposes_everything_under_every_name_is_told_of_in_a_small_record() -> None:
    many = {
        **INSPECTED,
        "Name": "/" + "n" * 100_000,
        "Config": {"ExposedPorts": {f"{n}/{kind}": {} for n in range(65535, 0, -1) for kind in ("udp", "tcp")}},
        "NetworkSettings": {
            "Networks": {
                "shop": {
                    "EndpointID": END.id,
                    "NetworkID": SHOP.id,
                    "Aliases": [".".join([f"{n:063}"] * 3) for n in range(10_000)],
                }
            }
        },
    }
    (found,) = attachments(many)
    assert found.ports == tuple(f"{n}/{kind}" for n in range(1, PORTS // 2 + 1) for kind in ("tcp", "udp"))
    assert found.names == tuple(".".join([f"{n:063}"] * 3) for n in range(NAMES))
    record = own(attachments={END.id: found})[records.key(records.ENDPOINTS, "me", END.id)]
    assert len(records.encode(record)) < 20_000


@pytest.mark.parametrize("ports", [{"²/tcp": {}}, {"٣/tcp": {}}, {"9" * 5000 + "/tcp": {}}, {"/tcp": {}}])
def test_a_port_is_a_number_in_plain_digits(ports: dict[str, Any]) -> None:
    (found,) = attachments({**INSPECTED, "Config": {"ExposedPorts": ports}})
    assert found.ports == ()


@pytest.mark.parametrize("state", [{}, {"Running": False}, {"Running": True, "Restarting": True}, None])
def test_what_does_not_run_has_no_name(state: object) -> None:
    assert attachments({**INSPECTED, "State": state}) == []


def test_another_clusters_record_is_not_written_over() -> None:
    other = msgspec.structs.replace(CLUSTER, id="another")
    writes, _ = differences(own(), {records.CLUSTER: records.encode(other)}, "me")
    assert records.CLUSTER not in writes
    writes, _ = differences(own(), {records.CLUSTER: b"spoilt"}, "me")
    assert records.CLUSTER in writes


@given(st.lists(st.integers(-1, 60), max_size=60), st.integers(1, 5), st.integers(1, 50))
def test_transactions_are_cut_by_count_and_by_bytes(sizes: list[int], most: int, most_bytes: int) -> None:
    """-1 is a deletion."""
    operations: list[Op] = [Delete("k") if size < 0 else Put("k", bytes(size)) for size in sizes]
    cut = list(chunks(operations, most, most_bytes))
    assert [operation for chunk in cut for operation in chunk] == operations
    for chunk in cut:
        assert 1 <= len(chunk) <= most
        length = sum(1 + len(op.value) if isinstance(op, Put) else 1 for op in chunk)
        assert length <= most_bytes or len(chunk) == 1
