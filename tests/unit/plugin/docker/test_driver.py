"""The driver through its real HTTP server: Docker's calls in Docker's orders, repeated, and broken off half-way."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing
from typing import Any

import msgspec
import pytest

from plugin import naming
from plugin.docker import protocol
from plugin.docker.driver import NetworkDriver
from plugin.docker.ipam import pool_id
from plugin.kernel.node import Route
from plugin.model import Pool, Protocol, PublishedPort, Subnet, ip_network
from plugin.ranges.notation import range_of
from stackpad.errors import NotFound, Unavailable
from tests import samples
from tests.freeport import free_port
from tests.samples import binding, endpoint_id, network_id, publish, reference
from tests.served import Plugin, Refused

ONE, TWO = network_id(1), network_id(2)


@pytest.fixture
async def net(plugin: Plugin) -> Plugin:
    """A plugin with network 1."""
    await plugin.network("CreateNetwork", samples.create_network(1))
    return plugin


@pytest.fixture
async def joined(net: Plugin) -> Plugin:
    """A plugin with network 1 and endpoint 1 joined to it."""
    await net.network("CreateEndpoint", samples.create_endpoint(1, "10.192.1.2/24"))
    await net.network("Join", samples.join(1))
    return net


async def test_an_empty_environment_is_refused_for_a_network_that_is_new(net: Plugin) -> None:
    """One that is there was made before that was refused, and goes on."""
    for number in (1, 2):
        body = samples.create_network(number)
        body["Options"] = {protocol.GENERIC: {"stackpad.environment": ""}}
        if number == 1:
            await net.network("CreateNetwork", body)
        else:
            with pytest.raises(Refused, match=r"stackpad\.environment is empty"):
                await net.network("CreateNetwork", body)


async def test_a_containers_life(plugin: Plugin) -> None:
    """``network create``, ``run``, ``stop``, ``network rm``, with our IPAM driver."""
    pool = await plugin.address("RequestPool", {"AddressSpace": "stackpad", "Pool": "", "V6": False})
    gateway = await plugin.address(
        "RequestAddress",
        {"PoolID": pool["PoolID"], "Options": {"RequestAddressType": "com.docker.network.gateway"}},
    )
    body = samples.create_network(1)
    body["IPv4Data"] = [{"Pool": pool["Pool"], "Gateway": gateway["Address"]}]
    assert await plugin.network("CreateNetwork", body) == {}
    address = await plugin.address("RequestAddress", {"PoolID": pool["PoolID"], "Address": "", "Options": None})
    answer = await plugin.network("CreateEndpoint", samples.create_endpoint(1, address["Address"]))
    assert answer == {"Interface": {"MacAddress": "02:50:0a:c0:00:02"}}
    assert await plugin.network("Join", samples.join(1)) == {
        "InterfaceName": {"SrcName": naming.peer_name(endpoint_id(1)), "DstPrefix": "eth"},
        "StaticRoutes": [],
        "DisableGatewayService": True,
        "Gateway": "10.192.0.1",
    }
    assert await plugin.network("ProgramExternalConnectivity", publish(1, binding(80))) == {}
    (port,) = plugin.state.endpoints[endpoint_id(1)].ports
    info = await plugin.network("EndpointOperInfo", reference(1))
    assert info == {"Value": {"mac": "02:50:0a:c0:00:02", "ports": [f"*:{port.host_port}->80/tcp"]}}
    for call in ("RevokeExternalConnectivity", "Leave", "DeleteEndpoint"):
        assert await plugin.network(call, reference(1)) == {}
    for text in (address["Address"], gateway["Address"]):
        await plugin.address("ReleaseAddress", {"PoolID": pool["PoolID"], "Address": text.partition("/")[0]})
    await plugin.address("ReleasePool", {"PoolID": pool["PoolID"]})
    await plugin.network("DeleteNetwork", {"NetworkID": ONE})
    assert (plugin.state.networks, plugin.state.endpoints, plugin.state.pools) == ({}, {}, {})
    assert plugin.state.allocations_of(pool["PoolID"]) == {}
    assert plugin.ports.held == {}


async def test_what_waits_for_the_kernel_and_what_does_not(joined: Plugin) -> None:
    joined.reconciler.asked.clear()
    await joined.network("ProgramExternalConnectivity", publish(1, binding(80)))
    await joined.network("RevokeExternalConnectivity", reference(1))
    await joined.network("Leave", reference(1))
    await joined.network("DeleteEndpoint", reference(1))
    await joined.network("DeleteNetwork", {"NetworkID": ONE})
    assert joined.reconciler.asked == [("settle", ONE), *[("touch", ONE)] * 4]


async def test_each_call_may_come_twice(plugin: Plugin) -> None:
    """The engine repeats a call whose connection broke."""

    async def twice(method: str, body: dict[str, Any]) -> None:
        first = await plugin.network(method, body)
        before = (dict(plugin.state.networks), dict(plugin.state.endpoints), dict(plugin.ports.held))
        assert await plugin.network(method, body) == first
        assert (plugin.state.networks, plugin.state.endpoints, plugin.ports.held) == before

    await twice("CreateNetwork", samples.create_network(1))
    await twice("CreateEndpoint", samples.create_endpoint(1, "10.192.1.2/24"))
    await twice("Join", samples.join(1))
    await twice("ProgramExternalConnectivity", publish(1, binding(80, free_port())))
    await twice("EndpointOperInfo", reference(1))
    await twice("RevokeExternalConnectivity", reference(1))
    await twice("Leave", reference(1))
    await twice("DeleteEndpoint", reference(1))
    await twice("DeleteNetwork", {"NetworkID": ONE})


@pytest.mark.parametrize("call", ["DeleteEndpoint", "Leave", "RevokeExternalConnectivity"])
async def test_taking_away_what_is_not_there(plugin: Plugin, call: str) -> None:
    assert await plugin.network(call, reference(1)) == {}
    assert await plugin.network("DeleteNetwork", {"NetworkID": ONE}) == {}


async def test_an_internal_network_names_no_gateway(plugin: Plugin) -> None:
    await plugin.network("CreateNetwork", samples.create_network(1, options={"com.docker.network.internal": True}))
    await plugin.network("CreateEndpoint", samples.create_endpoint(1, "10.192.1.2/24"))
    assert "Gateway" not in await plugin.network("Join", samples.join(1))


async def test_both_families(plugin: Plugin) -> None:
    body = samples.create_network(1)
    body["IPv6Data"] = [{"Pool": "fd00::/64", "Gateway": "fd00::1/64"}]
    await plugin.network("CreateNetwork", body)
    guest = samples.create_endpoint(1, "10.192.1.2/24")
    guest["Interface"]["AddressIPv6"] = "fd00::2/64"
    await plugin.network("CreateEndpoint", guest)
    answer = await plugin.network("Join", samples.join(1))
    assert (answer["Gateway"], answer["GatewayIPv6"]) == ("10.192.1.1", "fd00::1")


async def test_a_mac_address_of_the_users_is_not_repeated(net: Plugin) -> None:
    """The engine takes even an identical value for a modification."""
    answer = await net.network("CreateEndpoint", samples.create_endpoint(1, "10.192.1.2/24", mac="02:42:AC:00:00:09"))
    assert answer == {"Interface": {}}
    assert net.state.endpoints[endpoint_id(1)].mac == "02:42:ac:00:00:09"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (samples.create_endpoint(2, "10.192.1.1/24"), "taken by the gateway"),
        (samples.create_endpoint(2, "10.192.1.2/24"), "taken by endpoint"),
        (samples.create_endpoint(2, "10.192.1.9/24"), "taken by --aux-address"),
        (samples.create_endpoint(2, "10.192.1.0/24"), "network or broadcast address"),
        (samples.create_endpoint(2, "10.192.2.2/24"), "does not lie in a range"),
        (samples.create_endpoint(2, "10.192.1.3"), ""),
        (samples.create_endpoint(2, ""), "without an address"),
        (samples.create_endpoint(2, "three"), "not in CIDR form"),
        (samples.create_endpoint(2, "fd00::2%x/64"), "not in CIDR form"),
        (samples.create_endpoint(2, "10.192.1.3/24", mac="02:50:0a:c0:01:02"), "is that of endpoint"),
        (samples.create_endpoint(2, "10.192.1.3/24", mac=naming.bridge_mac(samples.network_id(1))), "is the gateway's"),
        (samples.create_endpoint(2, "10.192.1.3/24", mac="01:00:5e:00:00:01"), "first octet must be even"),
        (samples.create_endpoint(2, "10.192.1.3/24", mac="00:00:00:00:00:00"), "nobody's"),
        (samples.create_endpoint(2, "10.192.1.3/24", mac="2:0:0:0:0:1"), "not of the form"),
        (samples.create_endpoint(2, "10.192.1.3/24", mac="02:50:0a:c0:01:0²"), "not of the form"),
        (samples.create_endpoint(2, "10.192.1.3/24", net=2), "is not known to the plugin"),
        ({**samples.create_endpoint(2, "10.192.1.3/24"), "EndpointID": "../x"}, "is not an id of Docker's"),
        ({**samples.create_endpoint(2, "10.192.1.3/24"), "Interface": None}, "without an address"),
    ],
)
async def test_endpoints_that_cannot_be(plugin: Plugin, body: dict[str, Any], said: str) -> None:
    network = samples.create_network(1)
    network["IPv4Data"][0]["AuxAddresses"] = {"printer": "10.192.1.9"}
    await plugin.network("CreateNetwork", network)
    await plugin.network("CreateEndpoint", samples.create_endpoint(1, "10.192.1.2/24"))
    before = dict(plugin.state.endpoints)
    if said:
        with pytest.raises(Refused, match=said):
            await plugin.network("CreateEndpoint", body)
        assert plugin.state.endpoints == before
    else:
        await plugin.network("CreateEndpoint", body)
        assert plugin.state.endpoints[endpoint_id(2)].address4 == "10.192.1.3/24"


async def test_an_endpoint_of_another_network_is_not_this_ones(joined: Plugin) -> None:
    await joined.network("CreateNetwork", samples.create_network(2))
    with pytest.raises(Refused, match="belongs to network"):
        await joined.network("CreateEndpoint", samples.create_endpoint(1, "10.192.2.2/24", net=2))
    for call, body in (
        ("Join", samples.join(1, net=2)),
        ("EndpointOperInfo", reference(1, net=2)),
        ("ProgramExternalConnectivity", publish(1, net=2)),
    ):
        with pytest.raises(Refused, match="is not known in network"):
            await joined.network(call, body)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (samples.create_network(2, pool="10.192.1.0/24"), "overlaps 10.192.1.0/24 of network shop"),
        (samples.create_network(2, pool="10.192.0.0/16"), "overlaps 10.192.1.0/24 of network shop"),
        (samples.create_network(2, pool="172.30.0.0/24"), "which this node reaches by device wg0"),
        ({**samples.create_network(2), "NetworkID": "a b"}, "is not an id of Docker's"),
        ({**samples.create_network(2), "NetworkID": ONE[:12] + "0" * 52}, "same bridge"),
        ({**samples.create_network(2), "NetworkID": ONE}, "exists with other options"),
    ],
)
async def test_networks_that_cannot_be(plugin: Plugin, body: dict[str, Any], said: str) -> None:
    plugin.routes.append(Route(range_of("172.30.0.0/16"), "wg0", on_link=True))
    shop = {"com.docker.network.generic": {"stackpad.environment": "shop"}}
    await plugin.network("CreateNetwork", samples.create_network(1, options=shop))
    before = dict(plugin.state.networks)
    with pytest.raises(Refused, match=said):
        await plugin.network("CreateNetwork", body)
    assert plugin.state.networks == before


async def test_two_at_once_do_not_get_one_range(plugin: Plugin) -> None:
    answers = await asyncio.gather(
        *(plugin.network("CreateNetwork", samples.create_network(n, pool="10.9.0.0/24")) for n in range(4)),
        return_exceptions=True,
    )
    assert answers.count({}) == 1
    assert len(plugin.state.networks) == 1


async def test_two_at_once_do_not_get_one_address(net: Plugin) -> None:
    answers = await asyncio.gather(
        *(net.network("CreateEndpoint", samples.create_endpoint(n, "10.192.1.2/24")) for n in range(4)),
        return_exceptions=True,
    )
    assert len([a for a in answers if isinstance(a, Refused)]) == 3
    assert len(net.state.endpoints) == 1


async def test_a_network_the_kernel_refuses_is_not_kept(plugin: Plugin) -> None:
    plugin.reconciler.refuse = Unavailable("the kernel refused to create bridge x")
    with pytest.raises(Refused, match="refused to create bridge x"):
        await plugin.network("CreateNetwork", samples.create_network(1))
    assert plugin.state.networks == {}
    assert plugin.reconciler.asked == [("settle", ONE), ("touch", ONE)]
    assert await plugin.network("CreateNetwork", samples.create_network(1)) == {}


async def test_a_network_there_already_is_kept_when_the_kernel_refuses(net: Plugin) -> None:
    net.reconciler.refuse = Unavailable("no")
    with pytest.raises(Refused):
        await net.network("CreateNetwork", samples.create_network(1))
    assert net.state.networks.keys() == {ONE}


async def test_a_join_the_kernel_refuses_is_undone_by_docker(net: Plugin) -> None:
    """It sends DeleteEndpoint, and no Leave."""
    await net.network("CreateEndpoint", samples.create_endpoint(1, "10.192.1.2/24"))
    net.reconciler.refuse = Unavailable("no")
    with pytest.raises(Refused):
        await net.network("Join", samples.join(1))
    await net.network("DeleteEndpoint", reference(1))
    assert net.state.endpoints == {}


async def test_a_join_without_a_sandbox(net: Plugin) -> None:
    await net.network("CreateEndpoint", samples.create_endpoint(1, "10.192.1.2/24"))
    with pytest.raises(Refused, match="without a SandboxKey"):
        await net.network("Join", {**samples.join(1), "SandboxKey": ""})


async def test_joining_again_makes_a_new_pair(joined: Plugin) -> None:
    """The first pair's end was moved into a container that may be gone."""
    joined.reconciler.made.clear()
    joined.reconciler.asked.clear()
    answer = await joined.network("Join", samples.join(1))
    assert answer["InterfaceName"]["SrcName"] in joined.reconciler.made
    assert ("settle", ONE) in joined.reconciler.asked


