"""Laws of the pure parts: allocation, and the way from what is there to what should be."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from itertools import combinations

from hypothesis import assume, given
from hypothesis import strategies as st

from plugin import naming
from plugin.kernel.dataplane import EMPTY, Dataplane, Plan, desired, plan, union
from plugin.kernel.foreign import RULES, mend
from plugin.model import Endpoint, IPAddress, IPNet, Network, Protocol, PublishedPort
from plugin.ranges import addresses
from stackpad.errors import Exhausted, InvalidRequest
from tests import samples
from tests.unit.plugin.kernel.test_foreign import played

BLOCK = ipaddress.ip_network("10.192.0.0/22")


def nets(block: IPNet, shortest: int = 0) -> st.SearchStrategy[IPNet]:
    """Ranges inside ``block``, and, for small prefixes, around it."""
    lengths = st.integers(shortest or block.prefixlen - 2, block.max_prefixlen)
    numbers = st.integers(int(block.network_address), int(block.broadcast_address))
    return st.builds(
        lambda number, length: ipaddress.ip_network((number, length), strict=False),
        numbers,
        lengths,
    )


@given(st.lists(nets(BLOCK, 24), max_size=8), st.integers(24, 28), nets(BLOCK, 24) | st.none())
def test_a_carved_range_is_free_and_in_its_block(taken: list[IPNet], prefix: int, after: IPNet | None) -> None:
    free = [net for net in BLOCK.subnets(new_prefix=prefix) if not any(net.overlaps(other) for other in taken)]
    try:
        found = addresses.carve(BLOCK.subnets(new_prefix=23), prefix, taken, after)
    except Exhausted:
        assert free == []
    else:
        assert found in free


@given(st.integers(1, 40))
def test_carved_ranges_never_overlap_until_all_are_given(count: int) -> None:
    given_out: list[IPNet] = []
    last: IPNet | None = None
    for _ in range(count):
        try:
            last = addresses.carve((BLOCK,), 27, given_out, last)
        except Exhausted:
            assert len(given_out) == 32
            break
        given_out.append(last)
    assert not any(a.overlaps(b) for a, b in combinations(given_out, 2))


@given(
    st.sampled_from(["10.5.0.0/28", "10.5.0.0/30", "fd00::/124", "fd00::/126"]).map(ipaddress.ip_network),
    st.data(),
)
def test_allocation_gives_each_host_address_once_and_no_other(pool: IPNet, data: st.DataObject) -> None:
    within = data.draw(nets(pool, pool.prefixlen))
    everything: list[IPAddress] = list(pool)
    taken = set(data.draw(st.lists(st.sampled_from(everything), max_size=4)))
    after = data.draw(st.none() | st.sampled_from(everything))
    hosts = {ip for ip in everything if ip in within and ip != pool.network_address}
    if pool.version == 4:
        hosts -= {pool.broadcast_address}
    expected = hosts - taken
    found = []
    while True:
        try:
            after = addresses.allocate(pool, within, taken, after)
        except Exhausted:
            break
        addresses.check_host(pool, after)
        found.append(after)
        taken.add(after)
    assert sorted(found) == sorted(expected)


@given(st.sampled_from(["10.5.0.0/29", "fd00::/125"]).map(ipaddress.ip_network), st.integers(-3, 12))
def test_what_is_refused_is_what_is_never_given(pool: IPNet, offset: int) -> None:
    address = pool.network_address + offset if offset >= 0 else pool.network_address - -offset
    given_out: list[IPAddress] = []
    while len(given_out) < 20:
        try:
            given_out.append(addresses.allocate(pool, pool, given_out))
        except Exhausted:
            break
    try:
        addresses.check_host(pool, address)
    except InvalidRequest:
        assert address not in given_out
    else:
        assert address in given_out


PORTS = st.builds(
    PublishedPort,
    st.sampled_from(Protocol),
    st.integers(1, 65535),
    st.integers(1, 65535),
    st.none() | st.sampled_from(["127.0.0.1", "0.0.0.0", "::", "2001:db8::1"]),
)


@st.composite
def networks(draw: st.DrawFn, number: int) -> tuple[Network, list[Endpoint]]:
    """A network and its endpoints, in all stages of their lives."""
    make = draw(st.sampled_from([samples.network, samples.network6]))
    mtu, internal, egress = draw(st.tuples(st.sampled_from([0, 1400]), st.booleans(), st.booleans()))
    there = make(number, mtu=mtu, internal=internal, egress=egress)
    endpoints = [
        samples.endpoint(
            there,
            at,
            ports=tuple(draw(st.lists(PORTS, max_size=2))),
            left=draw(st.booleans()),
            sandbox=draw(st.sampled_from(["", "/run/netns/x"])),
        )
        for at in draw(st.lists(st.integers(2, 6), unique=True, max_size=3))
    ]
    return there, endpoints


@st.composite
def dataplanes(draw: st.DrawFn) -> Dataplane:
    """What several networks need."""
    parts = [
        desired(*draw(networks(n)), uplink_mtu=draw(st.sampled_from([1450, 1500])))
        for n in draw(st.sets(st.integers(1, 4)))
    ]
    return union(parts)


def carried_out(steps: Plan, observed: Dataplane) -> Dataplane:
    """What is there after ``steps``, done in the kernel's way: exactly what each step says."""
    bridges, ports = dict(observed.bridges), dict(observed.ports)
    for bridge in steps.new_bridges:
        assert bridge.name not in bridges
        bridges[bridge.name] = bridge
    for before, bridge in steps.changed_bridges:
        assert bridges[bridge.name] == before
        bridges[bridge.name] = bridge
    for port in steps.new_ports:
        assert port.name not in ports
        assert port.bridge in bridges, "a port needs its bridge"
        ports[port.name] = port
    for port in steps.changed_ports:
        assert port.name in ports
        ports[port.name] = port
    assert steps.old_elements <= observed.elements
    elements = (observed.elements - steps.old_elements) | steps.new_elements
    for name in steps.old_links:
        assert not any(port.bridge == name for port in ports.values()), "a bridge goes after its ports"
        del (ports if name in ports else bridges)[name]
    return Dataplane(bridges, ports, elements)


