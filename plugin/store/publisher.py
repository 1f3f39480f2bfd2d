"""This node's own records: what they should be, and keeping the store so.

:func:`own_records` is pure: from membership, networks and attachments to values by key. The difference to what the
store has is written, again and again until there is none; so a store that was wiped, or restored from an old copy, has
our records back as soon as it is seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from msgspec import structs

from plugin.local.attachments import Attachment
from plugin.local.webdesk import WebReport
from plugin.model import Endpoint, Network
from plugin.store.membership import Membership
from stackpad import records
from stackpad.etcd import Op, Put


def own_records(
    membership: Membership,
    node: records.Node,
    networks: Iterable[Network],
    endpoints: Mapping[str, Endpoint],
    attachments: Mapping[str, Attachment],
    report: WebReport | None = None,
) -> dict[str, records.Record]:
    """The records that are this node's to write, by key, without leases.

    A network whose name is not known yet, and an endpoint whose container does not run, have none. ``report`` is what
    this node's ingress has said last.
    """
    me = membership.node
    wanted: dict[str, records.Record] = {records.key(records.NODES, me): node}
    if membership.control:
        wanted[records.CLUSTER] = membership.cluster
    for held in membership.ranges:
        wanted[records.range_key(held.net)] = held
    networks = list(networks)
    for network in networks:
        if network.environment:
            wanted[records.key(records.NETWORKS, me, network.id)] = records.Network(
                owner=me,
                id=network.id,
                environment=network.environment,
                subnets=tuple(subnet.pool for subnet in network.subnets),
                internal=network.internal,
            )
    for attached in own_endpoints(me, networks, endpoints, attachments):
        wanted[records.key(records.ENDPOINTS, me, attached.id)] = attached
    if report is not None:
        wanted[records.key(records.INGRESSES, me)] = records.Ingress(
            owner=me, control=report.control, complete=report.complete, stale=report.stale, proofs=report.proofs
        )
        for container in report.containers:
            wanted[records.key(records.WEB, me, container.id)] = structs.replace(container, owner=me)
    return wanted


def own_endpoints(
    me: str, networks: Iterable[Network], endpoints: Mapping[str, Endpoint], attachments: Mapping[str, Attachment]
) -> Iterator[records.Endpoint]:
    """The endpoints of running containers in networks whose names are known, as node ``me`` tells of them."""
    environments = {network.id: network.environment for network in networks if network.environment}
    for attachment in attachments.values():
        endpoint = endpoints.get(attachment.endpoint)
        environment = environments.get(attachment.network)
        if endpoint is None or environment is None or endpoint.left:
            continue
        yield records.Endpoint(
            owner=me,
            id=endpoint.id,
            network=attachment.network,
            environment=environment,
            names=attachment.names,
            addresses=tuple(map(str, endpoint.addresses)),
            ports=attachment.ports,
            container=attachment.container_name,
        )


def concerns(key: str, me: str) -> bool:
    """Whether a change of ``key`` may mean that something of node ``me`` has to be written again."""
    return me in key or key.startswith((records.RANGES, records.REMOVED)) or key == records.CLUSTER


def differences(
    wanted: Mapping[str, records.Record], stored: Mapping[str, bytes], me: str
) -> tuple[dict[str, bytes], list[str]]:
    """What is to be written and what to be deleted, so that of ``stored`` what is this node's is as ``wanted``.

    Ranges are never deleted here: who gives one back says so in its record, and it stays for its cool-down.
    """
    writes: dict[str, bytes] = {}
    for key, record in wanted.items():
        before = stored.get(key)
        if isinstance(record, records.Cluster) and any(
            there.id != record.id for there in records.readable([before] if before else [], records.Cluster)
        ):
            continue  # another cluster's store: two that write over each other would never end
        if key.startswith(records.RANGES) and before is not None:
            there = records.readable([before], records.Range)
            if there and there[0].owner != me:
                continue  # somebody else's since the store lost ours; told as a problem, never written over
        value = records.encode(record, before)
        if value != before:
            writes[key] = value
    own = tuple(records.key(kind, me) + "/" for kind in records.PER_NODE)
    return writes, [key for key in stored if key.startswith(own) and key not in wanted]


def chunks(operations: Iterable[Op], most: int, most_bytes: int) -> Iterator[list[Op]]:
    """Cut into transactions of so many operations and bytes; an operation that is longer than that is alone."""
    chunk, size = list[Op](), 0
    for operation in operations:
        more = len(operation.key) + (len(operation.value) if isinstance(operation, Put) else 0)
        if chunk and (len(chunk) == most or size + more > most_bytes):
            yield chunk
            chunk, size = [], 0
        chunk.append(operation)
        size += more
    if chunk:
        yield chunk