async def test_after_leave_nothing_is_published_and_the_link_stays(joined: Plugin) -> None:
    port = free_port()
    await joined.network("ProgramExternalConnectivity", publish(1, binding(80, port)))
    await joined.network("Leave", reference(1))
    left = joined.state.endpoints[endpoint_id(1)]
    assert (left.left, left.ports, bool(left.sandbox)) == (True, (), True)
    socket.create_server(("0.0.0.0", port)).close()


async def test_ports_are_replaced_not_added(joined: Plugin) -> None:
    """Engine 29 repeats the call without taking back what there was."""
    first, second = free_port(), free_port()
    await joined.network("ProgramExternalConnectivity", publish(1, binding(80, first)))
    await joined.network("ProgramExternalConnectivity", publish(1, binding(80, second)))
    assert joined.state.endpoints[endpoint_id(1)].ports == (PublishedPort(Protocol.TCP, 80, second),)
    socket.create_server(("0.0.0.0", first)).close()


async def test_a_taken_port_fails_with_a_sentence_and_holds_nothing(joined: Plugin) -> None:
    free = free_port()
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        taken = other.getsockname()[1]
        with pytest.raises(Refused, match=f"port {taken}/tcp of this node is taken by another program"):
            await joined.network("ProgramExternalConnectivity", publish(1, binding(80, free), binding(81, taken)))
    assert joined.state.endpoints[endpoint_id(1)].ports == ()
    socket.create_server(("0.0.0.0", free)).close()


