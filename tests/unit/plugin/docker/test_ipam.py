"""Pools and addresses as Docker asks for them, in the order in which it does. A real state, and routes by hand."""

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import pytest

from plugin.docker import protocol
from plugin.docker.ipam import Ipam, pool_id
from plugin.kernel.node import Route
from plugin.model import AddressKind, Subnet
from plugin.settings import Settings
from plugin.state import State
from plugin.steady import Moments
from stackpad.errors import Conflict, Exhausted, InvalidRequest, NotFound
from tests.clock import HOUR, Clock
from tests.samples import endpoint, network

SMALL = Settings(range4=IPv4Network("10.192.0.0/24"), range6=IPv6Network("fd00::/62"), block_prefix=24, network_prefix=26)
GATEWAY = {protocol.REQUEST_TYPE: protocol.GATEWAY_REQUEST}


class Caller:
    """Docker, asking."""

    def __init__(self, state: State, settings: Settings = SMALL) -> None:
        self.routes: list[Route] = []
        self.state, self.ipam = state, Ipam(state, settings, self._routes)

    async def _routes(self) -> list[Route]:
        return self.routes

    async def pool(self, pool: str = "", **more: Any) -> str:
        answer = await self.ipam.request_pool(protocol.RequestPool(pool=pool, **more))
        assert answer["PoolID"] == pool_id(ip_network(str(answer["Pool"])))
        return str(answer["PoolID"])

    async def address(self, pool: str, address: str = "", options: dict[str, str] | None = None) -> str:
        answer = await self.ipam.request_address(protocol.RequestAddress(pool_id=pool, address=address, options=options))
        return str(answer["Address"])

    async def give_back(self, pool: str, *addresses: str) -> None:
        for address in addresses:
            await self.ipam.release_address(protocol.ReleaseAddress(pool_id=pool, address=address))

    async def give_back_pool(self, pool: str) -> None:
        await self.ipam.release_pool(protocol.ReleasePool(pool_id=pool))


@pytest.fixture
def docker(state: State) -> Caller:
    return Caller(state)


async def test_a_network_as_docker_makes_and_removes_it(docker: Caller) -> None:
    pool = await docker.pool()
    assert pool == "stackpad/10.192.0.0/26"
    assert await docker.address(pool, options=GATEWAY) == "10.192.0.1/26"
    assert await docker.address(pool, "10.192.0.9") == "10.192.0.9/26"
    assert await docker.address(pool) == "10.192.0.2/26"
    await docker.give_back(pool, "10.192.0.2", "10.192.0.9", "10.192.0.1")
    await docker.give_back_pool(pool)
    assert (docker.state.pools, docker.state.allocations_of(pool)) == ({}, {})


async def test_after_a_restart_docker_asks_again_for_what_it_has(state: State) -> None:
    before = Caller(state)
    pool = await before.pool("10.5.0.0/24", sub_pool="10.5.0.128/25")
    given = [
        await before.address(pool, "10.5.0.1", GATEWAY),
        await before.address(pool, "10.5.0.5"),
        await before.address(pool),
    ]
    held = dict(state.allocations_of(pool))
    again = Caller(state)
    assert await again.pool("10.5.0.0/24", sub_pool="10.5.0.128/25") == pool
    texts = [text.partition("/")[0] for text in given]
    assert [await again.address(pool, texts[0], GATEWAY), *[await again.address(pool, t) for t in texts[1:]]] == given
    assert state.allocations_of(pool) == held


async def test_what_a_live_network_has_is_not_given_away(docker: Caller) -> None:
    """Docker gives the pool back before it deletes the network, and while it undoes a call that we refused."""
    pool = await docker.pool("10.192.1.0/24")
    await docker.address(pool, "10.192.1.1", GATEWAY)
    await docker.address(pool, "10.192.1.2")
    await docker.state.put_network(network(1, reserved=("10.192.1.9",)))
    await docker.state.put_endpoint(endpoint(network(1), 2))
    await docker.give_back(pool, "10.192.1.1", "10.192.1.2")
    await docker.give_back_pool(pool)
    assert {str(ip) for ip in docker.state.allocations_of(pool)} == {"10.192.1.1", "10.192.1.2"}
    assert docker.state.pools[pool].released
    assert await docker.address(pool) == "10.192.1.3/24"
    with pytest.raises(Conflict, match="overlaps"):
        await docker.pool("10.192.0.0/16")
    await docker.state.drop_network(network(1).id)
    await docker.ipam.network_deleted(network(1))
    assert docker.state.pools == {}


async def test_a_pool_given_back_after_its_network(docker: Caller) -> None:
    pool = await docker.pool("10.192.1.0/24")
    await docker.state.put_network(network(1))
    await docker.state.drop_network(network(1).id)
    await docker.ipam.network_deleted(network(1))
    assert pool in docker.state.pools
    await docker.give_back_pool(pool)
    assert docker.state.pools == {}


