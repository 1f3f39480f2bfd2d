"""What a node keeps of its cluster."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugin.model import ip_network
from plugin.store.membership import Membership, Memory
from stackpad import records
from stackpad.errors import Unavailable

MINE = Membership(
    node="n1",
    name="worker-1",
    cluster=records.Cluster(
        owner="n0", id="c", range4="10.192.0.0/10", range6="fd00::/48", block_prefix=18, network_prefix=26
    ),
    secret="AAAA",  # noqa: S106 - of a test
    mesh4="10.192.64.1",
    mesh6="fd00:0:0:100::1",
    ranges=(
        records.Range(owner="n1", net="10.192.64.0/18", block=True),
        records.Range(owner="n1", net="172.30.0.0/24", network="x", freed=1.0),
    ),
)


def test_a_membership_is_the_same_again(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    assert memory.load() is None
    memory.save(MINE)
    assert Memory(tmp_path).load() == MINE
    assert MINE.held() == [ip_network("10.192.64.0/18")]


def test_who_leaves_keeps_its_former_id_only(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    assert not memory.former()
    memory.save(MINE)
    memory.save_view({"a": b"b"})
    memory.save(None)
    assert (memory.load(), memory.load_view(), memory.former()) == (None, {}, "n1")
    assert [path.name for path in tmp_path.iterdir()] == ["former"]


def test_a_disk_that_does_not_let_go_of_it_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "view.json").mkdir()
    with pytest.raises(Unavailable, match=r"view\.json cannot be removed: .*; repair the disk or make it writable"):
        Memory(tmp_path).save(None)


@settings(deadline=None)  # it writes to a disk
@given(st.dictionaries(st.text(), st.binary()))
def test_the_view_is_the_same_again_whatever_is_in_it(raw: dict[str, bytes]) -> None:
    """Not every value in the store is one of our records: older nodes write a bare id as the lock of the ranges."""
    with tempfile.TemporaryDirectory() as directory:
        memory = Memory(Path(directory))
        memory.save_view(raw)
        assert memory.load_view() == raw


@pytest.mark.parametrize("damage", [b"", b"{", b'{"a": 1}', b"\xff", b'{"a": "?"}'])
def test_damage_is_told_and_the_view_can_be_done_without(tmp_path: Path, damage: bytes) -> None:
    for name in ("membership.json", "view.json"):
        (tmp_path / name).write_bytes(damage)
    memory = Memory(tmp_path)
    assert memory.load_view() == {}
    with pytest.raises(Unavailable, match=r"membership\.json cannot be read"):
        memory.load()


@pytest.mark.parametrize(
    "changes",
    [
        {"mesh4": "ten"},
        {"secret": "***"},
        {"node": "a/b"},
        {"ranges": [{"owner": "n1", "net": "everything"}]},
        {"gateway": {"owner": "n2", "name": "g", "public_keys": ["short"]}},
    ],
)
def test_text_that_is_not_what_it_should_be_is_damage_too(tmp_path: Path, changes: dict[str, object]) -> None:
    (tmp_path / "membership.json").write_bytes(msgspec.json.encode({**msgspec.to_builtins(MINE), **changes}))
    with pytest.raises(Unavailable, match="cannot be read"):
        Memory(tmp_path).load()
