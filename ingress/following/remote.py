"""Between this node's web containers and the records by which the others hear of them; pure.

What a record's labels ask for is decided by who reads it, with the same strict reading as for a container of one's own:
a node that has been taken over can say nothing here that a container on it could not.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from ingress.routes import Problem, State, WebContainer
from stackpad import labels, records
from stackpad.errors import InvalidRequest
from stackpad.prefixes import Prefixes

Place = tuple[str, int]
"""Address and port."""

REFUSED = "refused"
"""State of a record whose container is not served at all; its reason says why."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the plugin has shown of the cluster: everything at once, or nothing (``node`` is empty) outside of one.

    ``control`` says that this node holds the cluster's store, or is in no cluster; ``web``, ``hosts`` and ``networks``
    are values by key, as the store has them. ``secret`` is the cluster's for proofs of domains.
    """

    node: str = ""
    control: bool = True
    connected: bool = False
    nodes: Mapping[str, records.Node] = field(default_factory=dict)
    alive: frozenset[str] = frozenset()
    ingresses: Mapping[str, records.Ingress] = field(default_factory=dict)
    web: Mapping[str, bytes] = field(default_factory=dict)
    hosts: Mapping[str, bytes] = field(default_factory=dict)
    networks: Mapping[str, bytes] = field(default_factory=dict)
    secret: bytes = field(default=b"", repr=False)

    def controls(self) -> tuple[str, ...]:
        """Names of the nodes where visitors come in."""
        there = (ingress.owner for ingress in self.ingresses.values() if ingress.control)
        return tuple(sorted(self.nodes[node].name if node in self.nodes else node for node in there))

    def proofs(self) -> bool | None:
        """Whether custom domains have to be proved where visitors come in; ``None`` while nobody there says so."""
        there = (ingress.proofs for ingress in self.ingresses.values() if ingress.control)
        said = [proofs for proofs in there if proofs is not None]
        return any(said) if said else None

    def heard(self, asked: Iterable[str], *, own: bool) -> frozenset[str]:
        """The nodes whose list of web containers is whole and of now; this one too if ``own`` is.

        ``asked`` are all nodes there is anything of: those that are no part of the cluster any more have nothing left.
        """
        others = {
            node
            for node, ingress in self.ingresses.items()
            if node in self.alive and ingress.complete and not ingress.stale
        }
        gone = {node for node in asked if node and self.nodes and node not in self.nodes}
        mine = {self.node, ""} if own else set()
        return frozenset((others | gone) - {self.node}) | mine


def seen(values: Mapping[str, bytes], *, node: str, control: bool, connected: bool, secret: bytes = b"") -> Seen:
    """What ``values`` by key mean; one that does not fit is left out."""
    nodes: dict[str, records.Node] = {}
    ingresses: dict[str, records.Ingress] = {}
    alive: set[str] = set()
    kept: dict[str, dict[str, bytes]] = {records.WEB: {}, records.HOSTS: {}, records.NETWORKS: {}}
    for key, value in values.items():
        for prefix, there in kept.items():
            if key.startswith(prefix):
                there[key] = value
        if key.startswith(records.NODES):
            nodes.update((one.owner, one) for one in records.readable([value], records.Node))
        elif key.startswith(records.INGRESSES):
            ingresses.update((one.owner, one) for one in records.readable([value], records.Ingress))
        elif key.startswith(records.ALIVE):
            alive.add(key.removeprefix(records.ALIVE))
    return Seen(
        node,
        control,
        connected,
        nodes,
        frozenset(alive),
        ingresses,
        kept[records.WEB],
        kept[records.HOSTS],
        kept[records.NETWORKS],
        secret,
    )


Words = dict[str, tuple[WebContainer, records.Web]]
"""By container's id, what was said last, and of what."""


def word(
    containers: Iterable[WebContainer], problems: Iterable[Problem], *, org: str, kept: Words | None = None
) -> tuple[records.Web, ...]:
    """What this node says of its own; the plugin puts its id in as the owner.

    ``kept`` saves work from one time to the next, and is brought up to date.
    """
    before = kept or {}
    said: Words = {}
    for container in containers:
        there = before.get(container.id)
        said[container.id] = there if there and there[0] is container else (container, _record(container, org))
    if kept is not None:
        kept.clear()
        kept.update(said)
    told = [record for _, record in said.values()]
    told += [
        records.Web(
            owner="",
            id=p.container,
            name=p.name,
            network="",
            org=org,
            labels={},
            state=REFUSED,
            reason=p.text,
            environment="",
        )
        for p in problems
    ]
    return tuple(sorted(told, key=lambda one: one.id))


