"""Docker as it is at its worst: calls in any order, repeated, with a disk and a kernel that refuse now and then.

Whatever was called, and whatever was refused: no address has two owners, no two ranges overlap, ports are held exactly
where they are published, the disk has what memory has; and when everything has been taken back, nothing is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections import Counter
from ipaddress import ip_interface
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from structlog.testing import capture_logs

from plugin.kernel.dataplane import desired, union
from plugin.state import State
from stackpad.errors import Unavailable
from tests import samples
from tests.samples import binding, endpoint_id, network_id
from tests.served import Plugin, Refused, served

MEMORY = Path("/dev/shm")  # where every write need not reach a disk
NUMBERS = st.integers(0, 3)
RANGES = st.sampled_from(["10.5.0.0/29", "10.5.0.0/24", "10.5.1.0/29", "10.6.0.0/16", "fd00:5::/64"])
HOSTS = st.integers(0, 9)
GATEWAY = {"RequestAddressType": "com.docker.network.gateway"}


def host(net: str, number: int) -> str:
    """Address ``number`` of a range, in CIDR form."""
    interface = ip_interface(net)
    return f"{interface.ip + number}/{interface.network.prefixlen}"


class Docker(RuleBasedStateMachine):
    """Calls, and what must hold between them. ``given`` counts the addresses that our IPAM chose and has out."""

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._stack = contextlib.AsyncExitStack()
        self._directory = tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)
        self._monkeypatch = pytest.MonkeyPatch()
        self._logs = self._stack.enter_context(capture_logs())
        self._disk_refuses = False
        self.pools: set[str] = set()
        self.given: set[tuple[str, str]] = set()

    @initialize()
    def start(self) -> None:
        running = served(Path(self._directory.name), self._monkeypatch)
        self.plugin: Plugin = self._runner.run(self._stack.enter_async_context(running))
        for number, pool in enumerate(("10.5.0.0/29", "fd00:5::/64")):
            self.request_pool(pool, v6=":" in pool)
            self.create_network(number, pool, None, internal=False)

    def _call(self, method: str, body: dict[str, Any]) -> dict[str, Any] | None:
        self._query_only(on=self._disk_refuses)
        self._disk_refuses = False
        try:
            return self._runner.run(self.plugin.call(method, body))
        except Refused as refusal:
            text = str(refusal)
            assert "inside the plugin" not in text
            assert text.isprintable()
            assert len(text) < 500
            return None

    def _network(self, method: str, body: dict[str, Any]) -> dict[str, Any] | None:
        return self._call(f"NetworkDriver.{method}", body)

    def _address(self, method: str, body: dict[str, Any]) -> dict[str, Any] | None:
        return self._call(f"IpamDriver.{method}", body)

    def _query_only(self, *, on: bool) -> None:
        self.plugin.state._database.connection.execute(f"PRAGMA query_only = {int(on)}")

    def _live(self, data: st.DataObject) -> dict[str, Any]:
        """An endpoint there is, if there is one, or else any."""
        numbers = {network_id(n): n for n in range(4)}
        live = [(n, e) for n in range(4) if (e := self.plugin.state.endpoints.get(endpoint_id(n))) is not None]
        if not live or data.draw(st.integers(0, 9)) == 0:
            return {"number": data.draw(NUMBERS), "net": data.draw(NUMBERS)}
        number, endpoint = data.draw(st.sampled_from(live))
        return {"number": number, "net": numbers[endpoint.network_id]}

    @rule(pool=RANGES | st.just(""), v6=st.booleans())
    def request_pool(self, pool: str, *, v6: bool) -> None:
        answer = self._address("RequestPool", {"Pool": pool, "V6": v6})
        if answer is not None:
            self.pools.add(answer["PoolID"])

    @precondition(lambda self: self.pools)
    @rule(data=st.data(), number=HOSTS | st.none(), gateway=st.booleans())
    def request_address(self, data: st.DataObject, number: int | None, *, gateway: bool) -> None:
        pool = data.draw(st.sampled_from(sorted(self.pools)))
        wanted = "" if number is None else host(pool.removeprefix("stackpad/"), number).partition("/")[0]
        answer = self._address(
            "RequestAddress", {"PoolID": pool, "Address": wanted, "Options": GATEWAY if gateway else None}
        )
        if answer is None:
            return
        address = answer["Address"].partition("/")[0]
        if not wanted:
            assert (pool, address) not in self.given, "an address that is out was given once more"
            live = {str(ip) for e in self.plugin.state.endpoints.values() for ip in e.addresses}
            assert address not in live
        self.given.add((pool, address))

    @precondition(lambda self: self.given)
    @rule(data=st.data())
    def release_address(self, data: st.DataObject) -> None:
        pool, address = data.draw(st.sampled_from(sorted(self.given)))
        if self._address("ReleaseAddress", {"PoolID": pool, "Address": address}) is not None:
            self.given.discard((pool, address))

    @precondition(lambda self: self.pools)
    @rule(data=st.data())
    def release_pool(self, data: st.DataObject) -> None:
        pool = data.draw(st.sampled_from(sorted(self.pools)))
        if self._address("ReleasePool", {"PoolID": pool}) is not None and pool not in self.plugin.state.pools:
            self._forget(pool)

    @rule(number=NUMBERS, pool=RANGES, second=RANGES | st.none(), internal=st.booleans())
    def create_network(self, number: int, pool: str, second: str | None, *, internal: bool) -> None:
        ranges = [{"Pool": net, "Gateway": host(net, 1)} for net in (pool, second) if net]
        body = samples.create_network(number, options={"com.docker.network.internal": internal})
        body["IPv4Data"] = [data for data in ranges if ":" not in data["Pool"]]
        body["IPv6Data"] = [data for data in ranges if ":" in data["Pool"]]
        before = dict(self.plugin.state.networks)
        if self._network("CreateNetwork", body) is None:
            assert self.plugin.state.networks == before, "something half-made stayed"
        else:
            assert network_id(number) in self.plugin.state.networks

    @rule(number=NUMBERS)
    def delete_network(self, number: int) -> None:
        if self._network("DeleteNetwork", {"NetworkID": network_id(number)}) is not None:
            assert network_id(number) not in self.plugin.state.networks
            for pool in [pool for pool in self.pools if pool not in self.plugin.state.pools]:
                self._forget(pool)

    @rule(data=st.data(), number=NUMBERS, at=HOSTS, mac=st.sampled_from(["", "", "02:00:00:00:00:01", "x"]))
    def create_endpoint(self, data: st.DataObject, number: int, at: int, mac: str) -> None:
        net = data.draw(NUMBERS)
        there = self.plugin.state.networks.get(network_id(net))
        pool = data.draw(st.sampled_from([subnet.pool for subnet in there.subnets]) if there else RANGES)
        body = samples.create_endpoint(number, host(pool, at), net=net, mac=mac)
        if ":" in pool:
            body["Interface"] |= {"Address": "", "AddressIPv6": host(pool, at)}
        before = dict(self.plugin.state.endpoints)
        if self._network("CreateEndpoint", body) is None:
            assert self.plugin.state.endpoints == before, "something half-made stayed"

    @rule(data=st.data())
    def join(self, data: st.DataObject) -> None:
        self._network("Join", samples.join(**self._live(data)))

    @rule(
        data=st.data(),
        wanted=st.lists(st.tuples(st.integers(40_000, 40_003), st.sampled_from([6, 17])), max_size=3),
    )
    def publish(self, data: st.DataObject, wanted: list[tuple[int, int]]) -> None:
        there = self._live(data)
        bindings = [binding(80, port, proto=proto, address="127.0.0.1") for port, proto in wanted]
        self._network("ProgramExternalConnectivity", samples.publish(there["number"], *bindings, net=there["net"]))

    @rule(
        data=st.data(),
        method=st.sampled_from(["Leave", "DeleteEndpoint", "RevokeExternalConnectivity", "EndpointOperInfo"]),
    )
    def call_about_an_endpoint(self, data: st.DataObject, method: str) -> None:
        self._network(method, samples.reference(**self._live(data)))

    @rule()
    def the_kernel_refuses(self) -> None:
        """The next time that somebody waits for it."""
        self.plugin.reconciler.refuse = Unavailable("the kernel refused")

    @rule()
    def the_disk_refuses(self) -> None:
        """Whatever the next call would write."""
        self._disk_refuses = True

    @rule()
    def the_janitor(self) -> None:
        self._query_only(on=False)
        self._runner.run(self.plugin.ipam.collect(-1))
        state = self.plugin.state
        for pool in [pool for pool in self.pools if pool not in state.pools]:
            self._forget(pool)
        self.given = {(p, a) for p, a in self.given if a in {str(ip) for ip in state.allocations_of(p)}}

    def _forget(self, pool: str) -> None:
        self.pools.discard(pool)
        self.given = {(of, address) for of, address in self.given if of != pool}

    @invariant()
    def no_two_ranges_overlap(self) -> None:
        state = self.plugin.state
        ranges = [subnet.net for network in state.networks.values() for subnet in network.subnets]
        for nets in (ranges, [pool.net for pool in state.pools.values()]):
            pairs = ((a, b) for a, b in combinations(nets, 2) if a.version == b.version)
            assert [pair for pair in pairs if pair[0].overlaps(pair[1])] == []

    @invariant()
    def no_address_has_two_owners(self) -> None:
        state = self.plugin.state
        owners = Counter((e.network_id, ip) for e in state.endpoints.values() for ip in e.addresses)
        owners.update(
            (n.id, s.gateway_interface.ip) for n in state.networks.values() for s in n.subnets if s.gateway_interface
        )
        assert [owner for owner, count in owners.items() if count > 1] == []

    @invariant()
    def everything_belongs_to_something(self) -> None:
        state = self.plugin.state
        for network in state.networks.values():
            there = {e.id for e in state.endpoints.values() if e.network_id == network.id}
            assert {e.id for e in state.endpoints_of(network.id)} == there
            assert all(state.network_of_pool(subnet.pool) == network for subnet in network.subnets)
        assert {e.network_id for e in state.endpoints.values()} <= state.networks.keys()
        assert {pool for pool, taken in state.allocations.items() if taken} <= state.pools.keys()

    @invariant()
    def ports_are_held_where_they_are_published(self) -> None:
        state = self.plugin.state
        published = {e.id: e.ports for e in state.endpoints.values() if e.ports}
        assert {key: ports for key, ports in self.plugin.ports.held.items() if ports} == published
        parts = [desired(n, state.endpoints_of(n.id), uplink_mtu=1500) for n in state.networks.values()]
        keys = Counter((e.set, e.key) for e in union(parts).elements)
        assert [key for key, count in keys.items() if count > 1] == [], "one key of a map with two values"

    @invariant()
    def nothing_failed_inside(self) -> None:
        assert [entry for entry in self._logs if entry["log_level"] == "error"] == []

    def teardown(self) -> None:
        try:
            if hasattr(self, "plugin"):
                self._runner.run(self._end())
        finally:
            self._runner.run(self._stack.aclose())
            self._runner.close()
            self._monkeypatch.undo()
            self._directory.cleanup()

    async def _end(self) -> None:
        plugin, state = self.plugin, self.plugin.state
        self._query_only(on=False)
        async with State(Path(self._directory.name) / "net.db") as stored:
            for table in ("networks", "endpoints", "pools"):
                assert getattr(stored, table) == getattr(state, table)
            assert stored.allocations == {pool: taken for pool, taken in state.allocations.items() if taken}
        for number in range(4):
            for net in range(4):
                await plugin.network("DeleteEndpoint", samples.reference(number, net=net))
            await plugin.network("DeleteNetwork", {"NetworkID": network_id(number)})
        for pool in list(state.pools):
            await plugin.address("ReleasePool", {"PoolID": pool})
        assert (state.networks, state.endpoints, state.pools) == ({}, {}, {})
        assert {pool: taken for pool, taken in state.allocations.items() if taken} == {}
        assert plugin.ports.held == {}
        assert endpoint_id(0) not in state.endpoints


TestDocker = pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")(Docker.TestCase)
Docker.TestCase.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
