"""An asyncio client of etcd's v3 API through its JSON gateway; for Debian 12's etcd 3.4.23 and newer.

    records     what callers hold: key-values, conditions, operations, events, snapshots
    client      the calls: get, list, put, commit, leases, watch
    following   a prefix for ever: list, then watch, whatever happens to the store
    watching    one watch
    transport   failover, passwords; every failure becomes one of the sentences
    endpoints   addresses and TLS
    sentences   what went wrong and what to do
    messages    the wire format
    diagnosis   why an etcd process ended, from what it wrote
    custody     being the only one who runs it

The gateway is part of every etcd and speaks HTTP/1.1, on TCP and on unix sockets; so no gRPC library is needed.
"""

from stackpad.etcd.client import Etcd
from stackpad.etcd.endpoints import Tls
from stackpad.etcd.records import (
    Answer,
    Batch,
    Compacted,
    Compare,
    Delete,
    Event,
    Get,
    KeyValue,
    LeaseGone,
    Listing,
    Lost,
    Op,
    Origin,
    Outcome,
    Put,
    Snapshot,
    Stamp,
    Undecided,
    absent,
    equals,
    present,
    unchanged,
)
from stackpad.etcd.transport import Rejected

__all__ = [
    "Answer",
    "Batch",
    "Compacted",
    "Compare",
    "Delete",
    "Etcd",
    "Event",
    "Get",
    "KeyValue",
    "LeaseGone",
    "Listing",
    "Lost",
    "Op",
    "Origin",
    "Outcome",
    "Put",
    "Rejected",
    "Snapshot",
    "Stamp",
    "Tls",
    "Undecided",
    "absent",
    "equals",
    "present",
    "unchanged",
]
