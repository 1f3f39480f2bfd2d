"""What ``docker network create -o`` and ``docker run -p`` may say, and what they get where they may not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from plugin.docker import options, protocol
from plugin.model import Network, Protocol, PublishedPort, Subnet
from plugin.naming import bridge_name
from plugin.ranges import notation
from stackpad.errors import InvalidRequest
from tests.samples import binding, network_id

MTU = protocol.MTU


def parsed(generic: Any = None, *, v4: Any = None, v6: Any = None, **more: Any) -> Network:
    body: dict[str, Any] = {
        "NetworkID": network_id(1),
        "Options": {protocol.GENERIC: generic if generic is not None else {}, **more.get("options", {})},
        "IPv4Data": [{"Pool": "10.192.7.0/26", "Gateway": "10.192.7.1/26"}] if v4 is None else v4,
        "IPv6Data": v6,
    }
    return options.network(msgspec.convert(body, protocol.CreateNetwork))


def test_the_least_an_engine_sends() -> None:
    assert parsed() == Network(
        id=network_id(1), subnets=(Subnet("10.192.7.0/26", "10.192.7.1/26"),), bridge=bridge_name(network_id(1))
    )


def test_everything_an_engine_can_send() -> None:
    made = parsed(
        {"stackpad.environment": "my-app-production", "stackpad.egress": "false", MTU: "1400", "com.example": "x"},
        v4=[{"Pool": "10.192.7.0/26", "Gateway": "10.192.7.9/26", "AuxAddresses": {"printer": "10.192.7.5"}}],
        v6=[{"Pool": "fd00::/64", "Gateway": "fd00::1/64"}],
        options={protocol.INTERNAL: True, protocol.ENABLE_IPV6: True, "com.docker.network.of.2030": [{}]},
    )
    assert made == Network(
        id=network_id(1),
        subnets=(Subnet("10.192.7.0/26", "10.192.7.9/26"), Subnet("fd00::/64", "fd00::1/64")),
        internal=True,
        egress=False,
        ipv6=True,
        mtu=1400,
        environment="my-app-production",
        bridge=bridge_name(network_id(1)),
        reserved=("10.192.7.5",),
    )


def test_a_range_without_a_gateway_and_an_empty_one_are_fine() -> None:
    assert parsed(v4=[{"Pool": "10.192.7.0/26"}, {"Pool": ""}]).subnets == (Subnet("10.192.7.0/26"),)


def test_a_range_is_written_as_a_range() -> None:
    assert parsed(v4=[{"Pool": "10.192.7.9/26", "Gateway": "10.192.7.1/8"}]).subnets == (
        Subnet("10.192.7.0/26", "10.192.7.1/26"),
    )


@pytest.mark.parametrize(("text", "meant"), [("true", True), ("TRUE", True), ("1", True), ("false", False), ("0", False)])
def test_flags(text: str, *, meant: bool) -> None:
    assert parsed({"stackpad.egress": text}).egress is meant


@pytest.mark.parametrize(
    ("generic", "said"),
    [
        ({"stackpad.enviroment": "x"}, "did you mean stackpad.environment?"),
        ({"stackpad.of.quite.another.kind": "x"}, "there are stackpad.environment and stackpad.egress"),
        ({"stackpad.egress": "maybe"}, "stackpad.egress='maybe' is neither true nor false"),
        ({"stackpad.egress": ""}, "neither true nor false"),
        ({"stackpad.environment": ""}, "stackpad.environment is empty; is a variable in it not set?"),
        ({"stackpad.environment": "My App"}, "is not a name"),
        ({"stackpad.environment": "a" * 64}, "is not a name"),
        ({"stackpad.environment": "a\n"}, "is not a name"),
        ({"stackpad.environment": "-a"}, "is not a name"),
        ({MTU: "575"}, "between 576 and 65535"),
        ({MTU: "65536"}, "between 576 and 65535"),
        ({MTU: "1e3"}, "between 576"),
        ({MTU: "\N{FULLWIDTH DIGIT NINE}" * 4}, "between 576"),
        ({MTU: "9" * 5000}, "between 576"),
        ({MTU: ""}, "between 576"),
        ({MTU: 1500}, "is not text; quote it"),
        ([1], "not an object of options"),
        ("x", "not an object of options"),
    ],
)
def test_options_that_cannot_be_meant(generic: Any, said: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parsed(generic)
    assert said in str(refusal.value)


def test_a_network_that_is_there_may_have_an_empty_environment() -> None:
    """It was no mistake once, and an engine may say it again."""
    request = msgspec.convert(
        {
            "NetworkID": network_id(1),
            "Options": {protocol.GENERIC: {options.ENVIRONMENT: ""}},
            "IPv4Data": [{"Pool": "10.192.7.0/26"}],
        },
        protocol.CreateNetwork,
    )
    assert not options.network(request, known=True).environment


@pytest.mark.parametrize(("mtu", "fits"), [("1279", False), ("1280", True)])
def test_ipv6_needs_its_least_mtu(mtu: str, *, fits: bool) -> None:
    six = [{"Pool": "fd00::/64"}]
    if fits:
        assert parsed({MTU: mtu}, v6=six).mtu == int(mtu)
    else:
        with pytest.raises(InvalidRequest, match="IPv6 needs 1280"):
            parsed({MTU: mtu}, v6=six)


@pytest.mark.parametrize(
    ("v4", "v6", "said"),
    [
        ([], [], "without an address range"),
        ([{"Pool": ""}], None, "without an address range"),
        ([{"Pool": "10.0.0.0/33"}], None, "is not an address range such as"),
        ([{"Pool": "ten"}], None, "is not an address range such as"),
        ([{"Pool": "fd00::/64"}], None, "is an IPv6 range where an IPv4 one is due"),
        (None, [{"Pool": "10.9.0.0/24"}], "is an IPv4 range where an IPv6 one is due"),
        ([{"Pool": "10.0.0.0/31"}], None, "between /4 and /30"),
        ([{"Pool": "10.0.0.0/3"}], None, "between /4 and /30"),
        (None, [{"Pool": "fd00::/127"}], "between /32 and /126"),
        ([{"Pool": "127.0.0.0/8"}], None, "meaning of its own"),
        ([{"Pool": "126.0.0.0/7"}], None, "meaning of its own"),
        ([{"Pool": "169.254.0.0/16"}], None, "meaning of its own"),
        ([{"Pool": "168.0.0.0/6"}], None, "meaning of its own"),
        ([{"Pool": "224.0.0.0/24"}], None, "meaning of its own"),
        ([{"Pool": "0.0.0.0/24"}], None, "meaning of its own"),
        ([{"Pool": "255.255.255.0/24"}], None, "meaning of its own"),
        (None, [{"Pool": "fe80::/64"}], "meaning of its own"),
        (None, [{"Pool": "fe00::/8"}], "between /32 and /126"),
        (None, [{"Pool": "::ffff:0:0/96"}], "meaning of its own"),
        (None, [{"Pool": "::/64"}], "meaning of its own"),
        (None, [{"Pool": "ff02::/64"}], "meaning of its own"),
        (None, [{"Pool": "fd00::%eth0/64"}], "is not an address range"),
        ([{"Pool": "10.0.0.0/24", "Gateway": "10.0.1.1/24"}], None, "does not lie in 10.0.0.0/24"),
        ([{"Pool": "10.0.0.0/24", "Gateway": "10.0.0.0/24"}], None, "network or broadcast address"),
        ([{"Pool": "10.0.0.0/24", "Gateway": "10.0.0.255/24"}], None, "network or broadcast address"),
        ([{"Pool": "10.0.0.0/24", "Gateway": "one"}], None, "is not an address"),
        (None, [{"Pool": "fd00::/64", "Gateway": "fd00::1%x } ; flush ruleset/64"}], "is not an address"),
        ([{"Pool": "10.0.0.0/24"}, {"Pool": "10.0.0.128/25"}], None, "of one network overlap"),
        ([{"Pool": "10.0.0.0/24", "AuxAddresses": {"a": "b"}}], None, "auxiliary address 'b' is not an address"),
    ],
)
def test_ranges_that_cannot_be_meant(v4: Any, v6: Any, said: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parsed(v4=v4, v6=v6)
    assert said in str(refusal.value)


@pytest.mark.parametrize("pool", ["10.0.0.0/8", "100.64.0.0/10", "192.168.0.0/30", "198.18.0.0/15", "240.1.0.0/16"])
def test_ranges_somebody_may_want(pool: str) -> None:
    assert str(notation.range_of(pool)) == pool


@pytest.mark.parametrize("value", ["", "a b", "../x", "x" * 129, "é", "a\n"])
def test_an_id_is_letters_and_digits(value: str) -> None:
    with pytest.raises(InvalidRequest, match="NetworkID"):
        options.identifier(value, "NetworkID")


def test_a_refusal_shows_one_line_of_a_hostile_value() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parsed({"stackpad." + "\x1b[2J\n" * 10_000: "x"})
    assert len(str(refusal.value)) < 300
    assert str(refusal.value).isprintable()


def requests(*bindings: Any) -> tuple[options.PortRequest, ...]:
    return options.port_requests({protocol.PORT_MAP: list(bindings)})


@pytest.mark.parametrize("given", [None, {}, {protocol.PORT_MAP: None}, {protocol.PORT_MAP: []}])
def test_no_ports(given: Any) -> None:
    assert options.port_requests(given) == ()


@pytest.mark.parametrize(
    ("given", "protocol_name", "host", "ports"),
    [
        (binding(80, 8080), Protocol.TCP, None, [8080]),
        (binding(80), Protocol.TCP, None, []),
        (binding(80, 8000, end=8002), Protocol.TCP, None, [8000, 8001, 8002]),
        (binding(80, 8080, proto=17), Protocol.UDP, None, [8080]),
        (binding(80, 65535, address="127.0.0.1"), Protocol.TCP, "127.0.0.1", [65535]),
        (binding(80, 1, address="2001:DB8:0::1"), Protocol.TCP, "2001:db8::1", [1]),
        ({"Proto": 6, "Port": 80, "HostPort": 8080}, Protocol.TCP, None, [8080]),
    ],
)
def test_ports(given: Any, protocol_name: Protocol, host: str | None, ports: list[int]) -> None:
    (request,) = requests(given)
    assert (request.protocol, request.host_address, [*request.host_ports]) == (protocol_name, host, ports)
    assert request.at(99) == PublishedPort(protocol_name, 80, 99, host)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (binding(80, proto=132), "port 80 of sctp cannot be published"),
        (binding(0, 80), "container port 0"),
        (binding(65536, 80), "container port 65536"),
        (binding(80, 65536), "host ports 65536 to 65536"),
        (binding(80, -1), "host ports -1"),
        (binding(80, 90, end=80), "host ports 90 to 80"),
        (binding(80, 80, address="localhost"), "write -p 192.0.2.1:8080:80"),
        (binding(80, 80, address="fe80::1%eth0"), "zone"),
        (binding(80, 80, address="::1"), "cannot be published on [::1]"),
        ({"Port": 80}, "does not have the form"),
        ({"Proto": "6", "Port": 80}, "does not have the form"),
        ("80:80", "does not have the form"),
    ],
)
def test_ports_that_cannot_be_meant(given: Any, said: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        requests(given)
    assert said in str(refusal.value)


@pytest.mark.parametrize("given", ["x", {"a": 1}, 5, True])
def test_a_port_map_of_another_form(given: Any) -> None:
    with pytest.raises(InvalidRequest, match="does not have the form"):
        options.port_requests({protocol.PORT_MAP: given})