def _record(container: WebContainer, org: str) -> records.Web:
    return records.Web(
        owner="",
        id=container.id,
        name=container.name,
        network=container.network,
        org=org,
        labels=dict(container.labels),
        state=container.state,
        address=container.address or "",
        port=container.port or 0,
        reason=container.reason,
        since=container.since,
        environment=container.joined,
    )


class Others:
    """The web containers of all other nodes; what a record means is worked out once for as long as it stays."""

    def __init__(self, base_domain: str) -> None:
        self._base_domain = base_domain
        self._read: dict[str, tuple[bytes, WebContainer | Problem | None]] = {}
        self._networks: Mapping[str, bytes] | None = None
        self._nets: dict[str, Prefixes] = {}
        self.silent: dict[str, list[Place]] = {}
        """What is worth a try: by node that gives no sign of life, where its containers were up."""

    def read(self, seen: Seen, answers: Callable[[str, int], bool]) -> tuple[list[WebContainer], list[Problem]]:
        """Containers and problems; those of a node that gives no sign of life are down, but for those that ``answers``.

        So are those whose address is in no network of their node: a node may send visitors to its own containers, and
        not to what listens on the loopback of another.
        """
        if self._networks != seen.networks:
            self._networks, self._nets = seen.networks, _nets(seen.networks)
        own = records.key(records.WEB, seen.node) + "/" if seen.node else records.WEB
        fresh: dict[str, tuple[bytes, WebContainer | Problem | None]] = {}
        containers, problems = [], []
        self.silent = {}
        for key, value in seen.web.items():
            if key.startswith(own):
                continue
            before = self._read.get(key)
            fresh[key] = before if before is not None and before[0] == value else (value, self._one(key, value))
            found = fresh[key][1]
            if isinstance(found, Problem):
                problems.append(found)
            elif found is not None:
                if found.state is State.UP and not self._is_its_nodes(found, seen.node):
                    found = replace(found, state=State.DOWN, reason="its address is in no network of its node")
                if found.node not in seen.alive and found.state is not State.DOWN:
                    found = self._of_silent_node(found, seen, answers)
                containers.append(found)
        self._read = fresh
        return containers, problems

    def _of_silent_node(self, container: WebContainer, seen: Seen, answers: Callable[[str, int], bool]) -> WebContainer:
        node = container.node
        reason = f"its node {seen.nodes[node].name if node in seen.nodes else node} gives no sign of life"
        if container.state is State.UP and container.address and container.port:
            self.silent.setdefault(node, []).append((container.address, container.port))
            if answers(container.address, container.port):
                return replace(container, reason=f"{reason}, but it answers")
        return replace(container, state=State.DOWN, reason=reason)

    def _is_its_nodes(self, container: WebContainer, here: str) -> bool:
        nets = self._nets.get(container.node)
        if nets is None or not container.address:
            return False
        address = ipaddress.ip_address(container.address)
        # A network, too, is what its node says it is: it is never what is here.
        return (
            address in nets
            and address not in self._nets.get(here, ())
            and not (address.is_loopback or address.is_link_local)
        )

    def _one(self, key: str, value: bytes) -> WebContainer | Problem | None:
        for record in records.readable([value], records.Web):
            if key != f"{records.WEB}{record.owner}/{record.id}":
                continue
            if record.state == REFUSED:
                return Problem(record.id, record.name, record.reason, node=record.owner)
            try:
                return _container(record, self._base_domain)
            except (InvalidRequest, ValueError) as error:
                return Problem(record.id, record.name, str(error), node=record.owner)
        return None


def _nets(networks: Mapping[str, bytes]) -> dict[str, Prefixes]:
    """The ranges of each node's networks."""
    found: dict[str, list[ipaddress.IPv4Network | ipaddress.IPv6Network]] = {}
    for key, value in networks.items():
        for network in records.readable([value], records.Network):
            if key == f"{records.NETWORKS}{network.owner}/{network.id}":
                found.setdefault(network.owner, []).extend(map(ipaddress.ip_network, network.subnets))
    return {node: Prefixes(nets) for node, nets in found.items()}


def _container(record: records.Web, base_domain: str) -> WebContainer:
    request = labels.web(record.labels, name=record.name, network=record.network, org=record.org, base_domain=base_domain)
    return WebContainer(
        id=record.id,
        name=record.name,
        request=request,
        address=record.address or None,
        port=record.port or None,
        state=State(record.state),
        since=record.since,
        # Its own ingress has looked whether it is healthy, or its port accepts.
        checked=True,
        reason=record.reason,
        node=record.owner,
        network=record.network,
        labels=tuple(sorted(record.labels.items())),
        joined=record.environment,
    )
