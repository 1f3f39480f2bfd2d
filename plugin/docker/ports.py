"""Published ports: who has which port of the node.

A published port is held by a socket that is bound and never used: packets are redirected before they could reach
it. It makes every other program on the node, Docker's own port proxy among them, fail with "address already in
use" where it should, and us with a sentence where somebody was first.
"""

from __future__ import annotations

import errno
import ipaddress
import random
import socket
from collections.abc import Callable, Iterable, Mapping

from plugin.docker.options import PortRequest
from plugin.model import Endpoint, PublishedPort
from plugin.model import Protocol as Transport
from stackpad.errors import Conflict, InvalidRequest, Unavailable, plain

_KINDS = {Transport.TCP: socket.SOCK_STREAM, Transport.UDP: socket.SOCK_DGRAM}
_RANDOM_TRIES = 64

CHOSEN = range(49152, 61000)
"""Where a port is chosen from: RFC 6335's dynamic ports, as far as Linux gives them out, and none that containers'
connections leave by (see ``source_nat`` in :mod:`plugin.kernel.chains`)."""


class PortReservations:
    """The ports held for each endpoint; on the event loop, since binding does not block.

    ``container_of`` says what an endpoint's container is called, as far as the engine has told; empty if it has not.
    """

    def __init__(self) -> None:
        self.container_of: Callable[[str], str] = lambda _: ""
        self._sockets: dict[str, list[socket.socket]] = {}
        self._ports: dict[str, tuple[PublishedPort, ...]] = {}

    def reserve(self, endpoint: Endpoint, requests: Iterable[PortRequest]) -> tuple[PublishedPort, ...]:
        """Hold a port for each request and say which; what the endpoint held before is given back first.

        All or nothing. Raises :class:`Conflict` naming the port and who has it, :class:`InvalidRequest` for a host
        address the node or the endpoint cannot serve.
        """
        self.release(endpoint.id)
        held: list[socket.socket] = []
        ports: list[PublishedPort] = []
        try:
            for request in requests:
                port, sockets = self._hold(endpoint, request)
                held += sockets
                ports.append(port)
        except BaseException:
            _close(held)
            raise
        self._sockets[endpoint.id] = held
        self._ports[endpoint.id] = tuple(ports)
        return self._ports[endpoint.id]

    def restore(self, endpoint: Endpoint) -> list[str]:
        """Hold again what ``endpoint`` has by its record; returns what could not be held, and why.

        The redirection goes on in any case: an interrupted plugin must not interrupt a container.
        """
        problems = []
        held: list[socket.socket] = []
        for port in endpoint.ports:
            try:
                held += _bind(endpoint, port.protocol, port.host_address, port.host_port)
            except OSError as error:
                problems.append(f"{port} of endpoint {endpoint.id[:12]}: {error.strerror}")
        self._sockets[endpoint.id] = held
        self._ports[endpoint.id] = endpoint.ports
        return problems

    def release(self, endpoint_id: str) -> None:
        """Give back what the endpoint holds; nothing if that is nothing."""
        self._ports.pop(endpoint_id, None)
        _close(self._sockets.pop(endpoint_id, []))

    @property
    def held(self) -> Mapping[str, tuple[PublishedPort, ...]]:
        """The published ports by endpoint id."""
        return self._ports

    def _hold(self, endpoint: Endpoint, request: PortRequest) -> tuple[PublishedPort, list[socket.socket]]:
        _refuse_family(endpoint, request)
        if not request.host_ports:
            return self._hold_any(endpoint, request)
        for number in request.host_ports:
            try:
                sockets = _bind(endpoint, request.protocol, request.host_address, number)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise _explained(request, number, error) from error
                continue
            return request.at(number), sockets
        raise Conflict(self._taken(request))

    def _hold_any(self, endpoint: Endpoint, request: PortRequest) -> tuple[PublishedPort, list[socket.socket]]:
        for number in random.sample(CHOSEN, _RANDOM_TRIES):
            try:
                return request.at(number), _bind(endpoint, request.protocol, request.host_address, number)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise _explained(request, number, error) from error
        raise Conflict(f"no {request.protocol} port of this node is free to publish {request.container_port}")

    def _taken(self, request: PortRequest) -> str:
        ports = request.host_ports
        where = request.host_address or "this node"
        ours = [endpoint for endpoint, held in self._ports.items() if any(_clash(port, request) for port in held)]
        who = "another program (see ss -lnp)"
        if ours:
            name = next(filter(None, map(self.container_of, ours)), "")
            who = f"container {plain(name)}" if name else "another container (stackpad ports names it)"
        if len(ports) == 1:
            return (
                f"port {ports[0]}/{request.protocol} of {where} is taken by {who}; "
                f"publish another, or -p {request.container_port} to have a free one chosen"
            )
        return f"all ports {ports[0]}-{ports[-1]}/{request.protocol} of {where} are taken, one by {who}; widen the range"