async def test_giving_back_twice(docker: Caller) -> None:
    pool = await docker.pool()
    await docker.address(pool)
    for _ in range(2):
        await docker.give_back(pool, "10.192.0.1")
    for _ in range(2):
        await docker.give_back_pool(pool)
    await docker.give_back(pool, "10.192.0.1")
    await docker.give_back("nobody's", "10.192.0.1")


async def test_each_pool_is_the_next_and_a_freed_one_comes_last(docker: Caller) -> None:
    first, second = await docker.pool(), await docker.pool()
    await docker.give_back_pool(first)
    assert [first, second, await docker.pool(), await docker.pool(), await docker.pool()] == [
        f"stackpad/10.192.0.{start}/26" for start in (0, 64, 128, 192, 0)
    ]
    with pytest.raises(Exhausted, match="no /26 is free in"):
        await docker.pool()


async def test_each_address_is_the_next_and_a_freed_one_comes_last(docker: Caller) -> None:
    pool = await docker.pool("10.5.0.0/29")
    await docker.address(pool, options=GATEWAY)
    given = [await docker.address(pool) for _ in range(3)]
    await docker.give_back(pool, "10.5.0.2")
    given += [await docker.address(pool) for _ in range(3)]
    assert given == [f"10.5.0.{host}/29" for host in (2, 3, 4, 5, 6, 2)]
    with pytest.raises(Exhausted, match="all 6 addresses"):
        await docker.address(pool)


async def test_ipv6_comes_out_of_the_nodes_own_range(state: State) -> None:
    docker = Caller(state, Settings())
    pool = ip_network((await docker.pool(v6=True)).removeprefix("stackpad/"))
    assert pool.prefixlen == 64
    assert pool.subnet_of(state.unique_local_range)  # type: ignore[arg-type]
    assert await docker.address(f"stackpad/{pool}", options=GATEWAY) == f"{pool[1]}/64"


async def test_ipv6_out_of_the_range_that_was_set(docker: Caller) -> None:
    assert [await docker.pool(v6=True) for _ in range(4)] == [
        "stackpad/fd00::/64",
        "stackpad/fd00:0:0:1::/64",
        "stackpad/fd00:0:0:2::/64",
        "stackpad/fd00:0:0:3::/64",
    ]
    with pytest.raises(Exhausted):
        await docker.pool(v6=True)


async def test_addresses_come_out_of_the_part_that_was_named(docker: Caller) -> None:
    pool = await docker.pool("10.5.0.0/24", sub_pool="10.5.0.64/30")
    assert await docker.address(pool, options=GATEWAY) == "10.5.0.1/24"
    assert [await docker.address(pool) for _ in range(4)] == [f"10.5.0.{host}/24" for host in (64, 65, 66, 67)]
    with pytest.raises(Exhausted, match=r"10\.5\.0\.64/30 are in use"):
        await docker.address(pool)
    assert await docker.address(pool, "10.5.0.9") == "10.5.0.9/24"


