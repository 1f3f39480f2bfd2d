"""What a person should know of a node's place in its cluster, with what to do about it; pure."""

from __future__ import annotations

from collections.abc import Collection

from plugin.store.membership import Membership
from plugin.store.mesh import View
from stackpad import records


def of_member(membership: Membership, view: View) -> list[str]:
    """Where the store says something else than the node's own disk."""
    found = []
    cluster = view.cluster
    if cluster is not None and cluster.id != membership.cluster.id:
        found.append(
            f"the store belongs to cluster {cluster.id}, this node to {membership.cluster.id}; give each a store of its "
            "own (STORE), or have this node leave and join the other"
        )
    for held in membership.ranges:
        there = view.ranges.get(records.range_key(held.net))
        if there is not None and there.owner != held.owner:
            found.append(f"range {held.net} of this node is now held by node {there.owner}; remove its networks")
    return found


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
