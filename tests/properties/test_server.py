"""Whatever is thrown at the driver and the IPAM driver: an answer, no exception, a state that agrees with itself."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aiohttp.test_utils import TestClient, TestServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plugin.docker.driver import NetworkDriver
from plugin.docker.ipam import Ipam
from plugin.docker.ports import PortReservations
from plugin.docker.server import Server, calls
from plugin.kernel.node import Route
from plugin.metrics import Metrics
from plugin.settings import Settings
from plugin.state import State

FAILED = "failed inside the plugin"
IDS = [digit * 64 for digit in "abc"]
POOLS = ["10.1.0.0/24", "10.1.0.0/29", "10.2.0.0/24", "fd00::/64", "", "x", "10.1.0.5", "0.0.0.0/0", "10.1.0.0/33"]
ADDRESSES = [
    "10.1.0.2/24",
    "10.1.0.3/24",
    "10.1.0.1/24",
    "10.1.0.255/24",
    "fd00::2/64",
    "",
    "10.1.0.2",
    "x/y",
    "10.9.0.1/8",
]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
OPTIONS = st.dictionaries(
    st.sampled_from(
        [
            "com.docker.network.generic", "com.docker.network.internal", "com.docker.network.portmap",
            "com.docker.network.enable_ipv6", "stackpad.environment", "RequestAddressType",
        ]
    ),
    JSON | st.just([{"Proto": 6, "Port": 80}]) | st.just({"stackpad.egress": "true"}),
    max_size=3,
)  # fmt: skip
RANGES = st.lists(
    st.fixed_dictionaries({"Pool": st.sampled_from(POOLS), "Gateway": st.sampled_from(ADDRESSES)}), max_size=2
)
BODY = st.fixed_dictionaries(
    {},
    optional={
        "NetworkID": st.sampled_from(IDS) | JSON,
        "EndpointID": st.sampled_from(IDS) | JSON,
        "IPv4Data": RANGES | st.none() | JSON,
        "IPv6Data": RANGES | st.none(),
        "Options": OPTIONS | JSON,
        "Interface": st.fixed_dictionaries(
            {
                "Address": st.sampled_from(ADDRESSES),
                "AddressIPv6": st.sampled_from(ADDRESSES),
                "MacAddress": st.sampled_from(["", "02:00:00:00:00:01", "x", "ff:ff:ff:ff:ff:ff"]),
            }
        )
        | JSON,
        "SandboxKey": st.sampled_from(["/var/run/docker/netns/x", ""]) | JSON,
        "PoolID": st.sampled_from(["stackpad/10.1.0.0/24", "stackpad/fd00::/64", ""]) | JSON,
        "Pool": st.sampled_from(POOLS) | JSON,
        "SubPool": st.sampled_from(POOLS),
        "Address": st.sampled_from(["10.1.0.2", "10.1.0.1", "fd00::2", "", "x"]) | JSON,
        "V6": st.booleans(),
        "Anything": JSON,
    },
)
METHODS = [
    *(f"NetworkDriver.{name}" for name in (
        "CreateNetwork", "CreateNetwork", "DeleteNetwork", "CreateEndpoint", "CreateEndpoint", "DeleteEndpoint", "Join",
        "Leave", "EndpointOperInfo", "ProgramExternalConnectivity", "RevokeExternalConnectivity", "AllocateNetwork",
        "Nonsense",
    )),
    *(f"IpamDriver.{name}" for name in (
        "RequestPool", "ReleasePool", "RequestAddress", "RequestAddress", "ReleaseAddress", "GetCapabilities",
    )),
]  # fmt: skip


class Settled:
    """Stands where the reconciler stands: the claims here are about the calls and the state, not about the kernel."""

    lost: frozenset[str] = frozenset()

    def touch(self, network_id: str) -> None:
        """Nothing follows."""

    def abandoned(self, endpoint_id: str) -> bool:
        """No container is ever gone."""
        return False

    async def settle(self, network_id: str) -> None:
        """It is settled."""

    def forget_port(self, network_id: str, endpoint_id: str) -> None:
        """There is none."""


@contextlib.asynccontextmanager
async def driver() -> AsyncIterator[tuple[TestClient[Any, Any], State]]:
    """A server over a real state, and a client to it."""

    async def routes() -> list[Route]:
        return []

    with tempfile.TemporaryDirectory() as directory:
        async with State(Path(directory) / "net.db") as state:
            ready = asyncio.Event()
            ready.set()
            ipam = Ipam(state, Settings(), routes)
            settled: Any = Settled()
            ports = PortReservations()
            table = calls(NetworkDriver(state, ipam, ports, settled, routes), ipam)
            async with TestClient(TestServer(Server(table, ready, Metrics()).application())) as client:
                yield client, state
            for endpoint in list(ports.held):
                ports.release(endpoint)


async def ask(client: TestClient[Any, Any], method: str, body: bytes) -> dict[str, Any]:
    answer = await client.post(f"/{method}", data=io.BytesIO(body))
    assert answer.status == 200
    decoded = await answer.json(content_type=None)
    assert isinstance(decoded, dict)
    assert FAILED not in decoded.get("Err", ""), (method, body)
    assert decoded.get("Err") == decoded.get("Error")
    return decoded


def agrees(state: State) -> None:
    """No two networks overlap, no address has two owners, everything belongs to something."""
    ranges = [(n.id, s.net) for n in state.networks.values() for s in n.subnets]
    for index, (_, net) in enumerate(ranges):
        assert not any(net.version == other.version and net.overlaps(other) for _, other in ranges[:index])
    owned = [(e.network_id, ip) for e in state.endpoints.values() for ip in e.addresses]
    assert len(owned) == len(set(owned))
    assert all(endpoint.network_id in state.networks for endpoint in state.endpoints.values())
    for network in state.networks.values():
        assert {e.id for e in state.endpoints_of(network.id)} == {
            e.id for e in state.endpoints.values() if e.network_id == network.id
        }


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(METHODS), BODY), max_size=25))
def test_any_calls_in_any_order(sequence: list[tuple[str, dict[str, Any]]]) -> None:
    async def run() -> None:
        async with driver() as (client, state):
            for method, body in sequence:
                await ask(client, method, json.dumps(body).encode())
                agrees(state)
            for network_id in [*IDS, *state.networks]:
                await ask(client, "NetworkDriver.DeleteNetwork", json.dumps({"NetworkID": network_id}).encode())
            for pool_id in list(state.pools):
                await ask(client, "IpamDriver.ReleasePool", json.dumps({"PoolID": pool_id}).encode())
            assert not state.networks
            assert not state.endpoints
            assert not state.pools
            assert not any(state.allocations.values())

    asyncio.run(run())


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(METHODS), st.binary(max_size=200) | st.text().map(str.encode)), max_size=10))
def test_anything_that_is_not_even_json(sequence: list[tuple[str, bytes]]) -> None:
    async def run() -> None:
        async with driver() as (client, state):
            for method, body in sequence:
                await ask(client, method, body)
            assert not state.networks
            assert not state.endpoints

    asyncio.run(run())


def test_huge_deep_and_empty_bodies() -> None:
    async def run() -> None:
        async with driver() as (client, _):
            for body in (b"[" * 100_000, b'{"a":' * 50_000, b'"' + b"x" * (1 << 21) + b'"', b"", b"  \n"):
                for method in ("NetworkDriver.CreateNetwork", "IpamDriver.RequestPool"):
                    assert (await ask(client, method, body))["Err"]
            answer = await ask(client, "NetworkDriver.Join", b"")
            assert "without its arguments" in answer["Err"]

    asyncio.run(run())


def test_every_call_may_come_twice() -> None:
    """Docker repeats a call whose connection broke; both get the same answer, and once is enough to take it back."""

    async def run() -> None:
        async with driver() as (client, state):
            network, endpoint = IDS[0], IDS[1]
            both = {"NetworkID": network, "EndpointID": endpoint}
            ranges = [{"Pool": "10.1.0.0/24", "Gateway": "10.1.0.1/24"}]
            for method, body in (
                ("IpamDriver.RequestPool", {"Pool": "10.1.0.0/24"}),
                ("IpamDriver.RequestAddress", {"PoolID": "stackpad/10.1.0.0/24", "Address": "10.1.0.2"}),
                ("NetworkDriver.CreateNetwork", {"NetworkID": network, "IPv4Data": ranges}),
                ("NetworkDriver.CreateEndpoint", {**both, "Interface": {"Address": "10.1.0.2/24"}}),
                ("NetworkDriver.RevokeExternalConnectivity", both),
                ("NetworkDriver.Leave", both),
                ("NetworkDriver.DeleteEndpoint", both),
                ("IpamDriver.ReleaseAddress", {"PoolID": "stackpad/10.1.0.0/24", "Address": "10.1.0.2"}),
                ("IpamDriver.ReleasePool", {"PoolID": "stackpad/10.1.0.0/24"}),
                ("NetworkDriver.DeleteNetwork", {"NetworkID": network}),
            ):
                first, second = [await ask(client, method, json.dumps(body).encode()) for _ in range(2)]
                assert first == second, method
                assert "Err" not in first, first
            assert (state.networks, state.endpoints, state.pools) == ({}, {}, {})

    asyncio.run(run())


def test_a_refused_network_does_not_take_the_pool_of_another() -> None:
    async def run() -> None:
        async with driver() as (client, state):
            ranges = [{"Pool": "10.1.0.0/24", "Gateway": "10.1.0.1/24"}]
            pool = {"PoolID": "stackpad/10.1.0.0/24"}
            for network in IDS[:2]:
                await ask(client, "IpamDriver.RequestPool", json.dumps({"Pool": "10.1.0.0/24"}).encode())
                gateway = {**pool, "Address": "10.1.0.1", "Options": {"RequestAddressType": "com.docker.network.gateway"}}
                await ask(client, "IpamDriver.RequestAddress", json.dumps(gateway).encode())
                body = json.dumps({"NetworkID": network, "IPv4Data": ranges}).encode()
                answer = await ask(client, "NetworkDriver.CreateNetwork", body)
            assert "overlaps 10.1.0.0/24 of network aaaaaaaaaaaa" in answer["Err"]
            await ask(client, "IpamDriver.ReleaseAddress", json.dumps({**pool, "Address": "10.1.0.1"}).encode())
            await ask(client, "IpamDriver.ReleasePool", json.dumps(pool).encode())
            assert pool["PoolID"] in state.pools
            given = await ask(client, "IpamDriver.RequestAddress", json.dumps(pool).encode())
            assert given["Address"] == "10.1.0.2/24", "the gateway of the first is still the gateway"

    asyncio.run(run())
