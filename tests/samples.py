"""Networks, endpoints and requests as a real engine sends them, by number, for all tests of the plugin."""

from __future__ import annotations

import hashlib
from typing import Any

from plugin import naming
from plugin.model import Endpoint, Network, PublishedPort, Subnet


def identity(what: str, number: int) -> str:
    """An id as Docker makes them: 64 digits that begin differently for each number."""
    return hashlib.sha256(f"{what} {number}".encode()).hexdigest()


def network_id(number: int) -> str:
    return identity("network", number)


def endpoint_id(number: int) -> str:
    return identity("endpoint", number)


def network(number: int = 1, **changes: Any) -> Network:
    """Network ``number`` with 10.192.<number>.0/24."""
    fields: dict[str, Any] = {
        "id": network_id(number),
        "subnets": (Subnet(f"10.192.{number}.0/24", f"10.192.{number}.1/24"),),
        "bridge": naming.bridge_name(network_id(number)),
    }
    return Network(**{**fields, **changes})


def network6(number: int = 1, **changes: Any) -> Network:
    """Network ``number`` with an IPv6 range beside the IPv4 one."""
    subnets = (*network(number).subnets, Subnet(f"fd00:{number}::/64", f"fd00:{number}::1/64"))
    return network(number, subnets=subnets, ipv6=True, **changes)


def endpoint(there: Network, host: int = 2, *, ports: tuple[PublishedPort, ...] = (), **changes: Any) -> Endpoint:
    """A joined endpoint of ``there`` at host number ``host`` in each of its ranges."""
    fields: dict[str, Any] = {}
    for subnet in there.subnets:
        fields[f"address{subnet.net.version}"] = f"{subnet.net.network_address + host}/{subnet.net.prefixlen}"
    made = Endpoint(
        identity(f"endpoint of {there.id}", host),
        there.id,
        f"02:50:00:00:00:{host:02x}",
        sandbox="/run/netns/x",
        **fields,
    )
    changed: dict[str, Any] = {"ports": ports, **changes}
    return Endpoint(**{**{name: getattr(made, name) for name in Endpoint.__dataclass_fields__}, **changed})


def create_network(number: int = 1, *, pool: str = "", options: dict[str, Any] | None = None) -> dict[str, Any]:
    """The body of ``CreateNetwork``."""
    net = pool or f"10.192.{number}.0/24"
    gateway = net.replace(".0/", ".1/")
    return {
        "NetworkID": network_id(number),
        "Options": {"com.docker.network.enable_ipv6": False, "com.docker.network.generic": {}, **(options or {})},
        "IPv4Data": [{"AddressSpace": "stackpad", "Pool": net, "Gateway": gateway}],
        "IPv6Data": [],
    }


def create_endpoint(number: int, at: str, *, net: int = 1, mac: str = "") -> dict[str, Any]:
    """The body of ``CreateEndpoint`` for a container at ``at`` (CIDR form) in network ``net``."""
    return {
        "NetworkID": network_id(net),
        "EndpointID": endpoint_id(number),
        "Interface": {"Address": at, "AddressIPv6": "", "MacAddress": mac},
        "Options": {"com.docker.network.endpoint.exposedports": [], "com.docker.network.portmap": []},
    }


def reference(number: int, *, net: int = 1) -> dict[str, Any]:
    """The body of the calls that name an endpoint and nothing else."""
    return {"NetworkID": network_id(net), "EndpointID": endpoint_id(number)}


def join(number: int, *, net: int = 1) -> dict[str, Any]:
    """The body of ``Join``."""
    return {**reference(number, net=net), "SandboxKey": f"/var/run/docker/netns/{number:012x}", "Options": {}}


def publish(number: int, *bindings: dict[str, Any], net: int = 1) -> dict[str, Any]:
    """The body of ``ProgramExternalConnectivity`` with the given entries of the port map."""
    return {**reference(number, net=net), "Options": {"com.docker.network.portmap": list(bindings)}}


def binding(port: int, host_port: int = 0, *, end: int = 0, address: str = "", proto: int = 6) -> dict[str, Any]:
    """One entry of the port map; without a host port any will do."""
    return {
        "Proto": proto,
        "IP": "",
        "Port": port,
        "HostIP": address,
        "HostPort": host_port,
        "HostPortEnd": end or host_port,
    }
