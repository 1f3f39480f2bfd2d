"""This node as the others see it: its record, its networks, its containers and its web services."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from importlib.metadata import version

from plugin.kernel.reconciler import Reconciler
from plugin.local.attachments import Attachments
from plugin.local.webdesk import WebDesk
from plugin.settings import Settings
from plugin.state import State
from plugin.store.membership import Membership
from plugin.store.publisher import own_endpoints, own_records
from plugin.wireguard.keys import Keys
from stackpad import records


class Presence:
    """What there is to be told; ``engine_version`` is empty until the engine has been asked."""

    def __init__(
        self,
        settings: Settings,
        state: State,
        reconciler: Reconciler,
        keys: Keys,
        attachments: Attachments,
        desk: WebDesk,
    ) -> None:
        self.engine_version = ""
        self._settings, self._state, self._reconciler = settings, state, reconciler
        self._keys, self._attachments, self._desk = keys, attachments, desk

    def node(self, membership: Membership) -> records.Node:
        """This node itself."""
        return records.Node(
            owner=membership.node,
            name=membership.name,
            public_keys=self._keys.public_keys,
            endpoints=() if membership.nat else self.endpoints(),
            mesh4=membership.mesh4,
            mesh6=membership.mesh6,
            mtu=self._reconciler.facts.mtu,
            control=membership.control,
            engine=self.engine_version,
            version=version("stackpad"),
            joined=membership.joined,
        )

    def endpoints(self) -> tuple[str, ...]:
        """Where others may reach the tunnel: what the operator says, else every address of the node's."""
        port = self._settings.mesh_port
        if self._settings.endpoints:
            return tuple(_with_port(text, port) for text in self._settings.endpoints)
        addresses = sorted(self._reconciler.facts.addresses, key=lambda ip: (ip.is_private, ip.version, int(ip)))
        return tuple(records.join_endpoint(str(address), port) for address in addresses)

    @property
    def whole(self) -> bool:
        """Whether :meth:`records` are all there are; what the store has beside them is then to go."""
        return self._attachments.complete.is_set()

    def alone(self) -> Iterator[records.Endpoint]:
        """The endpoints of this node where it is in no cluster, and names are Docker's own."""
        return own_endpoints("", self._state.networks.values(), self._state.endpoints, self._attachments.by_endpoint)

    def records(self, membership: Membership | None) -> Mapping[str, records.Record] | None:
        """All that should be in the store of it, by key; ``None`` while that is not known."""
        if membership is None or not self._reconciler.ready.is_set():
            return None
        if not self.whole:
            # Not yet known is not "none": what the store has of this node stays until the engine has been asked. The
            # rest is written: ranges that the store does not know of would be given to the next node that joins.
            return own_records(membership, self.node(membership), (), {}, {})
        return own_records(
            membership,
            self.node(membership),
            self._state.networks.values(),
            self._state.endpoints,
            self._attachments.by_endpoint,
            self._desk.report,
        )


def _with_port(text: str, port: int) -> str:
    try:
        return records.join_endpoint(str(ipaddress.ip_address(text)), port)
    except ValueError:
        return text
