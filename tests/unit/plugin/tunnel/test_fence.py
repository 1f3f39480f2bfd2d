"""What stays closed after a node has left."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugin.model import ip_network
from plugin.tunnel.fence import Fence

RANGES = {ip_network("10.192.0.0/10"), ip_network("fd00::/48")}


def test_ranges_stay_closed_until_the_last_network_of_the_time_is_gone(tmp_path: Path) -> None:
    fence = Fence(tmp_path)
    assert not fence.closed(["a", "b"])
    fence.keep(RANGES, ["a", "b"])
    assert fence.closed(["a", "b", "new"]) == RANGES
    assert fence.closed(["b", "new"]) == RANGES
    again = Fence(tmp_path)
    assert again.closed(["b", "new"]) == RANGES, "also after a restart"
    assert not again.closed(["new"])
    assert not again.closed(["b", "new"]), "another network, though it be called the same"
    assert not Fence(tmp_path).closed(["b"])
    assert not list(tmp_path.iterdir())


def test_a_node_without_networks_has_nothing_to_keep(tmp_path: Path) -> None:
    fence = Fence(tmp_path)
    fence.keep(RANGES, [])
    assert not fence.closed([])
    assert not list(tmp_path.iterdir())


def test_two_clusters_one_after_the_other(tmp_path: Path) -> None:
    fence, other = Fence(tmp_path), {ip_network("10.64.0.0/10")}
    fence.keep(RANGES, ["a"])
    fence.keep(other, ["a", "b"])
    assert fence.closed(["a", "b"]) == RANGES | other


@pytest.mark.parametrize("text", ["[", '{"ranges": ["nothing"], "networks": ["a"]}'])
def test_a_damaged_file_is_no_reason_to_stop(tmp_path: Path, text: str) -> None:
    (tmp_path / "fence.json").write_text(text)
    assert not Fence(tmp_path).closed(["a"])
