"""Published ports held by real sockets, in a network namespace where every port is free to begin with."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from plugin.docker import protocol
from plugin.docker.options import PortRequest, port_requests
from plugin.docker.ports import CHOSEN, PortReservations
from plugin.model import Endpoint, Protocol, PublishedPort
from stackpad.errors import Conflict, InvalidRequest
from tests.samples import binding, endpoint, network, network6

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("netns")]

FOUR, OTHER, SIX = endpoint(network(), 2), endpoint(network(), 3), endpoint(network6(), 4)


def asked(*bindings: dict[str, Any]) -> tuple[PortRequest, ...]:
    return port_requests({protocol.PORT_MAP: list(bindings)})


@pytest.fixture
def ports() -> Iterator[PortReservations]:
    reservations = PortReservations()
    yield reservations
    for endpoint_id in list(reservations.held):
        reservations.release(endpoint_id)


def is_free(host: str, number: int, kind: int = socket.SOCK_STREAM) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as probe:
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            probe.bind((host, number))
        except OSError:
            return False
        return True


def server(host: str, number: int) -> socket.socket:
    return socket.create_server((host, number), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def test_a_port_is_held_until_it_is_given_back(ports: PortReservations) -> None:
    held = ports.reserve(FOUR, asked(binding(80, 8080)))
    assert held == (PublishedPort(Protocol.TCP, 80, 8080),)
    assert ports.held == {FOUR.id: held}
    assert not is_free("127.0.0.1", 8080)
    assert is_free("127.0.0.1", 8080, socket.SOCK_DGRAM)
    ports.release(FOUR.id)
    assert is_free("127.0.0.1", 8080)
    assert ports.held == {}


def test_giving_back_twice_is_giving_back_once(ports: PortReservations) -> None:
    ports.release("nobody")
    ports.reserve(FOUR, asked(binding(80, 8080)))
    ports.release(FOUR.id)
    ports.release(FOUR.id)
    assert is_free("0.0.0.0", 8080)


@pytest.mark.parametrize(
    ("there", "address", "taken", "free"),
    [
        (FOUR, "", ["0.0.0.0"], ["::"]),
        (SIX, "", ["0.0.0.0", "::"], []),
        (SIX, "127.0.0.1", ["127.0.0.1"], ["127.0.0.2", "::"]),
        (SIX, "0.0.0.0", ["127.0.0.1"], ["::"]),
        (SIX, "::", ["::1"], ["0.0.0.0"]),
    ],
)
def test_families_and_host_addresses(
    ports: PortReservations, there: Endpoint, address: str, taken: list[str], free: list[str]
) -> None:
    ports.reserve(there, asked(binding(80, 8080, address=address)))
    assert [host for host in (*taken, *free) if not is_free(host, 8080)] == taken


def test_a_taken_port_says_where_the_other_container_is_named(ports: PortReservations) -> None:
    ports.reserve(FOUR, asked(binding(80, 8080)))
    with pytest.raises(Conflict, match=r"port 8080/tcp of this node is taken by another container \(stackpad ports"):
        ports.reserve(OTHER, asked(binding(80, 8080)))
    assert OTHER.id not in ports.held


def test_a_taken_port_names_the_other_container_where_it_is_known(ports: PortReservations) -> None:
    ports.container_of = lambda endpoint: {FOUR.id: "web", OTHER.id: "late"}.get(endpoint, "")
    ports.reserve(FOUR, asked(binding(80, 8080)))
    with pytest.raises(Conflict, match="port 8080/tcp of this node is taken by container web; publish another"):
        ports.reserve(OTHER, asked(binding(80, 8080)))


@pytest.mark.parametrize(
    ("held", "wanted", "who"),
    [
        ("127.0.0.2", "127.0.0.2", "container web"),
        ("0.0.0.0", "127.0.0.2", "container web"),
        ("127.0.0.3", "127.0.0.2", "another program"),
        ("::", "127.0.0.2", "another program"),
    ],
)
def test_a_taken_port_accuses_nobody_who_has_it_elsewhere(
    ports: PortReservations, held: str, wanted: str, who: str
) -> None:
    ports.container_of = lambda _: "web"
    ports.reserve(SIX, asked(binding(80, 8080, address=held)))
    with contextlib.ExitStack() as stack:
        if who == "another program":
            stack.enter_context(closing(server(wanted, 8080)))
        with pytest.raises(Conflict, match=f"taken by {who}"):
            ports.reserve(OTHER, asked(binding(80, 8080, address=wanted)))


def test_a_taken_port_may_be_another_programs(ports: PortReservations) -> None:
    with closing(server("127.0.0.1", 8080)), pytest.raises(Conflict, match="taken by another program"):
        ports.reserve(FOUR, asked(binding(80, 8080)))


@pytest.mark.parametrize("family", ["0.0.0.0", "::"])
def test_a_port_must_be_free_in_both_families(ports: PortReservations, family: str) -> None:
    with closing(server(family, 8080)), pytest.raises(Conflict, match="8080"):
        ports.reserve(SIX, asked(binding(80, 8080)))
    assert is_free("0.0.0.0", 8080)
    assert is_free("::", 8080)


def test_all_or_nothing(ports: PortReservations) -> None:
    with closing(server("127.0.0.1", 8081)), pytest.raises(Conflict, match="8081"):
        ports.reserve(FOUR, asked(binding(80, 8080), binding(81, 8081)))
    assert is_free("0.0.0.0", 8080)
    assert ports.held == {}


def test_what_is_reserved_anew_replaces_what_was(ports: PortReservations) -> None:
    ports.reserve(FOUR, asked(binding(80, 8080), binding(80, 8081)))
    assert ports.reserve(FOUR, asked(binding(80, 8080))) == (PublishedPort(Protocol.TCP, 80, 8080),)
    assert is_free("0.0.0.0", 8081)


def test_one_container_may_not_have_one_port_twice(ports: PortReservations) -> None:
    with pytest.raises(Conflict, match=r"8080/tcp"):
        ports.reserve(FOUR, asked(binding(80, 8080), binding(81, 8080)))


def test_tcp_and_udp_are_two_ports(ports: PortReservations) -> None:
    assert len(ports.reserve(FOUR, asked(binding(53, 53), binding(53, 53, proto=17)))) == 2


def test_of_a_range_the_first_free_one(ports: PortReservations) -> None:
    with closing(server("0.0.0.0", 8000)):
        (held,) = ports.reserve(FOUR, asked(binding(80, 8000, end=8002)))
    assert held.host_port == 8001
    (other,) = ports.reserve(OTHER, asked(binding(80, 8001, end=8002)))
    assert other.host_port == 8002


def test_of_a_range_without_a_free_one(ports: PortReservations) -> None:
    ports.reserve(FOUR, asked(binding(80, 8000), binding(80, 8001)))
    with pytest.raises(Conflict, match=r"all ports 8000-8001/tcp of this node are taken, one by another container"):
        ports.reserve(OTHER, asked(binding(80, 8000, end=8001)))


@pytest.mark.parametrize("there", [FOUR, SIX])
def test_a_random_port_is_one_that_is_free(ports: PortReservations, there: Endpoint) -> None:
    (held,) = ports.reserve(there, asked(binding(80)))
    assert held.host_port in CHOSEN
    assert [host for host in ("0.0.0.0", "::") if not is_free(host, held.host_port)] == ["0.0.0.0", "::"][
        : len(there.addresses)
    ]


@pytest.mark.parametrize(
    ("there", "address", "said"),
    [
        (FOUR, "192.0.2.1", "is not an address of this node"),
        (FOUR, "::", "no IPv6 address on this network; create the network with --ipv6"),
        (FOUR, "2001:db8::1", "no IPv6 address"),
    ],
)
def test_host_addresses_that_cannot_be_served(ports: PortReservations, there: Endpoint, address: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        ports.reserve(there, asked(binding(80, 8080, address=address)))


def test_connections_in_time_wait_are_no_claim(ports: PortReservations) -> None:
    """A server that was here a moment ago, and closed first, leaves its port in a state that plain bind() refuses."""
    with closing(server("127.0.0.1", 8080)) as listening, socket.create_connection(("127.0.0.1", 8080)) as client:
        served, _ = listening.accept()
        served.close()
        assert client.recv(1) == b""
    assert not is_free("127.0.0.1", 8080)
    assert ports.reserve(FOUR, asked(binding(80, 8080)))
    with pytest.raises(OSError, match="in use"):
        server("127.0.0.1", 8080)


def test_after_a_restart_ports_are_held_again(ports: PortReservations) -> None:
    before = endpoint(network(), 2, ports=(PublishedPort(Protocol.TCP, 80, 8080), PublishedPort(Protocol.UDP, 80, 8080)))
    assert ports.restore(before) == []
    assert ports.held == {before.id: before.ports}
    assert not is_free("0.0.0.0", 8080)
    assert not is_free("0.0.0.0", 8080, socket.SOCK_DGRAM)


def test_after_a_restart_a_port_that_was_lost_is_told_and_the_others_held(ports: PortReservations) -> None:
    before = endpoint(network(), 2, ports=(PublishedPort(Protocol.TCP, 80, 8080), PublishedPort(Protocol.TCP, 80, 8081)))
    with closing(server("0.0.0.0", 8080)):
        (problem,) = ports.restore(before)
    assert problem.startswith(f"*:8080->80/tcp of endpoint {before.id[:12]}: ")
    assert ports.held == {before.id: before.ports}
    assert not is_free("0.0.0.0", 8081)
