"""What a network needs in the kernel, and the way there, by tables."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from plugin import naming
from plugin.kernel.dataplane import EMPTY, FILTER, SWITCH, Bridge, Dataplane, Element, Plan, Port, desired, plan, union
from plugin.model import Endpoint, Network, Protocol, PublishedPort, Subnet
from tests.samples import endpoint, network, network6

NET, NET6 = network(), network6()
BRIDGE = NET.bridge
WEB = PublishedPort(Protocol.TCP, 80, 8080)


def elements(there: Network, *endpoints: Endpoint, lost: tuple[str, ...] = ()) -> set[str]:
    """The elements as ``set key: value``, without a table: no two sets have one name."""
    made = desired(there, endpoints, uplink_mtu=1500, lost=lost).elements
    return {f"{e.set} {e.key}" + (f" : {e.value}" if e.value else "") for e in made}


def test_an_empty_network_is_a_bridge_and_two_elements() -> None:
    assert desired(NET, [], uplink_mtu=1450) == Dataplane(
        {
            BRIDGE: Bridge(
                name=BRIDGE,
                mac=naming.bridge_mac(NET.id),
                mtu=1450,
                addresses=frozenset([ipaddress.ip_interface("10.192.1.1/24")]),
            )
        },
        {},
        frozenset(
            [
                Element(FILTER, "same_network", f"{BRIDGE} . {BRIDGE}"),
                Element(FILTER, "own_gateway4", f"{BRIDGE} . 10.192.1.1"),
            ]
        ),
    )


@pytest.mark.parametrize(
    ("there", "more"),
    [
        (replace(NET, internal=True), {f"internal {BRIDGE}"}),
        (replace(NET, egress=False), {f"no_egress {BRIDGE}"}),
        (replace(NET, internal=True, egress=False), {f"internal {BRIDGE}"}),
        (NET6, {f"own_gateway6 {BRIDGE} . fd00:1::1"}),
    ],
)
def test_what_kinds_of_network_have_more(there: Network, more: set[str]) -> None:
    assert elements(there) == elements(NET) | more


def test_a_network_without_a_gateway_has_no_address() -> None:
    there = replace(NET, subnets=(Subnet("10.192.1.0/24"),))
    assert desired(there, [], uplink_mtu=1500).bridges[BRIDGE].addresses == frozenset()
    assert elements(there) == {f"same_network {BRIDGE} . {BRIDGE}"}


def test_an_endpoint_may_send_from_its_addresses_only() -> None:
    joined = endpoint(NET6, 2)
    port = naming.port_name(joined.id)
    sender = f"{port} . 02:50:00:00:00:02"
    assert elements(NET6, joined) - elements(NET6) == {
        f"own4 {port} . {0x0AC00102}",
        f"own6 {port} . 0xfd000001000000000000000000000002",
        f"own6 {port} . 0xfe80000000000000005000fffe000002",
        f"senders4 {sender} . 10.192.1.2",
        f"senders6 {sender} . fd00:1::2",
        f"senders6 {sender} . fe80::50:ff:fe00:2",
        f"senders6 {sender} . ::",
    }
    made = desired(NET6, [joined], uplink_mtu=1500).ports
    assert made == {port: Port(port, BRIDGE)}
    assert (made[port].peer, made[port].mac, made[port].peer_mtu) == (naming.peer_name(joined.id), joined.mac, 1500)


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        (WEB, {"published4 tcp . 8080 : 10.192.1.2 . 80", "published6 tcp . 8080 : fd00:1::2 . 80"}),
        (
            replace(WEB, protocol=Protocol.UDP),
            {"published4 udp . 8080 : 10.192.1.2 . 80", "published6 udp . 8080 : fd00:1::2 . 80"},
        ),
        (replace(WEB, host_address="192.0.2.1"), {"published4_at 192.0.2.1 . tcp . 8080 : 10.192.1.2 . 80"}),
        (replace(WEB, host_address="2001:db8::1"), {"published6_at 2001:db8::1 . tcp . 8080 : fd00:1::2 . 80"}),
        (replace(WEB, host_address="0.0.0.0"), {"published4 tcp . 8080 : 10.192.1.2 . 80"}),
        (replace(WEB, host_address="::"), {"published6 tcp . 8080 : fd00:1::2 . 80"}),
    ],
)
def test_where_a_published_port_is_reached(port: PublishedPort, expected: set[str]) -> None:
    there = endpoint(NET6, 2, ports=(port,))
    assert elements(NET6, there) - elements(NET6, replace(there, ports=())) == expected


@pytest.mark.parametrize(
    ("joined", "has_port", "has_elements"),
    [
        (endpoint(NET, ports=(WEB,)), True, True),
        (endpoint(NET, ports=(WEB,), left=True), True, False),
        (endpoint(NET, ports=(WEB,), sandbox=""), False, False),
    ],
)
def test_the_life_of_an_endpoint(joined: Endpoint, *, has_port: bool, has_elements: bool) -> None:
    """After Leave the link stays for the engine to take out of the container, connected to nothing."""
    made = desired(NET, [joined], uplink_mtu=1500)
    assert bool(made.ports) is has_port
    assert (elements(NET, joined) != elements(NET)) is has_elements
    assert made.bridges[BRIDGE].loopback is has_elements


def test_a_lost_endpoint_gets_nothing() -> None:
    joined = endpoint(NET, ports=(WEB,))
    assert desired(NET, [joined], uplink_mtu=1500, lost=[joined.id]) == desired(NET, [], uplink_mtu=1500)


def test_the_networks_own_mtu_comes_first() -> None:
    made = desired(replace(NET, mtu=9000), [endpoint(NET)], uplink_mtu=1500)
    assert [made.bridges[BRIDGE].mtu, *(port.peer_mtu for port in made.ports.values())] == [9000, 9000]


FULL = desired(NET6, [endpoint(NET6, 2, ports=(WEB,)), endpoint(NET6, 3)], uplink_mtu=1500)
(OLD_BRIDGE,) = FULL.bridges.values()


def test_a_plan_from_nothing_makes_everything() -> None:
    steps = plan(FULL, EMPTY)
    assert set(steps.new_bridges) == set(FULL.bridges.values())
    assert set(steps.new_ports) == set(FULL.ports.values())
    assert steps.new_elements == FULL.elements
    assert steps == Plan(new_bridges=steps.new_bridges, new_ports=steps.new_ports, new_elements=steps.new_elements)


def test_a_plan_to_nothing_removes_everything_ports_before_their_bridge() -> None:
    steps = plan(EMPTY, FULL)
    assert steps.old_links == (*FULL.ports, BRIDGE)
    assert steps.old_elements == FULL.elements
    assert steps == Plan(old_links=steps.old_links, old_elements=steps.old_elements)


@pytest.mark.parametrize("steps", [plan(FULL, FULL), plan(EMPTY, EMPTY), Plan()])
def test_where_all_is_well_there_is_nothing_to_do(steps: Plan) -> None:
    assert not steps


def test_a_bridge_is_changed_in_place() -> None:
    wider = replace(OLD_BRIDGE, mtu=9000)
    steps = plan(replace(FULL, bridges={BRIDGE: wider}), FULL)
    assert steps == Plan(changed_bridges=((OLD_BRIDGE, wider),))


def test_a_port_that_left_its_bridge_goes_back() -> None:
    name, port = next(iter(FULL.ports.items()))
    strayed = {**FULL.ports, name: replace(port, bridge="")}
    assert plan(FULL, replace(FULL, ports=strayed)) == Plan(changed_ports=(port,))


def test_what_an_observation_cannot_see_of_a_port_is_no_difference() -> None:
    blind = {name: Port(port.name, port.bridge, port.mtu) for name, port in FULL.ports.items()}
    assert not plan(FULL, replace(FULL, ports=blind))


def test_an_element_of_a_map_that_changed_its_value_is_replaced() -> None:
    before, after = (Element(FILTER, "published4", "tcp . 80", f"10.0.0.{n} . 80") for n in (2, 3))
    steps = plan(Dataplane(elements=frozenset([after])), Dataplane(elements=frozenset([before])))
    assert steps == Plan(new_elements=frozenset([after]), old_elements=frozenset([before]))


def test_union_has_all_parts() -> None:
    other = desired(network(2), [endpoint(network(2))], uplink_mtu=1500)
    whole = union([FULL, other])
    assert whole.bridges.keys() == {BRIDGE, network(2).bridge}
    assert whole.ports == {**FULL.ports, **other.ports}
    assert whole.elements == FULL.elements | other.elements
    assert union([]) == EMPTY


def test_links_have_two_tables_between_them() -> None:
    assert {element.table for element in FULL.elements} == {FILTER, SWITCH}