async def test_another_part_of_a_pool_that_nobody_took_up(docker: Caller) -> None:
    """Docker died between its two calls; whoever comes next with another --ip-range gets that one."""
    await docker.pool("10.5.0.0/24", sub_pool="10.5.0.64/30")
    pool = await docker.pool("10.5.0.0/24", sub_pool="10.5.0.128/25")
    assert await docker.address(pool) == "10.5.0.128/24"


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"pool": "10.5.0.0/24", "sub_pool": "10.6.0.0/25"}, "does not lie in --subnet"),
        ({"pool": "10.5.0.0/24", "sub_pool": "10.5.0.0/16"}, "does not lie in --subnet"),
        ({"pool": "10.5.0.0/24", "sub_pool": "fd00::/64"}, "IPv6 range where an IPv4 one is due"),
        ({"pool": "10.5.0.0/24", "v6": True}, "IPv4 range where an IPv6 one is due"),
        ({"sub_pool": "10.5.0.0/25"}, "goes with --subnet"),
        ({"pool": "ten"}, "is not an address range"),
    ],
)
async def test_pools_that_cannot_be_meant(docker: Caller, request_: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        await docker.pool(**request_)
    assert docker.state.pools == {}


@pytest.mark.parametrize("address", ["10.5.0.0", "10.5.0.255", "10.6.0.1", "fd00::1", "ten", "fd00::1%x", ""])
async def test_addresses_that_cannot_be_meant(docker: Caller, address: str) -> None:
    pool = await docker.pool("10.5.0.0/24")
    with pytest.raises(InvalidRequest):
        await docker.address(pool, address or " ")
    assert docker.state.allocations_of(pool) == {}


async def test_one_ipv6_address_has_one_name(docker: Caller) -> None:
    pool = await docker.pool("fd05::/64", v6=True)
    await docker.address(pool, "fd05:0::2")
    await docker.address(pool, "FD05::2")
    with pytest.raises(InvalidRequest):
        await docker.address(pool, "fd05::2%eth0")
    assert [str(ip) for ip in docker.state.allocations_of(pool)] == ["fd05::2"]


async def test_the_gateway_is_nobody_elses(docker: Caller) -> None:
    pool = await docker.pool()
    await docker.address(pool, "10.192.0.1", GATEWAY)
    with pytest.raises(Conflict, match="is the gateway of"):
        await docker.address(pool, "10.192.0.1")
    assert docker.state.allocations_of(pool)[ip_address("10.192.0.1")].kind is AddressKind.GATEWAY


async def test_an_unknown_pool(docker: Caller) -> None:
    with pytest.raises(NotFound, match="remove the network and create it again") as refusal:
        await docker.address("\x1b" * 100_000)
    assert len(str(refusal.value)) < 300


ROUTE = Route(IPv4Network("10.192.0.0/25"), "wg0", on_link=True)


async def test_pools_go_round_the_nodes_routes(docker: Caller) -> None:
    docker.routes.append(ROUTE)
    assert await docker.pool() == "stackpad/10.192.0.128/26"


@pytest.mark.parametrize(
    ("route", "refused"),
    [
        (ROUTE, True),
        (replace(ROUTE, net=IPv4Network("10.0.0.0/8")), True),
        (replace(ROUTE, net=IPv4Network("10.0.0.0/8"), on_link=False), False),
        (replace(ROUTE, net=IPv4Network("10.192.0.0/24"), on_link=False), True),
        (replace(ROUTE, net=IPv4Network("10.192.0.9/32"), on_link=False), True),
        (replace(ROUTE, net=IPv4Network("10.193.0.0/24")), False),
        (replace(ROUTE, net=IPv6Network("fd00::/8")), False),
    ],
)
async def test_a_named_pool_must_not_hide_a_route(docker: Caller, route: Route, *, refused: bool) -> None:
    docker.routes.append(route)
    if refused:
        with pytest.raises(Conflict, match="which this node reaches by"):
            await docker.pool("10.192.0.0/24")
    else:
        assert await docker.pool("10.192.0.0/24")


async def test_a_pool_of_a_network_with_dockers_own_ipam_is_taken_too(docker: Caller) -> None:
    await docker.state.put_network(network(0, subnets=(Subnet("10.192.0.0/26"),), environment="shop"))
    assert await docker.pool() == "stackpad/10.192.0.64/26"
    with pytest.raises(Conflict, match="of network shop"):
        await docker.pool("10.192.0.0/25")


async def test_the_janitor_takes_what_nobody_took_up(docker: Caller) -> None:
    pool, orphan = await docker.pool("10.192.1.0/24"), await docker.pool("10.9.0.0/24")
    for host in (1, 2, 3, 9):
        await docker.address(pool, f"10.192.1.{host}", GATEWAY if host == 1 else None)
    await docker.state.put_network(network(1, reserved=("10.192.1.9",)))
    await docker.state.put_endpoint(endpoint(network(1), 2))
    await docker.ipam.collect(grace=3600)
    assert docker.state.pools.keys() == {pool, orphan}
    assert len(docker.state.allocations_of(pool)) == 4
    await docker.ipam.collect(grace=-1)
    assert docker.state.pools.keys() == {pool}
    assert {str(ip) for ip in docker.state.allocations_of(pool)} == {"10.192.1.1", "10.192.1.2", "10.192.1.9"}


async def test_asking_again_begins_the_grace_anew(docker: Caller) -> None:
    pool = await docker.pool("10.5.0.0/24")
    aged = replace(docker.state.pools[pool], created=time.time() - 3600)
    await docker.state.put_pool(aged)
    await docker.pool("10.5.0.0/24")
    await docker.ipam.collect(grace=1800)
    assert docker.state.pools.keys() == {pool}


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
async def test_what_is_in_flight_keeps_its_grace_when_the_clock_is_set(
    state: State, jump: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(time.time())
    docker = Caller(state)
    docker.ipam = Ipam(state, SMALL, docker._routes, moments=Moments(clock.day, clock.steady))
    monkeypatch.setattr(time, "time", clock.day)
    pool, live = await docker.pool("10.5.0.0/24"), await docker.pool("10.192.1.0/24")
    await state.put_network(network(1))
    address = await docker.address(live, "10.192.1.7")
    clock.set(jump)
    await docker.ipam.collect(grace=60)
    assert pool in state.pools, "asked for a moment ago"
    assert [f"{ip}/24" for ip in state.allocations_of(live)] == [address]
    clock.run(61)
    await docker.ipam.collect(grace=60)
    assert state.pools.keys() == {live}, "and no hour longer"
    assert not state.allocations_of(live)
