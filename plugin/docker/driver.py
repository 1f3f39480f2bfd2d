"""The network driver: what Docker asks of us about networks, endpoints and published ports.

Each handler validates, writes the intent to the state, and waits until the kernel has it where the answer depends
on that. No handler asks the engine anything, since the engine may be waiting for us. Docker repeats calls, calls
things off half-way, and forgets what it was told of an error in a delete-type call: so every call may come twice,
and the ones that take something away always succeed and clean up whatever the id stands for.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

from plugin import naming
from plugin.docker import protocol
from plugin.docker.ipam import Alone, Ipam, Ranges, refuse_routes
from plugin.docker.options import identifier, network, port_requests
from plugin.docker.ports import PortReservations
from plugin.kernel.node import Route
from plugin.kernel.reconciler import Reconciler
from plugin.kernel.vanished import exists
from plugin.model import Endpoint, IPAddress, Network, Subnet
from plugin.ranges import addresses
from plugin.state import State
from stackpad.errors import Conflict, InvalidRequest, NotFound, Unavailable

INTERFACE_PREFIX = "eth"

TRIES = 3
"""Times that a link is made for one ``Join``."""

_NEXT_HOP = 0
"""A static route's type in a ``Join`` answer: by way of a gateway (libnetwork ``types.NEXTHOP``)."""


