"""The addresses that this node needs and no network may have: routers, name servers, the store, the other nodes.

What other nodes announce counts where this node makes a network, and of the node that began the cluster always. Of all
others it counts where they have been heard, and not what they say: else a member would have everybody leave out a
neighbour's range by announcing an address in it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import urlsplit

from plugin.kernel.reconciler import Reconciler
from plugin.model import IPAddress, IPNet, ip_network
from plugin.ranges.grounds import Grounds, ip_address
from plugin.resolver.hostservers import HostServers
from plugin.settings import Settings
from plugin.store.membership import Membership
from plugin.store.mesh import View
from plugin.wireguard.model import Address
from stackpad import records
from stackpad.errors import InvalidRequest, plain


class Needs:
    """What is known of it now; ``servers`` are the host's own name servers."""

    def __init__(self, settings: Settings, reconciler: Reconciler, servers: HostServers) -> None:
        self._settings, self._reconciler, self._servers = settings, reconciler, servers

    def grounds(
        self, membership: Membership | None, view: View, heard: Mapping[str, Address], *, claiming: bool
    ) -> Grounds:
        """What a range is judged by: another node's, or, ``claiming``, one that is to be this node's.

        ``heard`` is where other nodes were heard last, by id.
        """
        settings, facts = self._settings, self._reconciler.facts
        allowed: list[IPNet] = [*settings.network_ranges, settings.range4]
        allowed += [] if settings.range6 is None else [settings.range6]
        whole = () if membership is None else tuple(map(ip_network, membership.cluster.ranges))
        needed = _said(facts.gateways, "a router of this node's")
        needed |= _said(_addresses((*self._servers(), *settings.dns)), "a name server of this node's")
        outer = _said(facts.addresses, "an address of this node's")
        store = (*settings.store, *(() if membership is None else membership.store))
        outer |= _said(_addresses(filter(None, map(_host, store))), "where the cluster's store is")
        if membership is None:
            return Grounds(allowed, needed, outer)
        nodes = dict(view.nodes)
        if membership.gateway is not None:
            nodes.setdefault(membership.gateway.owner, membership.gateway)
        for node in nodes.values():
            if node.owner == membership.node or node.owner in view.removed:
                continue
            what = f"where node {plain(node.name)} is reached"
            if claiming or node.owner == membership.cluster.owner:
                outer |= _said(_endpoints(node), what)
            if node.owner in heard:
                outer |= _said(_addresses([heard[node.owner][0]]), what)
        return Grounds(allowed, needed, outer, whole)


def _said(addresses: Iterable[IPAddress], what: str) -> dict[IPAddress, str]:
    return dict.fromkeys(addresses, what)


def _addresses(texts: Iterable[str]) -> Iterator[IPAddress]:
    """Those of them that are addresses; a store may be called by a name."""
    for text in texts:
        with contextlib.suppress(ValueError):
            yield ip_address(text.partition("%")[0])


def _endpoints(node: records.Node) -> Iterator[IPAddress]:
    for text in node.endpoints:
        with contextlib.suppress(InvalidRequest):
            yield ip_address(records.split_endpoint(text)[0])


def _host(url: str) -> str:
    """The host in a store's URL, empty for a unix socket's."""
    with contextlib.suppress(ValueError):
        return urlsplit(url).hostname or ""
    return ""