async def test_when_a_replacement_fails_nothing_stays_published(joined: Plugin) -> None:
    """Otherwise packets would be redirected from a port that nobody holds."""
    await joined.network("ProgramExternalConnectivity", publish(1, binding(80, free_port())))
    with closing(socket.create_server(("127.0.0.1", 0))) as other, pytest.raises(Refused):
        await joined.network("ProgramExternalConnectivity", publish(1, binding(80, other.getsockname()[1])))
    assert joined.state.endpoints[endpoint_id(1)].ports == ()
    assert joined.ports.held == {}
    assert joined.reconciler.asked[-1] == ("touch", ONE)


async def test_ports_the_kernel_refuses_are_not_held(joined: Plugin) -> None:
    port = free_port()
    joined.reconciler.refuse = Unavailable("no")
    with pytest.raises(Refused):
        await joined.network("ProgramExternalConnectivity", publish(1, binding(80, port)))
    assert joined.state.endpoints[endpoint_id(1)].ports == ()
    assert joined.ports.held == {}


async def test_a_network_that_goes_takes_its_endpoints_and_ports_with_it(joined: Plugin) -> None:
    await joined.network("ProgramExternalConnectivity", publish(1, binding(80, free_port())))
    await joined.network("DeleteNetwork", {"NetworkID": ONE})
    assert (joined.state.networks, joined.state.endpoints, joined.ports.held) == ({}, {}, {})


