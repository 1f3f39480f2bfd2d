"""What a person should know of a node's place in its cluster, with what to do about it; pure."""

from __future__ import annotations

from collections.abc import Collection

from plugin.model import ip_network
from plugin.store.membership import Membership
from plugin.store.mesh import View


def of_member(membership: Membership, view: View) -> list[str]:
    """Where the store says something else than the node's own disk."""
    found = []
    cluster = view.cluster
    if cluster is not None and cluster.id != membership.cluster.id:
        found.append(
            f"the store belongs to cluster {cluster.id}, this node to {membership.cluster.id}; give each a store of its "
            "own (STORE), or have this node leave and join the other"
        )
    names = {node.owner: node.name for node in view.nodes.values()}
    others = [record for record in view.ranges.values() if record.owner != membership.node and not record.freed]
    for held in membership.ranges:
        for there in others:
            if not held.freed and _overlap(held.net, there.net):
                who = f"node {names.get(there.owner, there.owner)}"
                found.append(
                    f"range {held.net} of this node is now held by {who}, as {there.net}; remove the networks in it on "
                    "one of both; if it is a block of this node (stackpad node ls), have it leave and join again"
                )
    return found


def _overlap(one: str, other: str) -> bool:
    a, b = ip_network(one), ip_network(other)
    return a.version == b.version and a.overlaps(b)


def without_store(membership: Membership, setting: Collection[str]) -> list[str]:
    """What may be the reason that the store does not answer: the ``setting`` STORE was lost with an installation."""
    if not membership.control or not membership.store or setting:
        return []
    addresses = ",".join(membership.store)
    problem = (
        f"the cluster's store is your etcd at {addresses}, and the setting STORE is empty; disable the plugin, "
        f"docker plugin set stackpad/net STORE={addresses} (STORE_USER, STORE_CA and the like as before), enable it"
    )
    return [problem]
