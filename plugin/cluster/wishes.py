"""What a member of a cluster wants of its tunnel: from the records as far as they are lawful, and from who may come."""

from __future__ import annotations

import time
from dataclasses import replace

from plugin import steady
from plugin.joining.guests import Guests
from plugin.ranges.grounds import Grounds
from plugin.settings import Settings
from plugin.store import access, mesh
from plugin.store.membership import Membership
from plugin.store.mesh import View
from plugin.tunnel import wants
from plugin.tunnel.handover import Handover
from plugin.tunnel.wants import Wanted
from plugin.wireguard.keys import Keys
from plugin.wireguard.model import Observed
from stackpad import records


class Wishes:
    """Computed anew at each round of the tunnel; the other nodes' changes of keys are followed meanwhile."""

    def __init__(self, settings: Settings, keys: Keys, guests: Guests) -> None:
        self._settings, self._keys, self._guests = settings, keys, guests
        self._handover = Handover()

    @property
    def problems(self) -> tuple[str, ...]:
        """What a person should know of other nodes' keys."""
        return self._handover.problems

    def of(self, membership: Membership, known: View, observed: Observed | None, grounds: Grounds) -> Wanted:
        """What is wanted with these records, while WireGuard is as ``observed``; ranges are judged by ``grounds``."""
        settings = self._settings
        services = [mesh.STORE_PORT] if membership.embeds(settings.store) else []
        services += [mesh.METRICS_PORT] if settings.mesh_metrics else []
        view = wants.with_gateway(known, membership)
        lawful = wants.lawful(view, membership.node, grounds, membership.cluster)
        view = lawful.view
        mine = records.Node(owner=membership.node, name=membership.name, public_keys=self._keys.public_keys)
        members = {**view.nodes, membership.node: mine}
        choices = self._handover.choose(
            (node for node in members.values() if node.owner not in view.removed),
            observed,
            steady.now(),
            first=(membership.node, membership.cluster.owner),
        )
        wanted = wants.of_member(
            membership,
            view,
            self._keys.private_key,
            settings.mesh_port,
            guests=self._guests.peers(time.time()),
            services=services,
            keys=choices,
            stores=access.guarded(settings, membership),
        )
        wanted = replace(wanted, due=self._handover.due, refused=lawful.problems, left=lawful.left)
        return replace(wanted, barred=wants.barred(view, membership.node, grounds, wanted))
