"""Which servers the host asks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from plugin.naming import RESOLVER, RESOLVER6
from plugin.resolver.hostservers import AGAIN, RUNTIME_FILES, HostServers, servers_of


@pytest.mark.replay("S12")
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("nameserver 192.0.2.1\nnameserver 2001:db8::1\n", ["192.0.2.1", "2001:db8::1"]),
        ("  nameserver\t192.0.2.1 # ours", ["192.0.2.1"]),
        ("nameserver fe80::1%eth0", ["fe80::1%eth0"]),
        ("nameserver 192.0.2.1\nnameserver 192.0.2.1\n", ["192.0.2.1"]),
        (f"nameserver {RESOLVER}\nnameserver 192.0.2.2", ["192.0.2.2"]),
        (f"nameserver {RESOLVER6}\nnameserver 192.0.2.2", ["192.0.2.2"]),
        ("#nameserver 192.0.2.1\n;nameserver 192.0.2.2\nnameserver\nnameserver dns.example.org\nsearch a b", []),
    ],
)
def test_resolv_conf(text: str, found: list[str]) -> None:
    assert servers_of(text) == found


class Host:
    def __init__(self, root: Path) -> None:
        self.run, self.resolv_conf, self.now = root / "run", root / "resolv.conf", 1000.0
        self.servers = HostServers(self.run, self.resolv_conf, clock=lambda: self.now)

    def write(self, path: Path, *servers: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"nameserver {server}\n" for server in servers))

    def later(self) -> list[str]:
        self.now += AGAIN
        return self.servers()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_no_file(host: Host) -> None:
    assert host.servers() == []


def test_an_operators_choice(tmp_path: Path) -> None:
    assert HostServers(tmp_path, tmp_path / "none", fixed=("192.0.2.9",))() == ["192.0.2.9"]


def test_the_hosts_own_file_first(host: Host) -> None:
    host.write(host.resolv_conf, "192.0.2.1")
    host.write(host.run / RUNTIME_FILES[0], "192.0.2.2")
    assert host.servers() == ["192.0.2.1"]


@pytest.mark.parametrize("name", RUNTIME_FILES)
def test_the_real_servers_behind_a_stub(host: Host, name: str) -> None:
    host.write(host.resolv_conf, "127.0.0.53")
    assert host.servers() == ["127.0.0.53"]
    host.write(host.run / name, "192.0.2.2", "192.0.2.3")
    assert host.later() == ["192.0.2.2", "192.0.2.3"]


def test_another_server_on_loopback_is_no_stub(host: Host) -> None:
    host.write(host.resolv_conf, "127.0.0.1")
    host.write(host.run / RUNTIME_FILES[0], "192.0.2.2")
    assert host.servers() == ["127.0.0.1"]


def test_only_ours_is_none(host: Host) -> None:
    host.write(host.resolv_conf, RESOLVER)
    host.write(host.run / RUNTIME_FILES[0], "192.0.2.2")
    assert host.servers() == ["192.0.2.2"]


def test_a_change_is_seen_at_the_next_look(host: Host) -> None:
    host.write(host.resolv_conf, "192.0.2.1")
    assert host.servers() == ["192.0.2.1"]
    host.write(host.resolv_conf, "192.0.2.2", "192.0.2.3")
    assert host.servers() == ["192.0.2.1"]  # not looked again yet
    assert host.later() == ["192.0.2.2", "192.0.2.3"]
    beside = host.resolv_conf.with_name("new")
    host.write(beside, "192.0.2.4")
    beside.rename(host.resolv_conf)
    assert host.later() == ["192.0.2.4"]
    host.resolv_conf.unlink()
    assert host.later() == []
    host.resolv_conf.write_bytes(b"nameserver 192.0.2.1\xff\n")
    assert host.later() == []


def test_a_mounted_file_that_was_replaced(host: Host) -> None:
    """A mount of one file keeps the old one when it is replaced; then that has no name, and others are believed."""
    host.write(host.resolv_conf, "192.0.2.1")
    with host.resolv_conf.open() as held:
        mounted = HostServers(host.run, Path(f"/proc/self/fd/{held.fileno()}"), clock=lambda: host.now)
        assert mounted() == ["192.0.2.1"]
        os.unlink(host.resolv_conf)
        host.now += AGAIN
        assert mounted() == ["192.0.2.1"]  # better than none
        host.write(host.run / RUNTIME_FILES[1], "192.0.2.2")
        host.now += AGAIN
        assert mounted() == ["192.0.2.2"]