def _refuse_family(endpoint: Endpoint, request: PortRequest) -> None:
    address = request.host_address
    if address is None:
        return
    version = 6 if ":" in address else 4
    if (endpoint.ip6 if version == 6 else endpoint.ip4) is None:
        raise InvalidRequest(
            f"port {request.container_port} cannot be published on {address}: the container has no IPv{version} "
            "address on this network" + ("; create the network with --ipv6" if version == 6 else "")
        )


def _explained(request: PortRequest, number: int, error: OSError) -> Exception:
    if error.errno == errno.EADDRNOTAVAIL:
        return InvalidRequest(
            f"{request.host_address} is not an address of this node; publish on one of ip addr, or on all of them"
        )
    return Unavailable(f"port {number}/{request.protocol} cannot be held: {error.strerror}")


def _bind(endpoint: Endpoint, protocol: Transport, address: str | None, number: int) -> list[socket.socket]:
    wanted: list[tuple[socket.AddressFamily, str]] = []
    if address is not None:
        wanted.append((socket.AF_INET6 if ":" in address else socket.AF_INET, address))
    else:
        if endpoint.ip4 is not None:
            wanted.append((socket.AF_INET, "0.0.0.0"))
        if endpoint.ip6 is not None:
            wanted.append((socket.AF_INET6, "::"))
    held: list[socket.socket] = []
    try:
        for family, host in wanted:
            held.append(_bound(family, protocol, host, number))
    except BaseException:
        _close(held)
        raise
    return held


def _bound(family: socket.AddressFamily, protocol: Transport, host: str, number: int) -> socket.socket:
    """A bound socket; without SO_REUSEADDR, so that nobody else can bind beside it.

    That also trips over connections in TIME_WAIT of a server that was here before, which are no claim to the
    port; a listening socket can be had in spite of them, and of nothing else.
    """
    try:
        return _bound_once(family, protocol, host, number, listen=False)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or protocol is not Transport.TCP:
            raise
        return _bound_once(family, protocol, host, number, listen=True)


def _bound_once(
    family: socket.AddressFamily, protocol: Transport, host: str, number: int, *, listen: bool
) -> socket.socket:
    held = socket.socket(family, _KINDS[protocol])
    try:
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if listen:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((host, number))
        if listen:
            held.listen(1)
    except BaseException:
        held.close()
        raise
    return held


def _close(sockets: Iterable[socket.socket]) -> None:
    for held in sockets:
        held.close()


def _clash(held: PublishedPort, request: PortRequest) -> bool:
    """Whether a port that is held is one of those asked for, at the same address or at all of one of the two."""
    if held.protocol != request.protocol or held.host_port not in request.host_ports:
        return False
    if held.host_address is None or request.host_address is None:
        return True
    one, other = map(ipaddress.ip_address, (held.host_address, request.host_address))
    return one.version == other.version and (one == other or one.is_unspecified or other.is_unspecified)
