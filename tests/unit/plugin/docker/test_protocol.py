"""The wire format: what engines from 20.10 to 29 send is understood, and what they will add is passed over."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from plugin.docker import protocol
from tests import samples

ENGINE_28: dict[str, Any] = {
    "NetworkID": samples.network_id(1),
    "Options": {
        "com.docker.network.enable_ipv4": True,
        "com.docker.network.enable_ipv6": False,
        "com.docker.network.generic": {"stackpad.environment": "x"},
    },
    "IPv4Data": [{"AddressSpace": "stackpad", "Pool": "10.192.1.0/24", "Gateway": "10.192.1.1/24", "AuxAddresses": {}}],
    "IPv6Data": None,
    "Labels": {"of": "the future"},
}


def test_create_network() -> None:
    request = msgspec.convert(ENGINE_28, protocol.CreateNetwork)
    assert request.network_id == samples.network_id(1)
    assert request.ipv4_data == [
        protocol.IPAMData(pool="10.192.1.0/24", gateway="10.192.1.1/24", address_space="stackpad", aux_addresses={})
    ]
    assert request.ipv6_data is None


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (samples.create_endpoint(1, "10.192.1.2/24"), protocol.CreateEndpoint),
        ({**samples.create_endpoint(1, ""), "Interface": None}, protocol.CreateEndpoint),
        (samples.join(1), protocol.Join),
        (samples.publish(1, samples.binding(80, 8080)), protocol.ProgramExternalConnectivity),
        (samples.reference(1), protocol.EndpointRef),
        ({"PoolID": "p"}, protocol.ReleasePool),
        ({"AddressSpace": "stackpad", "Pool": "", "SubPool": "", "Options": None, "V6": True}, protocol.RequestPool),
        ({"PoolID": "p", "Address": "", "Options": {"a": "b"}}, protocol.RequestAddress),
        ({"PoolID": "p", "Address": "10.0.0.1"}, protocol.ReleaseAddress),
    ],
)
def test_every_key_is_read_under_the_protocols_own_name(body: dict[str, Any], kind: type[msgspec.Struct]) -> None:
    request = msgspec.convert({**body, "OfTheFuture": {}}, kind)
    names = {field.encode_name: getattr(request, field.name) for field in msgspec.structs.fields(kind)}
    assert {key: msgspec.to_builtins(names[key]) for key in body} == body


@pytest.mark.parametrize(
    ("body", "kind", "missing"),
    [
        ({}, protocol.CreateNetwork, "NetworkID"),
        ({"NetworkID": "n"}, protocol.CreateEndpoint, "EndpointID"),
        ({"NetworkID": "n", "EndpointID": "e"}, protocol.Join, "SandboxKey"),
        ({}, protocol.RequestAddress, "PoolID"),
        ({"PoolID": "p"}, protocol.ReleaseAddress, "Address"),
    ],
)
def test_what_is_missing_is_named(body: dict[str, Any], kind: type[msgspec.Struct], missing: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=f"`{missing}`"):
        msgspec.convert(body, kind)