class NetworkDriver:
    """Handlers of the ``NetworkDriver`` calls; all return what goes into the answer."""

    def __init__(
        self,
        state: State,
        ipam: Ipam,
        ports: PortReservations,
        reconciler: Reconciler,
        routes: Callable[[], Awaitable[list[Route]]],
        ranges: Ranges | None = None,
    ) -> None:
        self._ranges: Ranges = ranges or Alone()
        self._state, self._ipam, self._ports, self._reconciler, self._routes = (
            state,
            ipam,
            ports,
            reconciler,
            routes,
        )
        self._creating = asyncio.Lock()
        self._unconfirmed = set(state.endpoints)
        """Endpoints of before this process, which the engine may have forgotten while it was away itself."""

        self.unwanted: set[str] = set()
        """Networks and endpoints that the engine has given up and the disk would not forget; it does not ask again."""

    async def create_network(self, request: protocol.CreateNetwork) -> dict[str, object]:
        """Make a network; refused if a range of it is somebody else's."""
        wanted = network(request, known=request.network_id in self._state.networks)
        async with contextlib.AsyncExitStack() as undo:
            async with self._creating:
                known = self._state.networks.get(wanted.id)
                if known is None:
                    self._refuse_names(wanted)
                    await self._refuse_ranges(wanted)
                    await self._ranges.claim(wanted)
                    undo.push_async_callback(self._unmake, wanted.id)
                elif replace(known, environment=wanted.environment) != wanted:
                    raise Conflict(f"network {wanted.id[:12]} exists with other options; remove it first")
                elif known.environment and not wanted.environment:
                    wanted = known
                await self._state.put_network(wanted)
            await self._reconciler.settle(wanted.id)
            undo.pop_all()
        return {}

    async def _unmake(self, network_id: str) -> None:
        """Take away what there is of a network that could not be made: the engine never asks for that."""
        # What went wrong first is what is told; what the disk will not forget now is forgotten later, as what the engine
        # does not list.
        with contextlib.suppress(Unavailable):
            if network_id in self._state.networks:
                await self._state.drop_network(network_id)
                self._reconciler.touch(network_id)
            await self._ranges.release(network_id)

    async def delete_network(self, request: protocol.NetworkRef) -> dict[str, object]:
        """Take a network away with everything that is left in it."""
        with self._given_up(request.network_id):
            await self.forget_network(request.network_id)
        return {}

    async def forget_network(self, network_id: str) -> None:
        """Drop a network, its endpoints, ports and pools; nothing if it is not known."""
        known = self._state.networks.get(network_id)
        if known is None:
            return
        endpoints = self._state.endpoints_of(known.id)
        await self._state.drop_network(known.id)
        for endpoint in endpoints:
            self._ports.release(endpoint.id)
        self._reconciler.touch(known.id)
        await self._ipam.network_deleted(known)
        await self._ranges.release(known.id)

    def heard(self) -> None:
        """The engine has said what runs: from now on its list says what has gone.

        Until then, as while it starts with all its containers, its word for an address is that it gives it to somebody.
        """
        self._unconfirmed.clear()

    async def create_endpoint(self, request: protocol.CreateEndpoint) -> dict[str, object]:
        """Admit a container to a network, with the addresses Docker has chosen or been told."""
        there = self._network(request.network_id)
        endpoint_id = identifier(request.endpoint_id, "EndpointID")
        given = request.interface or protocol.EndpointInterface()
        endpoint = _endpoint(there, endpoint_id, given)
        known = self._state.endpoints.get(endpoint_id)
        if known is not None and known.network_id != there.id:
            raise Conflict(f"endpoint {endpoint_id[:12]} belongs to network {known.network_id[:12]}")
        if known is None or (known.addresses, known.mac) != (endpoint.addresses, endpoint.mac):
            for other in self._state.endpoints_of(there.id):
                old = other.id in self._unconfirmed or self._reconciler.abandoned(other.id)
                if old and set(other.addresses) & set(endpoint.addresses):
                    # Its container went while we were away, and Docker has given its address to somebody else.
                    await self.forget_endpoint(other.id)
            there = self._network(request.network_id)  # it may have been deleted meanwhile
            self._refuse_addresses(there, endpoint)
            await self._state.put_endpoint(endpoint)
            self._unconfirmed.discard(endpoint.id)
            self._ports.release(endpoint.id)  # the new record has none
        # An answer may only say what the request left open.
        return {"Interface": {} if given.mac_address else {"MacAddress": endpoint.mac}}

    async def delete_endpoint(self, request: protocol.EndpointRef) -> dict[str, object]:
        """Take an endpoint away with its link, rules and ports."""
        with self._given_up(request.endpoint_id):
            await self.forget_endpoint(request.endpoint_id)
        return {}

    @contextlib.contextmanager
    def _given_up(self, key: str) -> Iterator[None]:
        self.unwanted.add(key)
        yield
        self.unwanted.discard(key)

    async def forget_endpoint(self, endpoint_id: str) -> None:
        """Drop an endpoint with its link, rules and ports; nothing if it is not known."""
        known = self._state.endpoints.get(endpoint_id)
        if known is not None:
            await self._state.drop_endpoint(known.id)
            self._reconciler.touch(known.network_id)
        self._ports.release(endpoint_id)

    async def endpoint_info(self, request: protocol.EndpointRef) -> dict[str, object]:
        """What is known of an endpoint; Docker cannot make ports of a remote driver out of it."""
        endpoint = self._endpoint(request)
        return {"Value": {"mac": endpoint.mac, "ports": [str(port) for port in endpoint.ports]}}

    async def join(self, request: protocol.Join) -> dict[str, object]:
        """Make the link that Docker moves into the container, and say how to configure it."""
        endpoint, there = self._endpoint(request), self._network(request.network_id)
        if not request.sandbox_key:
            raise InvalidRequest("Join came without a SandboxKey; is something else than Docker calling?")
        await self._state.put_endpoint(replace(endpoint, sandbox=request.sandbox_key, left=False))
        self._unconfirmed.discard(endpoint.id)
        try:
            await self._linked(endpoint)
        except BaseException:
            # Others of the network are not kept waiting for it.
            self._reconciler.give_up_port(there.id, endpoint.id)
            raise
        answer: dict[str, object] = {
            "InterfaceName": {"SrcName": naming.peer_name(endpoint.id), "DstPrefix": INTERFACE_PREFIX},
            "StaticRoutes": self._static_routes(endpoint, there),
            # Without this Docker would add a second interface to a network that has no way out.
            "DisableGatewayService": True,
        }
        if not there.internal:
            for key, address in (("Gateway", endpoint.ip4), ("GatewayIPv6", endpoint.ip6)):
                gateway = None if address is None else there.gateway(address)
                if gateway is not None:
                    answer[key] = str(gateway)
        return answer

    async def _linked(self, endpoint: Endpoint) -> None:
        """Return when there is a link for Docker to take; raises :class:`StackpadError` if none can be made."""
        for _ in range(TRIES):
            await self._reconciler.settle(endpoint.network_id)
            if exists(naming.peer_name(endpoint.id)):
                return
            # Joined once before, and the old pair's end is in a container that may be gone; or it was compared just now.
            self._reconciler.forget_port(endpoint.network_id, endpoint.id)
        raise Unavailable(f"the link of endpoint {endpoint.id[:12]} does not stay; does somebody delete it? Try again")

    def _static_routes(self, endpoint: Endpoint, there: Network) -> list[dict[str, object]]:
        """The ways beside the default route, of which an internal network has none: to the names, and to other nodes."""
        if not there.internal:
            return []
        routes: list[dict[str, object]] = []
        for address in endpoint.addresses:
            gateway = there.gateway(address)
            if gateway is not None:
                routes += [
                    {"Destination": str(net), "RouteType": _NEXT_HOP, "NextHop": str(gateway)}
                    for net in self._ranges.beyond(address.version)
                ]
        return routes

    async def leave(self, request: protocol.EndpointRef) -> dict[str, object]:
        """Disconnect an endpoint; its link stays for Docker to take out of the container."""
        return await self._withdraw(request, left=True)

    async def program_external_connectivity(self, request: protocol.ProgramExternalConnectivity) -> dict[str, object]:
        """Publish the endpoint's ports; what was published for it before is replaced."""
        endpoint = self._endpoint(request)
        requests = port_requests(request.options)
        try:
            ports = self._ports.reserve(endpoint, requests)
            if ports == endpoint.ports:
                return {}
            await self._state.put_endpoint(replace(self._endpoint(request), ports=ports))
            await self._reconciler.settle(endpoint.network_id)
        except BaseException:
            await self._withdraw(request, left=False)
            raise
        return {}

    async def revoke_external_connectivity(self, request: protocol.EndpointRef) -> dict[str, object]:
        """Take the endpoint's published ports back."""
        return await self._withdraw(request, left=False)

    async def _withdraw(self, request: protocol.EndpointRef, *, left: bool) -> dict[str, object]:
        self._ports.release(request.endpoint_id)
        known = self._state.endpoints.get(request.endpoint_id)
        if known is not None:
            try:
                await self._state.put_endpoint(replace(known, ports=(), left=left or known.left))
            except BaseException:
                self._ports.restore(known)  # what the disk refuses to forget stays published, and so held
                raise
            self._reconciler.touch(known.network_id)
        return {}

    def _network(self, network_id: str) -> Network:
        known = self._state.networks.get(network_id)
        if known is None:
            raise NotFound(
                f"network {ascii(network_id)[1:13]} is not known to the plugin: its state was lost or Docker "
                "created it with another plugin; remove the network and create it again"
            )
        return known

    def _endpoint(self, request: protocol.EndpointRef) -> Endpoint:
        known = self._state.endpoints.get(request.endpoint_id)
        if known is None or known.network_id != request.network_id:
            raise NotFound(
                f"endpoint {ascii(request.endpoint_id)[1:13]} is not known in network "
                f"{ascii(request.network_id)[1:13]}; disconnect the container (docker network disconnect -f) "
                "and connect it again"
            )
        return known

    def _refuse_names(self, wanted: Network) -> None:
        for other in self._state.networks.values():
            if other.bridge == wanted.bridge:
                raise Conflict(f"network {wanted.id} would have the same bridge as {other.id}; create it once more")

    async def _refuse_ranges(self, wanted: Network) -> None:
        routes = await self._routes()
        held = self._state.network_ranges()
        for subnet in wanted.subnets:
            other = addresses.first_overlap(subnet.net, held)
            if other is not None:
                raise Conflict(self._overlapping(subnet, other))
            refuse_routes(subnet.net, routes)
            self._ranges.refuse(subnet.net)

    def _overlapping(self, subnet: Subnet, other: str) -> str:
        holder = self._state.network_of_pool(other)
        name = "another network" if holder is None else f"network {holder.environment or holder.id[:12]}"
        return (
            f"range {subnet.pool} overlaps {other} of {name}; choose another with --subnet, "
            "or leave it out to have a free one chosen"
        )

    def _refuse_addresses(self, there: Network, endpoint: Endpoint) -> None:
        taken: dict[IPAddress, str] = {ipaddress.ip_address(text): "--aux-address" for text in there.reserved}
        for subnet in there.subnets:
            if subnet.gateway_interface is not None:
                taken[subnet.gateway_interface.ip] = "the gateway"
        for other in self._state.endpoints_of(there.id):
            if other.id != endpoint.id:
                taken.update((ip, f"endpoint {other.id[:12]}") for ip in other.addresses)
        for ip in endpoint.addresses:
            if ip in taken:
                raise Conflict(f"address {ip} is taken by {taken[ip]}; take another with --ip, or leave it out")
        if endpoint.mac == naming.bridge_mac(there.id):
            raise Conflict(f"MAC address {endpoint.mac} is the gateway's; take another with --mac-address")
        for other in self._state.endpoints_of(there.id):
            if other.id != endpoint.id and other.mac == endpoint.mac:
                raise Conflict(
                    f"MAC address {endpoint.mac} is that of endpoint {other.id[:12]} in the same network; "
                    "take another with --mac-address"
                )


