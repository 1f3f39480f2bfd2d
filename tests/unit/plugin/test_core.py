"""The pure core: options, addresses, desired state, plans, foreign chains."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

import msgspec
import pytest

from plugin import addresses, naming, protocol, ruleset
from plugin.dataplane import EMPTY, FILTER, SWITCH, Dataplane, Element, desired, plan, union
from plugin.flows import stale
from plugin.foreign import RULES, mend
from plugin.model import Endpoint, Network, Protocol, PublishedPort, Subnet
from plugin.options import network, port_requests
from stackpad.errors import Conflict, Exhausted, InvalidRequest

NETWORK_ID, ENDPOINT_ID = "a" * 64, "b" * 64


def create(**changes: Any) -> Network:
    body: dict[str, Any] = {
        "NetworkID": NETWORK_ID,
        "Options": {protocol.GENERIC: changes.pop("options", {}), **changes.pop("outer", {})},
        "IPv4Data": [{"AddressSpace": "x", "Pool": "10.1.0.0/24", "Gateway": "10.1.0.1/24"}],
        "IPv6Data": None,
        "Unknown": {"to": "us"},
        **changes,
    }
    return network(msgspec.json.decode(msgspec.json.encode(body), type=protocol.CreateNetwork))


def an_endpoint(**changes: Any) -> Endpoint:
    fields = {"mac": "02:50:0a:01:00:02", "address4": "10.1.0.2/24", "sandbox": "/run/x", **changes}
    return Endpoint(ENDPOINT_ID, NETWORK_ID, **fields)


class TestOptions:
    def test_defaults(self) -> None:
        made = create()
        assert made.subnets == (Subnet("10.1.0.0/24", "10.1.0.1/24"),)
        assert (made.internal, made.egress, made.mtu, made.environment) == (False, True, 0, "")
        assert made.bridge == "sp-aaaaaaaaaaaa"

    def test_what_is_given(self) -> None:
        made = create(
            options={
                "stackpad.environment": "my-app-production",
                "stackpad.egress": "false",
                protocol.MTU: "1400",
                "other": "x",
            },
            outer={protocol.INTERNAL: True},
        )
        assert (made.internal, made.egress, made.mtu, made.environment) == (True, False, 1400, "my-app-production")

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"options": {"stackpad.enviroment": "x"}}, "did you mean stackpad.environment?"),
            ({"options": {"stackpad.environment": "A b"}}, "is not a name"),
            ({"options": {"stackpad.egress": "no"}}, "neither true nor false"),
            ({"options": {protocol.MTU: "1e3"}}, "not a number of bytes"),
            ({"options": {"x": 1}}, "is not text"),
            ({"outer": {protocol.GENERIC: "x"}}, "not an object"),
            ({"IPv4Data": []}, "without an address range"),
            ({"IPv4Data": [{"Pool": "10.1.0.0/31"}]}, "no size for a network"),
            ({"IPv4Data": [{"Pool": "127.0.0.0/24"}]}, "meaning of its own"),
            ({"IPv4Data": [{"Pool": "fd00::/64"}]}, "IPv4 one is due"),
            ({"IPv4Data": [{"Pool": "10.1.0.0/24", "Gateway": "10.2.0.1/24"}]}, "does not lie in"),
            ({"IPv4Data": [{"Pool": "10.1.0.0/24"}, {"Pool": "10.1.0.128/25"}]}, "overlap"),
            ({"NetworkID": "../../x"}, "is not an id"),
        ],
    )
    def test_what_is_refused_names_the_value(self, changes: dict[str, Any], words: str) -> None:
        with pytest.raises(InvalidRequest, match=re.escape(words)):
            create(**changes)

    def test_ports(self) -> None:
        given = [
            {"Proto": 6, "Port": 80, "HostPort": 8080, "HostPortEnd": 8080},
            {"Proto": 17, "Port": 53, "HostIP": "::ffff"},
            {"Proto": 6, "Port": 80, "HostIP": "127.0.0.1", "HostPort": 8000, "HostPortEnd": 8010},
        ]
        first, second, third = port_requests({protocol.PORT_MAP: given})
        assert (first.protocol, first.host_address, list(first.host_ports)) == (Protocol.TCP, None, [8080])
        assert (second.protocol, second.host_address, list(second.host_ports)) == (Protocol.UDP, "::ffff", [])
        assert list(third.host_ports) == list(range(8000, 8011))
        assert port_requests(None) == port_requests({}) == ()

    @pytest.mark.parametrize(
        "given",
        [
            "x", [1], [{"Proto": 132, "Port": 1}], [{"Proto": 6, "Port": 0}],
            [{"Proto": 6, "Port": 1, "HostPort": 70000}],
            [{"Proto": 6, "Port": 1, "HostPort": 9, "HostPortEnd": 8}], [{"Proto": 6, "Port": 1, "HostIP": "x"}],
            [{"Proto": 6, "Port": 1, "HostIP": "fe80::1%eth0"}], [{"Proto": 6, "Port": 1, "HostIP": "::1"}],
        ],
    )  # fmt: skip
    def test_ports_that_cannot_be(self, given: Any) -> None:
        with pytest.raises(InvalidRequest):
            port_requests({protocol.PORT_MAP: given})


class TestNaming:
    def test_names_fit_an_interface_and_tell_networks_apart(self) -> None:
        for identifier in (NETWORK_ID, "x" * 25, "é"):
            assert len(naming.bridge_name(identifier)) <= 15
            assert naming.is_ours(naming.port_name(identifier))
        assert naming.bridge_name("x" * 25) != naming.bridge_name("x" * 24 + "y")

    def test_macs_are_local_unicast_and_follow_the_address(self) -> None:
        four = ipaddress.IPv4Address("10.1.0.2")
        assert naming.endpoint_mac("n", four, None) == "02:50:0a:01:00:02"
        six = naming.endpoint_mac("n", None, ipaddress.IPv6Address("fd00::2"))
        assert int(six[:2], 16) & 3 == 2
        assert naming.endpoint_mac("m", None, ipaddress.IPv6Address("fd00::2")) != six

    def test_link_local_address_of_rfc_4291(self) -> None:
        assert naming.link_local("00:00:5e:00:53:01") == ipaddress.IPv6Address("fe80::200:5eff:fe00:5301")


class TestAddresses:
    POOL = ipaddress.ip_network("10.0.0.0/29")

    def test_next_fit_gives_the_last_freed_last(self) -> None:
        given = addresses.allocate(self.POOL, self.POOL, set(), ipaddress.ip_address("10.0.0.3"))
        assert str(given) == "10.0.0.4"
        assert str(addresses.allocate(self.POOL, self.POOL, set(), ipaddress.ip_address("10.0.0.6"))) == "10.0.0.1"

    def test_network_and_broadcast_are_never_given(self) -> None:
        taken: set[Any] = set()
        for _ in range(6):
            taken.add(addresses.allocate(self.POOL, self.POOL, taken))
        assert {str(a) for a in taken} == {f"10.0.0.{n}" for n in range(1, 7)}
        with pytest.raises(Exhausted, match="all 6 addresses"):
            addresses.allocate(self.POOL, self.POOL, taken)

    def test_carving_steps_over_what_is_taken(self) -> None:
        block = ipaddress.ip_network("10.192.0.0/18")
        taken = [ipaddress.ip_network(net) for net in ("10.192.0.0/25", "10.192.0.192/26", "10.0.0.0/16")]
        first = addresses.carve([block], 26, taken)
        assert str(first) == "10.192.0.128/26"
        assert str(addresses.carve([block], 26, [*taken, first], first)) == "10.192.1.0/26"

    def test_a_second_block_is_taken_when_the_first_is_full(self) -> None:
        blocks = [ipaddress.ip_network("10.192.0.0/26"), ipaddress.ip_network("10.192.64.0/26")]
        assert str(addresses.carve(blocks, 26, [blocks[0]])) == "10.192.64.0/26"
        with pytest.raises(Exhausted, match="no /26 is free"):
            addresses.carve(blocks, 26, blocks)

    def test_an_overlap_names_the_other_side(self) -> None:
        with pytest.raises(Conflict, match=r"overlaps 10\.0\.0\.0/8 of network shop"):
            addresses.refuse_overlap(self.POOL, [(ipaddress.ip_network("10.0.0.0/8"), "network shop")])


class TestDataplane:
    def test_an_endpoint_may_send_from_its_addresses_only(self) -> None:
        part = desired(create(), [an_endpoint(address6="fd00::2/64")], uplink_mtu=1500)
        port = naming.port_name(ENDPOINT_ID)
        senders = {e.key for e in part.elements if e.table == SWITCH}
        assert senders == {
            f"{port} . 02:50:0a:01:00:02 . 10.1.0.2",
            f"{port} . 02:50:0a:01:00:02 . fd00::2",
            f"{port} . 02:50:0a:01:00:02 . fe80::50:aff:fe01:2",
            f"{port} . 02:50:0a:01:00:02 . ::",
        }

    def test_ports_are_published_while_the_endpoint_is_there(self) -> None:
        ports = (PublishedPort(Protocol.TCP, 80, 8080), PublishedPort(Protocol.UDP, 53, 53, "192.0.2.1"))
        joined = desired(create(), [an_endpoint(ports=ports)], uplink_mtu=1500)
        assert Element(FILTER, "published4", "tcp . 8080", "10.1.0.2 . 80") in joined.elements
        assert Element(FILTER, "published4_at", "192.0.2.1 . udp . 53", "10.1.0.2 . 53") in joined.elements
        assert joined.bridges["sp-aaaaaaaaaaaa"].loopback
        left = desired(create(), [an_endpoint(ports=ports, left=True)], uplink_mtu=1500)
        assert left.ports == joined.ports, "the engine still has the link in its hands"
        assert not any(e.table == SWITCH or e.set.startswith("published") for e in left.elements)

    def test_lost_endpoints_get_nothing(self) -> None:
        part = desired(create(), [an_endpoint()], uplink_mtu=1500, lost={ENDPOINT_ID})
        assert not part.ports
        assert not any(e.table == SWITCH for e in part.elements)

    @pytest.mark.parametrize(
        ("options", "outer", "expected"),
        [({}, {}, set()), ({}, {protocol.INTERNAL: True}, {"internal"}), ({"stackpad.egress": "0"}, {}, {"no_egress"})],
    )
    def test_what_keeps_a_network_in(self, options: Any, outer: Any, expected: set[str]) -> None:
        part = desired(create(options=options, outer=outer), [], uplink_mtu=1400)
        assert {e.set for e in part.elements} & {"internal", "no_egress"} == expected
        assert part.bridges["sp-aaaaaaaaaaaa"].mtu == 1400

    def test_a_converged_state_has_an_empty_plan(self) -> None:
        part = desired(create(), [an_endpoint()], uplink_mtu=1500)
        assert not plan(part, part)
        assert plan(part, EMPTY).new_bridges
        assert set(plan(EMPTY, part).old_links) == {"sp-aaaaaaaaaaaa", naming.port_name(ENDPOINT_ID)}

    def test_a_bridge_is_changed_in_place(self) -> None:
        before, after = (desired(create(), [], uplink_mtu=mtu) for mtu in (1500, 1400))
        steps = plan(after, before)
        assert not steps.new_bridges
        assert not steps.old_links
        assert [bridge.mtu for _, bridge in steps.changed_bridges] == [1400]

    def test_union(self) -> None:
        parts = [desired(create(NetworkID=digit * 64), [], uplink_mtu=1500) for digit in "ab"]
        whole = union(parts)
        assert set(whole.bridges) == {"sp-aaaaaaaaaaaa", "sp-bbbbbbbbbbbb"}
        assert union([]) == Dataplane({}, {}, frozenset())


class TestRuleset:
    def test_what_goes_is_taken_out_before_what_comes_is_put_in(self) -> None:
        old, new = (Element(FILTER, "published4", "tcp . 80", f"10.0.0.{n} . 80") for n in (2, 3))
        assert ruleset.change([new], [old]).splitlines() == [
            "delete element inet stackpad published4 { tcp . 80 }",
            "add element inet stackpad published4 { tcp . 80 : 10.0.0.3 . 80 }",
        ]
        assert ruleset.change([], []) == ""

    def test_both_tables_are_replaced_in_one_transaction(self) -> None:
        text = ruleset.install([])
        for table in (FILTER, SWITCH):
            assert f"add table {table}\ndelete table {table}\n" in text
        assert "policy drop" not in text, "other traffic of the node is not ours to drop"

    def test_flows_to_forget(self) -> None:
        old = [
            Element(SWITCH, "senders4", "spvx . 02:50:0a:01:00:02 . 10.1.0.2"),
            Element(SWITCH, "senders6", "spvx . m . ::"),
        ]
        new = [Element(FILTER, "published6", "udp . 53", "fd00::2 . 53"), Element(FILTER, "published4", "tcp . 80", "x")]
        assert list(stale(new, old)) == [
            ("-f", "ipv4", "--orig-src", "10.1.0.2"),
            ("-f", "ipv4", "--reply-src", "10.1.0.2"),
            ("-f", "ipv6", "-p", "udp", "--orig-port-dst", "53"),
        ]


class TestForeign:
    OURS = tuple(f"-A DOCKER-USER {rule}" for rule in RULES)
    QUOTED = tuple(rule.replace("--comment stackpad", '--comment "stackpad"') for rule in OURS)
    HEAD, RETURN = "-N DOCKER-USER", "-A DOCKER-USER -j RETURN"
    OPERATOR = "-A DOCKER-USER -s 192.0.2.7/32 -j DROP"

    @pytest.mark.parametrize("ours", [OURS, QUOTED])
    @pytest.mark.parametrize("closing", [(RETURN,), ()])
    def test_right_as_it_is(self, ours: tuple[str, ...], closing: tuple[str, ...]) -> None:
        assert mend("DOCKER-USER", [self.HEAD, self.OPERATOR, *ours, *closing]) == ""

    def test_ours_go_behind_the_operators_and_before_the_return(self) -> None:
        script = mend("DOCKER-USER", [self.HEAD, self.OPERATOR, self.RETURN])
        assert script.splitlines()[1:3] == [f"-I DOCKER-USER 2 {RULES[0]}", f"-I DOCKER-USER 3 {RULES[1]}"]

    def test_one_that_is_missing_or_behind_a_return_is_put_right(self) -> None:
        for wrong in ([self.OURS[0]], [self.RETURN, *self.OURS], [*self.OURS, *self.OURS]):
            script = mend("DOCKER-USER", [self.HEAD, *wrong])
            assert script.count("-D DOCKER-USER") == sum(line in self.OURS for line in wrong)
            assert script.count("-I DOCKER-USER 1") == 1
