"""Names fit the kernel, differ where ids differ, and never change between two lives of the plugin."""

from __future__ import annotations

import ipaddress

import pytest

from plugin import naming
from tests.samples import network_id

SWARM_ID = "q8hkqr3wlbmbw2pdpz8eq6yt1"


@pytest.mark.parametrize("name", [naming.bridge_name, naming.port_name, naming.peer_name])
@pytest.mark.parametrize("identifier", [network_id(1), SWARM_ID, "x", "Ω" * 300, "\ud800"])
def test_names_fit_the_kernel(name: object, identifier: str) -> None:
    made = name(identifier)  # type: ignore[operator]
    assert len(made.encode()) <= 15
    assert naming.is_ours(made)


def test_an_id_of_dockers_can_be_recognised() -> None:
    assert naming.bridge_name("0123456789ab" + "c" * 52) == "sp-0123456789ab"


@pytest.mark.parametrize(
    "identifier",
    [SWARM_ID, "0123456789ab" + "c" * 51, "0123456789AB" + "C" * 52, "0123456789ab" + "c" * 52 + "\n"],
)
def test_another_id_is_hashed(identifier: str) -> None:
    """Two Swarm ids may begin alike, so no prefix of one will do."""
    assert naming.digits(identifier) != identifier[:12]
    assert naming.digits(identifier) != naming.digits(identifier + "x")


def test_the_two_ends_of_a_pair_have_two_names() -> None:
    assert naming.port_name("e") != naming.peer_name("e")


@pytest.mark.parametrize(
    "mac",
    [
        naming.bridge_mac(network_id(1)),
        naming.endpoint_mac("n", ipaddress.IPv4Address("10.192.1.2"), None),
        naming.endpoint_mac("n", None, ipaddress.IPv6Address("fd00::2")),
        naming.endpoint_mac("n", None, None),
    ],
)
def test_macs_are_local_and_of_one_station(mac: str) -> None:
    assert len(mac.split(":")) == 6
    assert int(mac[:2], 16) & 3 == 2


def test_a_mac_follows_from_the_address() -> None:
    four, six = ipaddress.IPv4Address("10.192.1.2"), ipaddress.IPv6Address("fd00::2")
    assert naming.endpoint_mac("n", four, None) == "02:50:0a:c0:01:02"
    assert naming.endpoint_mac("n", four, six) == naming.endpoint_mac("m", four, None)
    assert naming.endpoint_mac("n", None, six) != naming.endpoint_mac("n", None, six + 1)


def test_a_link_local_address_is_what_the_kernel_makes_of_the_mac() -> None:
    assert naming.link_local("02:50:0a:c0:01:02") == ipaddress.IPv6Address("fe80::50:aff:fec0:102")


@pytest.mark.parametrize(
    ("interface", "ours"),
    [("sp-0123", True), ("spv0123", True), ("spc0123", True), ("spare0", False), ("eth0", False), ("", False)],
)
def test_only_our_prefixes_are_ours(interface: str, *, ours: bool) -> None:
    assert naming.is_ours(interface) is ours
