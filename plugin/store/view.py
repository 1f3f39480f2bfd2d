"""The store's content as a :class:`~plugin.store.mesh.View`, kept up with each change.

Pure. Values that do not fit their record are left out and reported; they are never a reason to stop.

Absence is not removal. A node ends by a tombstone; where its record is missing without one, the store has lost it (it was
wiped, or restored from an old copy), and all that is known of the node stays until it has written its records again: its
tunnel, which may be the very way to the store, and its containers' traffic are not cut. What is kept so is *orphaned*.
A range that nobody has given back is so even where its node's record is there: it ends when the node has written again
the one that its own address is in, or when somebody else claims it.

Nor is a tombstone's absence a return: an id is never used again, so whoever was seen removed once stays so here, whoever
deletes the key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TypeVar

from msgspec import structs

from plugin.model import ip_network
from plugin.store.mesh import View
from stackpad import records
from stackpad.errors import InvalidRequest, plain

_R = TypeVar("_R", bound=records.Record)

SHOWN = (records.NODES, records.ALIVE, records.NETWORKS, records.INGRESSES, records.WEB, records.HOSTS)
"""What the ingress of this node is shown of the store."""


@dataclass(slots=True)
class Touched:
    """What a change was about: ``mesh`` for nodes, ranges and networks; names of ``environments``; ``all`` of them.

    ``shown`` says that it was about something the ingress is shown.
    ``buried`` says that a node was removed, or has left, of which that was not known.
    ``returned`` are nodes that write their records again after the store had lost them, or have still to; ``silent``
    are those whose sign of life it has lost with everything else.
    """

    mesh: bool = False
    all: bool = False
    shown: bool = False
    buried: bool = False
    environments: set[str] = field(default_factory=set)
    returned: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)


class StoreView:
    """The raw values by key and the records in them; ``shown`` has those values the ingress is told, as they count.

    ``departed`` are nodes whose own record in the store says that they have left.
    """

    def __init__(self) -> None:
        self.raw: dict[str, bytes] = {}
        self.problems: dict[str, str] = {}
        self._orphans: dict[str, bytes] = {}
        self._cluster: records.Cluster | None = None
        self._nodes: dict[str, records.Node] = {}
        self._alive: set[str] = set()
        self._ranges: dict[str, records.Range] = {}
        self._networks: dict[str, records.Network] = {}
        self._endpoints: dict[str, records.Endpoint] = {}
        self._removed: dict[str, records.Removed] = {}
        self.departed: set[str] = set()
        self._ingresses: dict[str, records.Ingress] = {}
        self.shown: dict[str, bytes] = {}

    def view(self) -> View:
        """Everything known now; the mappings go on changing with it."""
        return View(
            self._cluster,
            self._nodes,
            frozenset(self._alive),
            self._ranges,
            self._networks,
            self._endpoints,
            frozenset(self._removed),
            self._ingresses,
        )

    def clear(self) -> None:
        """Forget everything: this node has left."""
        tables = (self.raw, self.problems, self._nodes, self._ranges, self._networks, self._endpoints, self._ingresses)
        for table in (*tables, self.shown, self._removed):
            table.clear()
        for names in (self._alive, self.departed):
            names.clear()
        self._orphans.clear()
        self._cluster = None

    def tombstones(self) -> dict[str, records.Record]:
        """Those of all nodes of which one was ever seen here, by key."""
        return {records.REMOVED + owner: gone for owner, gone in self._removed.items()}

    def memory(self) -> dict[str, bytes]:
        """What a copy of the view has in it: what the store has, and the tombstones and orphans that it has no more."""
        return {**{key: records.encode(gone) for key, gone in self.tombstones().items()}, **self._orphans, **self.raw}

    def replace(self, raw: Mapping[str, bytes]) -> Touched:
        """Take ``raw`` for everything there is in the store."""
        known = self.raw.keys() | self.problems.keys()
        gone: list[tuple[str, bytes | None]] = [(key, None) for key in known if key not in raw]
        changed = [(key, value) for key, value in raw.items() if self.raw.get(key) != value]
        return self.change([*gone, *changed])

    def change(self, events: Iterable[tuple[str, bytes | None]]) -> Touched:
        """Take over changed values, ``None`` for those that are gone."""
        touched = Touched()
        events = [(key, value) for key, value in events if self._is_key(key, value)]
        # Of a node that was removed nothing else counts, and all that is there is read at once.
        events.sort(key=lambda event: not event[0].startswith(records.REMOVED))
        before = dict[str, bytes]()
        for key, value in events:
            if value is not None:
                self.raw[key] = value
            elif key in self.raw:
                before[key] = self.raw.pop(key)
        for key, value in events:
            if value is None and self._is_orphan(key):
                if key in before:
                    self._orphans[key] = before[key]
                if key.startswith(records.ALIVE):
                    touched.silent.add(key.removeprefix(records.ALIVE))
                elif key.startswith(records.RANGES) and records.NODES + self._owner(key) in self.raw:
                    touched.returned.add(self._owner(key))
                continue
            self._set(key, value, touched)
            if key.startswith(records.NODES):
                touched.returned |= {key.removeprefix(records.NODES)} if self._orphans else set()
            if key.startswith(records.NODES) and key.removeprefix(records.NODES) in self.departed:
                self._drop_orphans(key.removeprefix(records.NODES), touched)
            elif key.startswith(records.REMOVED):
                self._drop_orphans(key.removeprefix(records.REMOVED), touched)
        self._forsake(touched)
        return touched

    def settle(self, node: str) -> Touched:
        """``node`` has had the time to write its records again: what it has not written is gone.

        Its ranges stay as long as the one is missing by which it is reached, and it is ``returned`` once more.
        """
        touched = Touched()
        if records.key(records.NODES, node) not in self.raw:
            return touched
        if self._is_rooted(node):
            self._drop_orphans(node, touched)
        elif any(self._owner(key) == node for key in self._orphans):
            self._drop_orphans(node, touched, ranges=False)
            touched.returned.add(node)
        return touched

    def bury(self, node: str) -> Touched:
        """``node`` has had the time to give a sign of life again; without one its names are hidden."""
        touched, key = Touched(), records.key(records.ALIVE, node)
        if key in self._orphans:
            self._set(key, None, touched)
        return touched

    def _is_key(self, key: str, value: bytes | None) -> bool:
        """Whether a key is one that a node can have written; what is no text can be neither kept nor shown."""
        if key.isprintable():
            return True
        self.problems.pop(key, None)
        if value is not None:
            self.problems[key] = f"{ascii(key)[:80]} in the store is no key of a record; delete it there"
        return False

    def _drop_orphans(self, node: str, touched: Touched, *, ranges: bool = True) -> None:
        for key in [key for key in self._orphans if self._owner(key) == node]:
            if ranges or not key.startswith(records.RANGES):
                self._set(key, None, touched)

    def _is_rooted(self, node: str) -> bool:
        """Whether the ranges in which the addresses of ``node`` are, by which it is reached, are its own in the store."""
        place = self._nodes.get(node)
        held = [
            ip_network(record.net)
            for key, record in self._ranges.items()
            if record.owner == node and not record.freed and key not in self._orphans
        ]
        return place is None or all(
            any(net.version == address.version and address in net for net in held)
            for address in map(ip_address, filter(None, (place.mesh4, place.mesh6)))
        )

    def _oust(self, claim: records.Range, touched: Touched) -> None:
        """What the store has lost is nobody's any more where somebody else has claimed it."""
        for key in [key for key in self._orphans if key.startswith(records.RANGES)]:
            if _contradict(claim, self._ranges[key]):
                self._set(key, None, touched)

    def _is_kept(self, lost: records.Range) -> bool:
        """Whether a range that the store has not, or no more, goes on: nobody has given it back or claimed it, and its
        node is known.
        """
        if lost.freed or lost.owner not in self._nodes:
            return False
        return not any(key in self.raw and _contradict(other, lost) for key, other in self._ranges.items())

    def _forsake(self, touched: Touched) -> None:
        """Of a node that the store has lost and that has no range any more nothing is kept: nothing leads there."""
        if lost := [key.removeprefix(records.NODES) for key in self._orphans if key.startswith(records.NODES)]:
            holders = {record.owner for record in self._ranges.values() if not record.freed}
            for node in lost:
                if node not in holders:
                    self._drop_orphans(node, touched)

    def _is_orphan(self, key: str) -> bool:
        owner = self._owner(key)
        held = self._ranges.get(key)
        if not owner or key in self.problems or owner in self._removed:
            return False
        return self._is_kept(held) if held is not None else records.NODES + owner not in self.raw

    def _owner(self, key: str) -> str:
        """The id of the node whose record it is; empty if nobody's."""
        for prefix in (records.NODES, records.ALIVE, records.INGRESSES, *records.PER_NODE):
            if key.startswith(prefix):
                return key.removeprefix(prefix).partition("/")[0]
        held = self._ranges.get(key)
        if held is not None:
            return held.owner
        return self._cluster.owner if key == records.CLUSTER and self._cluster is not None else ""

    def _set(self, key: str, value: bytes | None, touched: Touched) -> None:
        self._note(key, touched)
        self.problems.pop(key, None)
        self._forget(key)
        self._orphans.pop(key, None)
        if value is None:
            return
        try:
            self._take(key, value, touched)
        except InvalidRequest as error:
            self.problems[key] = str(error)
        self._note(key, touched)

    def _note(self, key: str, touched: Touched) -> None:
        if key.startswith(records.ENDPOINTS):
            endpoint = self._endpoints.get(key)
            if endpoint is not None:
                touched.environments.add(endpoint.environment)
        elif key.startswith(records.ALIVE):
            touched.all = True
        elif key != records.RANGES_LOCK and not key.startswith((records.WEB, records.HOSTS)):
            touched.mesh = True
        touched.shown = touched.shown or key.startswith(SHOWN)

    def _forget(self, key: str) -> None:
        if key == records.CLUSTER:
            self._cluster = None
        self._nodes.pop(key.removeprefix(records.NODES), None)
        self._ingresses.pop(key.removeprefix(records.INGRESSES), None)
        for table in (self._ranges, self._networks, self._endpoints, self.shown):
            table.pop(key, None)
        self._alive.discard(key.removeprefix(records.ALIVE))
        self.departed.discard(key.removeprefix(records.NODES))

    def _bury(self, gone: records.Removed, touched: Touched) -> None:
        alive = records.ALIVE + gone.owner
        touched.buried = touched.buried or gone.owner not in self._removed
        touched.all = touched.all or gone.owner in self._alive
        touched.shown = touched.shown or alive in self.shown
        self._removed[gone.owner] = gone
        # Its names go with it, and not when somebody has come to delete the records.
        self._alive.discard(gone.owner)
        self.shown.pop(alive, None)

    def _take(self, key: str, value: bytes, touched: Touched) -> None:
        if b"\n" in value:
            # JSON may be broken into lines, but no node does that, and the ingress is shown one record after the other.
            raise InvalidRequest(f"the record {plain(key)} in the store has a line break; no node writes that")
        if key == records.CLUSTER:
            self._cluster = records.check(records.decode(value, records.Cluster))
        elif key.startswith(records.NODES):
            node = records.check(records.decode(value, records.Node))
            if node.owner != key.removeprefix(records.NODES):
                raise InvalidRequest(f"node {plain(node.name)} has the record of another node")
            if node.left:
                self.departed.add(node.owner)
                self._bury(records.Removed(owner=node.owner, name=node.name, since=node.left), touched)
                return
            self._nodes[node.owner] = node
        elif key.startswith(records.ALIVE):
            records.decode(value, records.Alive)
            if key.removeprefix(records.ALIVE) in self._removed:
                return
            self._alive.add(key.removeprefix(records.ALIVE))
        elif key.startswith(records.RANGES):
            claim = self._ranges[key] = records.check(records.decode(value, records.Range))
            if not claim.freed and self._orphans:
                self._oust(claim, touched)
        elif key.startswith(records.NETWORKS):
            self._networks[key] = _of(key, records.check(records.decode(value, records.Network)))
        elif key.startswith(records.ENDPOINTS):
            self._endpoints[key] = _of(key, records.check(records.decode(value, records.Endpoint)))
        elif key.startswith(records.REMOVED):
            self._bury(_tombstone(key.removeprefix(records.REMOVED), value), touched)
        elif key.startswith(records.INGRESSES):
            self._ingresses[key.removeprefix(records.INGRESSES)] = _of(key, records.decode(value, records.Ingress))
        elif key.startswith(records.WEB):
            _of(key, records.check(records.decode(value, records.Web)))
        elif key.startswith(records.HOSTS):
            records.decode(value, records.Host)
        if key.startswith(SHOWN):
            self.shown[key] = value


def _contradict(claim: records.Range, lost: records.Range) -> bool:
    """Whether a range is another node's claim of what ``lost`` is."""
    one, other = ip_network(claim.net), ip_network(lost.net)
    return not claim.freed and claim.owner != lost.owner and one.version == other.version and one.overlaps(other)


def _tombstone(owner: str, value: bytes) -> records.Removed:
    """The tombstone of ``owner``; whatever is written there says that it is gone."""
    for gone in records.readable([value], records.Removed):
        return structs.replace(gone, owner=owner)
    return records.Removed(owner=owner, name=owner)


def _of(key: str, record: _R) -> _R:
    """``record`` if its owner is the node that ``key`` is kept for; raises :class:`InvalidRequest` if not.

    A store with roles lets a node write below its own id: what it writes there must be about itself alone.
    """
    if record.owner != key.removeprefix(records.ROOT).split("/")[1]:
        raise InvalidRequest(f"the record {plain(key)} in the store names another node as its owner")
    return record