@given(dataplanes(), dataplanes())
def test_a_plan_leads_to_what_is_wanted(wanted: Dataplane, observed: Dataplane) -> None:
    after = carried_out(plan(wanted, observed), observed)
    assert after == wanted
    assert not plan(wanted, after)


@given(dataplanes(), dataplanes())
def test_a_plan_is_empty_only_where_nothing_differs(wanted: Dataplane, observed: Dataplane) -> None:
    assert bool(plan(wanted, observed)) is (wanted != observed)


@given(dataplanes(), dataplanes())
def test_a_plan_leaves_alone_what_is_right(wanted: Dataplane, observed: Dataplane) -> None:
    steps = plan(wanted, observed)
    assert not (steps.new_elements & observed.elements)
    assert not any(observed.bridges.get(bridge.name) for bridge in steps.new_bridges)
    right = {name for name, bridge in wanted.bridges.items() if observed.bridges.get(name) == bridge}
    assert right.isdisjoint({*steps.old_links, *(bridge.name for _, bridge in steps.changed_bridges)})


@given(st.lists(dataplanes(), max_size=4))
def test_a_union_has_each_part_and_nothing_else(parts: list[Dataplane]) -> None:
    whole = union(parts)
    assert whole.elements == frozenset(e for part in parts for e in part.elements)
    assert whole.bridges.keys() == {name for part in parts for name in part.bridges}
    assert whole.ports.keys() == {name for part in parts for name in part.ports}
    assert union([whole, EMPTY]) == whole


@given(networks(1), networks(2))
def test_networks_share_nothing(one: tuple[Network, list[Endpoint]], two: tuple[Network, list[Endpoint]]) -> None:
    """But for a published port, which is one of the node's, and which nobody can hold twice."""
    first = desired(one[0], [replace(e, ports=()) for e in one[1]], uplink_mtu=1500)
    second = desired(two[0], [replace(e, ports=()) for e in two[1]], uplink_mtu=1500)
    assert first.bridges.keys().isdisjoint(second.bridges)
    assert first.ports.keys().isdisjoint(second.ports)
    assert first.elements.isdisjoint(second.elements)


@given(networks(1), st.data())
def test_what_is_lost_has_no_part_in_the_kernel(there: tuple[Network, list[Endpoint]], data: st.DataObject) -> None:
    assume(there[1])
    lost = data.draw(st.sampled_from(there[1])).id
    made = desired(*there, uplink_mtu=1500, lost={lost})
    assert naming.port_name(lost) not in made.ports
    assert made == desired(there[0], [e for e in there[1] if e.id != lost], uplink_mtu=1500)


RULE = st.sampled_from([f"-A DOCKER-USER {rule}" for rule in RULES])
CHAIN = st.lists(
    RULE
    | st.sampled_from(
        ["-A DOCKER-USER -j RETURN", "-A DOCKER-USER -s 203.0.113.0/24 -j DROP", "-A DOCKER-USER -i sp-+ -j DROP"]
    ),
    max_size=8,
)


@given(CHAIN)
def test_a_mended_chain_is_right_and_keeps_what_was_others(listed: list[str]) -> None:
    ours = [f"-A DOCKER-USER {rule}" for rule in RULES]
    after = played(listed, mend("DOCKER-USER", listed))
    assert mend("DOCKER-USER", after) == ""
    assert [line for line in after if line not in ours] == [line for line in listed if line not in ours]
    assert [line for line in after if line in ours] == ours
    closing = "-A DOCKER-USER -j RETURN"
    assert closing not in after or after.index(closing) > after.index(ours[1])


@given(st.text(max_size=80))
def test_a_name_of_any_id_is_a_name_the_kernel_takes(identifier: str) -> None:
    for name in (naming.bridge_name(identifier), naming.port_name(identifier), naming.peer_name(identifier)):
        assert len(name) <= 15
        assert name.isascii()
        assert not set(name) & set("/: \t\n")
