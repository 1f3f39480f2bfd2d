"""What is added to Docker's configuration, and what of it is left as it was."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackpad.cli import daemonjson
from stackpad.errors import InvalidRequest

RANGES = ["10.192.0.0/10", "fd00:1::/48"]
POOLS: list[dict[str, object]] = [{"base": "10.192.0.64/26", "size": 26}, {"base": "fd00:1:0:1::/64", "size": 64}]
OURS = ["169.254.53.53", "fd9c:5acd:5353::53"]


def merged(current: dict[str, Any], **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"ranges": RANGES, "bridge": "172.17.0.1/16", "servers": ["192.0.2.53"]}
    return daemonjson.merged(current, POOLS, **{**values, **changes})


def test_an_empty_one() -> None:
    assert merged({}) == {"default-address-pools": POOLS, "bip": "172.17.0.1/16", "dns": [*OURS, "192.0.2.53"]}


def test_what_is_there_stays_and_ours_comes_first() -> None:
    theirs = {"base": "192.168.0.0/16", "size": 24}
    older = {"base": "10.200.0.0/18", "size": 26}
    current = {"log-level": "warn", "default-address-pools": [older, theirs], "bip": "10.9.0.1/24", "dns": ["192.0.2.1"]}
    made = merged(current)
    assert made["default-address-pools"] == [*POOLS, theirs]
    assert (made["bip"], made["log-level"], made["dns"]) == ("10.9.0.1/24", "warn", [*OURS, "192.0.2.1"])
    assert current["dns"] == ["192.0.2.1"], "what was read is not changed"


@pytest.mark.parametrize("current", [{"bridge": "none"}, {"bridge": "br0"}])
def test_a_bridge_of_the_operators_has_no_bip(current: dict[str, Any]) -> None:
    assert "bip" not in merged(current)


JSON = st.dictionaries(
    st.sampled_from(["log-level", "dns", "bip", "hosts", "labels"]), st.lists(st.ip_addresses().map(str))
)


@given(JSON)
def test_twice_is_once_and_undone_is_without_ours(current: dict[str, Any]) -> None:
    once = merged(current)
    assert merged(once) == once
    undone = daemonjson.without(once, RANGES)
    assert not {*OURS} & {*undone.get("dns", [])}
    assert "default-address-pools" not in undone
    assert {key: value for key, value in undone.items() if key not in {"dns", "bip"}} == {
        key: value for key, value in current.items() if key not in {"dns", "bip"}
    }


def test_it_is_written_as_a_whole_with_a_backup(tmp_path: Path) -> None:
    path = tmp_path / "docker" / "daemon.json"
    assert daemonjson.write(path, "{}\n") is None
    path.chmod(0o600)
    backup = daemonjson.write(path, '{"dns": []}\n')
    assert backup is not None
    assert backup.read_text() == "{}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert daemonjson.read(path) == ('{"dns": []}\n', {"dns": []})
    assert sorted(file.name for file in path.parent.iterdir()) == sorted([path.name, backup.name])


@pytest.mark.parametrize("text", ["{", "[]", "nonsense"])
def test_a_damaged_file_is_named_and_left(tmp_path: Path, text: str) -> None:
    path = tmp_path / "daemon.json"
    path.write_text(text)
    with pytest.raises(InvalidRequest, match=r"daemon\.json.*mend it first"):
        daemonjson.read(path)
    assert path.read_text() == text


def test_the_difference_is_that_of_the_files() -> None:
    before, after = "{}\n", daemonjson.text_of(merged({}))
    shown = daemonjson.difference(before, after, Path("/etc/docker/daemon.json"))
    assert [line for line in shown if line.startswith("-{")] == ["-{}"]
    assert json.loads(after) == merged({})


def test_servers_a_container_can_ask() -> None:
    servers = ("127.0.0.53", "192.0.2.1", "::1", *OURS, "y")
    text = "# by hand\nsearch x\n" + "".join(f"nameserver {server}\n" for server in servers)
    assert daemonjson.servers_of(text) == ["192.0.2.1"]


@pytest.mark.parametrize(
    ("servers", "asked"),
    [
        (["192.0.2.53", "192.0.2.54"], ["192.0.2.53"]),
        (["2001:db8::53", "192.0.2.53"], ["192.0.2.53"]),
        (["2001:db8::53"], ["2001:db8::53"]),
        ([], []),
    ],
)
def test_one_server_of_others_is_asked_and_containers_without_ipv6_reach_it(servers: list[str], asked: list[str]) -> None:
    made = merged({}, servers=servers)
    assert daemonjson.upstreams(made) == asked
    assert sorted(made["dns"]) == sorted([*OURS, *servers])
    assert daemonjson.upstreams(merged({"dns": servers}, servers=[])) == asked


def test_what_somebody_chooses_takes_the_place_of_what_is_there() -> None:
    current = merged({"dns": ["192.0.2.1"]})
    assert merged(current, servers=["192.0.2.2"])["dns"] == [*OURS, "192.0.2.1"]
    assert merged(current, servers=["192.0.2.2"], chosen=True)["dns"] == [*OURS, "192.0.2.2"]


@pytest.mark.parametrize(
    ("version", "does"), [("20.10.24+dfsg1", False), ("26.1", False), ("27.0.1", True), ("x", False)]
)
def test_engines_that_choose_ipv6_ranges(version: str, does: bool) -> None:
    assert daemonjson.chooses_ipv6(version) is does