def _endpoint(there: Network, endpoint_id: str, given: protocol.EndpointInterface) -> Endpoint:
    ranges = [subnet.net for subnet in there.subnets]
    checked: dict[int, str] = {}
    for version, text in ((4, given.address), (6, given.address_ipv6)):
        if not text:
            continue
        try:
            interface = ipaddress.ip_interface(addresses.unzoned(text))
        except ValueError as error:
            raise InvalidRequest(f"address {ascii(text)[:80]} of an endpoint is not in CIDR form") from error
        within = [net for net in ranges if interface.version == version and interface.ip in net]
        if not within:
            raise InvalidRequest(f"address {interface} does not lie in a range of network {there.id[:12]}")
        addresses.check_host(within[0], interface.ip)
        checked[version] = f"{interface.ip}/{within[0].prefixlen}"
    if not checked:
        raise InvalidRequest("CreateEndpoint came without an address; has the network's IPAM driver none left?")
    endpoint = Endpoint(endpoint_id, there.id, "", checked.get(4), checked.get(6))
    mac = _mac(given.mac_address) or naming.endpoint_mac(there.id, endpoint.ip4, endpoint.ip6)
    return replace(endpoint, mac=mac)


def _mac(text: str) -> str:
    if not text:
        return ""
    octets = text.lower().split(":")
    if len(octets) != 6 or any(len(o) != 2 or not set(o) <= set("0123456789abcdef") for o in octets):
        raise InvalidRequest(f"MAC address {ascii(text)[:80]} is not of the form 02:42:ac:11:00:02")
    if int(octets[0], 16) & 1 or not any(int(octet, 16) for octet in octets):
        raise InvalidRequest(f"MAC address {text} is a group's or nobody's; the first octet must be even, not all zero")
    return ":".join(octets)