async def test_what_the_disk_refuses_to_forget_stays_whole(joined: Plugin) -> None:
    """The engine has forgotten it by then; who looks after such leftovers finds all of it, and tries again."""
    await joined.network("ProgramExternalConnectivity", publish(1, binding(80, free_port())))
    held = dict(joined.ports.held)
    joined.state._database.connection.execute("PRAGMA query_only = ON")
    for method, body in (("DeleteEndpoint", reference(1)), ("DeleteNetwork", {"NetworkID": ONE})):
        with pytest.raises(Refused, match="make room or repair the disk"):
            await joined.network(method, body)
        assert joined.state.networks.keys() == {ONE}
        assert joined.state.endpoints.keys() == {endpoint_id(1)}
        assert joined.ports.held == held
    assert joined.driver.unwanted == {endpoint_id(1), ONE}
    joined.state._database.connection.execute("PRAGMA query_only = OFF")
    await joined.network("DeleteNetwork", {"NetworkID": ONE})
    assert (joined.state.networks, joined.ports.held) == ({}, {})
    assert joined.driver.unwanted == {endpoint_id(1)}, "what is gone with the network is looked for once more"


async def test_a_network_deleted_while_an_endpoint_is_made(joined: Plugin) -> None:
    """Making it waits for the disk where it takes a lost one's address; what is left must belong to something."""
    joined.reconciler.lose(endpoint_id(1))
    state, ipam, ports, reconciler = joined.state, joined.ipam, joined.ports, joined.reconciler
    driver = NetworkDriver(state, ipam, ports, reconciler, lambda: asyncio.sleep(0, []))
    made, deleted = await asyncio.gather(
        driver.create_endpoint(msgspec.convert(samples.create_endpoint(2, "10.192.1.2/24"), protocol.CreateEndpoint)),
        driver.delete_network(protocol.NetworkRef(network_id=ONE)),
        return_exceptions=True,
    )
    assert isinstance(made, NotFound)
    assert deleted == {}
    assert (state.networks, state.endpoints) == ({}, {})


