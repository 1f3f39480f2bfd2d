"""The ledger in the store: what is written comes back, and what cannot be read is written again."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.owners import shared
from ingress.owners.ledger import Claim, How, Ledger, Proof, Released, Ruling, merge
from stackpad import records

OWNERS = st.sampled_from(["acme/a/production", "acme/b/staging"])
TIMES = st.floats(0, 1e9)
HOSTS = st.sampled_from(["a.example", "*.b.example", "c.acme.stackpad.test"])
CLAIMS = st.builds(
    Claim,
    OWNERS,
    TIMES,
    st.dictionaries(st.sampled_from(["", "/api"]), st.sampled_from(["web", "api"])),
    st.none() | st.builds(Proof, TIMES, st.sampled_from(list(How))),
    st.sampled_from([("",), ("n1",), ("n1", "n2")]),
    st.none() | TIMES,
    st.dictionaries(st.sampled_from(["", "/api"]), st.sampled_from(["shop", "Shop"])),
    st.dictionaries(st.sampled_from(["", "/api"]), TIMES),
)
LEDGERS = st.builds(
    Ledger,
    st.dictionaries(HOSTS, CLAIMS),
    st.dictionaries(HOSTS, st.builds(Ruling, st.booleans(), OWNERS, TIMES)),
    st.dictionaries(HOSTS, st.builds(Released, OWNERS, TIMES)),
)


def written(ledger: Ledger, values: dict[str, bytes]) -> dict[str, bytes]:
    """The store after the differences have been written."""
    after = dict(values)
    for host, before, value in shared.differences(ledger, values, "n1"):
        assert values.get(records.HOSTS + host) == before
        if value is None:
            del after[records.HOSTS + host]
        else:
            after[records.HOSTS + host] = value
    return after


@given(LEDGERS, LEDGERS)
def test_the_store_says_what_the_ledger_says_and_then_nothing_is_left_to_write(first: Ledger, second: Ledger) -> None:
    values = written(second, written(first, {}))
    assert shared.read(values) == second
    assert list(shared.differences(second, values, "n2")) == []


@pytest.mark.parametrize("left", [{}, {"": 5.0}])
def test_what_is_not_kept_is_not_written(left: dict[str, float]) -> None:
    claim = Claim("acme/a/production", 1.0, {"": "web"}, networks={"": "shop"}, left=left)
    (value,) = written(Ledger({"a.example": claim}), {}).values()
    assert msgspec.json.decode(value)["claim"]["claim"].get("left") == (left or None)


@given(LEDGERS, st.sets(HOSTS))
def test_a_store_that_has_lost_a_host_is_told_again(ledger: Ledger, lost: set[str]) -> None:
    values = written(ledger, {})
    assert not shared.missing(ledger, values)
    left = {key: value for key, value in values.items() if key.removeprefix(records.HOSTS) not in lost}
    assert shared.missing(ledger, left) == (left != values)


@given(LEDGERS, LEDGERS)
def test_two_control_nodes_come_to_the_same(one: Ledger, other: Ledger) -> None:
    values = written(one, {})
    merged = merge(other, shared.read(values))
    values = written(merged, values)
    assert merge(one, shared.read(values)) == merge(merged, shared.read(values)) == merged


def test_what_cannot_be_read_is_written_again() -> None:
    ledger = Ledger({"a.example": Claim("acme/a/production", 1.0)})
    key = records.HOSTS + "a.example"
    for spoilt in (b"", b"{}", b'{"owner":"x","claim":{"claim":7}}', b"\xff"):
        assert shared.read({key: spoilt}) == Ledger()
        assert shared.read(written(ledger, {key: spoilt})) == ledger
