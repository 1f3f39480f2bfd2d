"""The plugin's environment: every setting has a default, and a bad one is named."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from plugin.settings import Settings
from stackpad.errors import InvalidRequest


@pytest.mark.parametrize(
    "environment", [{}, {"RANGE": "", "RANGE6": " ", "LOG_LEVEL": "", "BLOCK_PREFIX": "", "HOST_RUN": ""}]
)
def test_nothing_set_is_the_default(environment: dict[str, str]) -> None:
    assert Settings.load(environment) == Settings()


def test_everything_set() -> None:
    made = Settings.load(
        {
            "LOG_LEVEL": "DEBUG",
            "RANGE": "172.30.0.0/16",
            "RANGE6": "fd12:3456:789a::/48",
            "BLOCK_PREFIX": "20",
            "NETWORK_PREFIX": "24",
            "NETWORK_RANGES": "203.0.113.0/24, 2001:db8::/48",
            "HOST_RUN": "/run",
            "HOST_PROC": "/proc",
            "HOST_LIB": "/var/lib",
        }
    )
    assert made == Settings(
        log_level="debug",
        range4=ipaddress.IPv4Network("172.30.0.0/16"),
        range6=ipaddress.IPv6Network("fd12:3456:789a::/48"),
        block_prefix=20,
        network_prefix=24,
        network_ranges=(ipaddress.IPv4Network("203.0.113.0/24"), ipaddress.IPv6Network("2001:db8::/48")),
        host_run=Path("/run"),
        host_proc=Path("/proc"),
        host_lib=Path("/var/lib"),
    )
    assert made.state_file == Path("/var/lib/stackpad/net.db")
    assert made.admin_socket == Path("/run/stackpad/net.sock")
    assert made.engine == "unix:///run/docker.sock"


@pytest.mark.parametrize(
    ("given", "block", "network"),
    [("10.0.0.0/8", 18, 26), ("10.0.0.0/20", 20, 26), ("10.0.0.0/28", 28, 28), ("10.0.0.0/30", 30, 30)],
)
def test_a_small_range_has_small_blocks_and_networks(given: str, block: int, network: int) -> None:
    made = Settings.load({"RANGE": given})
    assert (made.block_prefix, made.network_prefix) == (block, network)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"NETWORK_RANGES": "203.0.113.0"}, "NETWORK_RANGES='203.0.113.0' cannot be used: 203.0.113.0/32 is no size"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL=loud is unknown; use one of debug, info"),
        ({"RANGE": "ten"}, "RANGE='ten' is not an address range"),
        ({"RANGE": "10.0.0.1/8"}, "RANGE='10.0.0.1/8' is not an address range"),
        ({"RANGE": "fd00::/48"}, "RANGE=fd00::/48 is an IPv6 range"),
        ({"RANGE": "10.0.0.0/31"}, "RANGE=10.0.0.0/31"),
        ({"RANGE": "127.0.0.0/8"}, "RANGE=127.0.0.0/8"),
        ({"RANGE6": "10.0.0.0/8"}, "RANGE6=10.0.0.0/8 is an IPv4 range"),
        ({"RANGE6": "fd00::/65"}, "RANGE6=fd00::/65 has no room"),
        ({"RANGE6": "fe80::/10"}, "RANGE6=fe80::/10"),
        ({"BLOCK_PREFIX": "9"}, "BLOCK_PREFIX='9' is not a prefix length between 10 and 30"),
        ({"BLOCK_PREFIX": "31"}, "BLOCK_PREFIX='31'"),
        ({"BLOCK_PREFIX": "²"}, "BLOCK_PREFIX='²'"),
        ({"NETWORK_PREFIX": "17"}, "NETWORK_PREFIX='17' is not a prefix length between 18 and 30"),
        ({"NETWORK_PREFIX": "x"}, "NETWORK_PREFIX='x'"),
    ],
)
def test_a_bad_setting_is_named(environment: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        Settings.load(environment)
    assert said in str(refusal.value)