async def test_an_address_of_a_lost_endpoint_may_be_given_to_another(joined: Plugin) -> None:
    """Its container went while the plugin was away, and the engine never said so."""
    with pytest.raises(Refused, match="taken by endpoint"):
        await joined.network("CreateEndpoint", samples.create_endpoint(2, "10.192.1.2/24"))
    joined.reconciler.lose(endpoint_id(1))
    await joined.network("CreateEndpoint", samples.create_endpoint(2, "10.192.1.2/24"))
    assert joined.state.endpoints.keys() == {endpoint_id(2)}


@pytest.mark.parametrize("public", ["1.1.1.0/24", "203.0.113.0/24", "172.0.0.0/8"])
async def test_a_range_of_the_internet_is_no_networks(plugin: Plugin, public: str) -> None:
    """Its containers would answer, on this node, for whoever has those addresses."""
    body = samples.create_network(1)
    body["IPv4Data"] = [{"Pool": public, "Gateway": ""}]
    with pytest.raises(Refused, match=r"is no private range .* NETWORK_RANGES"):
        await plugin.network("CreateNetwork", body)
    with pytest.raises(Refused, match="is no private range"):
        await plugin.address("RequestPool", {"AddressSpace": "stackpad", "Pool": public, "V6": False})
    assert (plugin.state.networks, plugin.state.pools) == ({}, {})


async def test_a_public_network_of_old_goes_on(plugin: Plugin) -> None:
    """What was made before it was refused: Docker asks again for its pool, and its containers start."""
    old = samples.network(1, subnets=(Subnet("203.0.113.0/24", "203.0.113.1/24"),))
    pool = Pool(pool_id(ip_network("203.0.113.0/24")), "203.0.113.0/24")
    await plugin.state.put_network(old)
    await plugin.state.put_pool(pool)
    answer = await plugin.address("RequestPool", {"AddressSpace": "stackpad", "Pool": pool.pool, "V6": False})
    assert answer["PoolID"] == pool.id
    await plugin.network("CreateEndpoint", samples.create_endpoint(1, "203.0.113.2/24"))
    await plugin.network("Join", samples.join(1))
