"""Endpoints whose veth pair is not where it should be: their containers are gone, and Docker has not said so."""

from __future__ import annotations

import socket
from collections.abc import Collection

from plugin import naming
from plugin.state import State


class Vanished:
    """What the last comparison has found of them, and what can be seen at the moment."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.lost: frozenset[str] = frozenset()
        """Endpoints that Docker has not taken back although their veth pair is gone."""
        self._returned: frozenset[str] = frozenset()

    def expected(self) -> frozenset[str]:
        """Our links that should be there: a list of links may lack some of those that are."""
        ports = {naming.port_name(endpoint.id) for endpoint in self._state.endpoints.values() if endpoint.sandbox}
        return frozenset(ports | {network.bridge for network in self._state.networks.values()})

    def look(self, ports: Collection[str], made: Collection[str] | None) -> None:
        """Take over which of our ends of veth pairs there are (of :meth:`expected`, all), and see what is back from
        containers.

        ``made`` are those that were there before ``ports`` were read, ``None`` for whatever the state has: a pair that is
        only about to be made is not lost.
        """
        endpoints = self._state.endpoints.values()
        gone = {e.id: naming.port_name(e.id) for e in endpoints if e.sandbox and naming.port_name(e.id) not in ports}
        self.lost = frozenset(id_ for id_, port in gone.items() if made is None or port in made or id_ in self.lost)
        interfaces = {name for _, name in socket.if_nameindex()}
        self._returned = frozenset(e.id for e in endpoints if naming.peer_name(e.id) in interfaces)

    def found(self, endpoint_id: str) -> None:
        """The endpoint gets a pair of its own again."""
        self.lost -= {endpoint_id}

    def missed(self, endpoint_id: str) -> bool:
        """The endpoint was to get a pair, and could not; returns whether it has none."""
        none = not exists(naming.port_name(endpoint_id))
        self.lost |= {endpoint_id} if none else set()
        return none

    def abandoned(self, endpoint_id: str) -> bool:
        """Whether no container has the endpoint any more, though Docker has not taken it back.

        Its veth pair is gone at this moment, or the end that was in the container has been back in the node's namespace
        since the last comparison: that is where Docker puts it when the container is removed.
        """
        returned = endpoint_id in self._returned and exists(naming.peer_name(endpoint_id))
        known = self._state.endpoints.get(endpoint_id)
        gone = known is not None and bool(known.sandbox) and not exists(naming.port_name(endpoint_id))
        return endpoint_id in self.lost or returned or gone


def exists(interface: str) -> bool:
    """Whether a link of this name is in the node's namespace; what cannot be asked for is taken to be."""
    try:
        socket.if_nametoindex(interface)
    except OSError:
        # The same is said where there is none and where no file may be opened to ask; the list says which.
        try:
            return interface in {name for _, name in socket.if_nameindex()}
        except OSError:
            return True
    return True
