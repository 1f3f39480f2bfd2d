"""Where a node reaches the store of its cluster: its own, another node's through the tunnel, or the operator's."""

from __future__ import annotations

import contextlib
import ipaddress
from urllib.parse import urlsplit

from plugin.settings import Settings
from plugin.store import mesh
from plugin.store.membership import Membership
from stackpad import records
from stackpad.errors import Conflict
from stackpad.etcd import Etcd, Tls


def in_tunnel(membership: Membership) -> tuple[str, ...]:
    """Where the others reach the store that this node runs."""
    return (f"http://{membership.mesh4}:{mesh.STORE_PORT}",)


def guarded(settings: Settings, membership: Membership) -> tuple[str, ...]:
    """The embedded store in the tunnel, ``address . port`` each; none where the cluster has the operator's own."""
    if settings.store:
        return ()
    found = []
    for text in membership.store or in_tunnel(membership):
        with contextlib.suppress(ValueError):
            url = urlsplit(text)
            found.append(f"{ipaddress.IPv4Address(url.hostname or '')} . {url.port or mesh.STORE_PORT}")
    return tuple(found)


def client(settings: Settings, membership: Membership, own: str | None) -> Etcd:
    """A client of the cluster's store; ``own`` is the URL of the one that this node runs, if it does."""
    if settings.store:
        return operators(settings)
    if membership.embeds(()) and own is not None:
        return Etcd([own])
    return Etcd(membership.store)


def operators(settings: Settings) -> Etcd:
    """A client of the operator's own store, which the settings name."""
    tls = None
    if settings.store_ca or settings.store_cert:
        tls = Tls(ca=settings.store_ca, certificate=settings.store_cert, key=settings.store_key)
    return Etcd(settings.store, tls=tls, user=settings.store_user, password=settings.store_password)


async def refuse_taken(settings: Settings) -> None:
    """Raise :class:`Conflict` if the operator's own store has a cluster in it, :class:`Unavailable` if it is away."""
    if not settings.store:
        return
    async with operators(settings) as etcd:
        there = await etcd.get(records.CLUSTER)
    for cluster in records.readable([there.value] if there is not None else [], records.Cluster):
        raise Conflict(
            f"the store at {', '.join(settings.store)} has cluster {cluster.id} in it; join that one (stackpad "
            "node token on one of its nodes), or give another store"
        )
