"""What is claimed for a node, and for which of its networks."""

from __future__ import annotations

import pytest

from plugin.cluster.claims import named
from plugin.model import Subnet
from stackpad import records
from tests.samples import network, network_id

BLOCK = {"net": "10.192.64.0/18", "block": True}
CLAIMED = {"net": "172.30.0.0/24"}
OTHER = {"net": "172.31.0.0/24"}


@pytest.mark.parametrize(
    ("claimed", "becomes"),
    [
        pytest.param(BLOCK, BLOCK, id="a block is no network's"),
        pytest.param(CLAIMED, CLAIMED | {"network": network_id(1)}, id="a range has its network's id"),
        pytest.param(
            {"net": "172.31.0.0/24"}, {"net": "172.31.0.0/24", "freed": 7.0}, id="its network has gone meanwhile"
        ),
        pytest.param({"net": "fd00::/64"}, {"net": "fd00::/64", "network": network_id(1)}, id="IPv6"),
    ],
)
def test_what_was_claimed_at_a_join_is_given_back_with_its_network(
    claimed: dict[str, object], becomes: dict[str, object]
) -> None:
    there = network(1, subnets=(Subnet("172.30.0.0/24"), Subnet("fd00::/64")))
    (found,) = named([records.Range(owner="n", **claimed)], [there], 7.0)  # type: ignore[arg-type]
    assert found == records.Range(owner="n", **becomes)  # type: ignore[arg-type]
