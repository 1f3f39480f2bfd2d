"""What plugin and ingress say of themselves, as it comes over their sockets; pure.

Every field has a default, so that a command of one version can read a plugin of another.
"""

from __future__ import annotations

import msgspec


class Privileges(msgspec.Struct, frozen=True, kw_only=True):
    """What the plugin's process may do, as the kernel says it: capabilities by name, in each of their sets."""

    effective: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    bounding: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()
    no_new_privs: bool = False


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /status`` of the plugin; ``started`` is Unix time, ``mtu`` in bytes.

    ``privileges`` is ``None`` of a plugin that does not say.
    """

    ready: bool = False
    started: float = 0.0
    engine: str | None = None
    networks: int = 0
    endpoints: int = 0
    range: str = ""
    range6: str = ""
    mtu: int = 0
    addresses: tuple[str, ...] = ()
    repairs: int = 0
    privileges: Privileges | None = None
    problems: tuple[str, ...] = ()


class NodeReport(msgspec.Struct, frozen=True, kw_only=True):
    """One node of ``GET /cluster``; ``handshake`` in seconds ago, ``round_trip`` in seconds, the rest in bytes.

    ``joining`` is one that has come just now and not yet given a sign of life.
    """

    id: str = ""
    name: str = ""
    self: bool = False
    alive: bool = False
    joining: bool = False
    control: bool = False
    engine: str = ""
    version: str = ""
    public_key: str = ""
    mesh: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    ranges: tuple[str, ...] = ()
    networks: int = 0
    endpoint: str | None = None
    handshake: float | None = None
    received: int | None = None
    sent: int | None = None
    round_trip: float | None = None
    mtu: int | None = None


class StoreReport(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the store answers, and if not, why."""

    connected: bool = False
    reason: str = ""


class ClusterReport(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /cluster`` of the plugin; ``pools`` is what Docker's ``default-address-pools`` should hold.

    ``round_trip`` of nodes is there with ``?round-trip``: echoes are sent only when somebody asks.
    """

    member: bool = False
    id: str = ""
    node: str = ""
    name: str = ""
    control: bool = False
    nat: bool = False
    range4: str = ""
    range6: str = ""
    pools: tuple[dict[str, object], ...] = ()
    pools6: tuple[dict[str, object], ...] = ()
    wireguard: str = ""
    store: StoreReport = StoreReport()
    nodes: tuple[NodeReport, ...] = ()
    problems: tuple[str, ...] = ()


class ServiceReport(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of ``GET /services``: a running container's names in an environment.

    ``node`` is empty on a node that is in no cluster. ``reached`` is false where this node has another way to its
    addresses, or none.
    """

    environment: str = ""
    names: tuple[str, ...] = ()
    container: str = ""
    node: str = ""
    alive: bool = True
    reached: bool = True
    addresses: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()


class EndpointReport(msgspec.Struct, frozen=True, kw_only=True):
    """One container's attachment; ``lost`` if its link is gone although Docker has not taken it back."""

    id: str = ""
    container: str | None = None
    addresses: tuple[str, ...] = ()
    mac: str = ""
    lost: bool = False

    @property
    def name(self) -> str:
        """The container's name, or the endpoint's id while that is not known."""
        return self.container or self.id[:12]


class PartReport(msgspec.Struct, frozen=True, kw_only=True):
    """One node's published part of an environment; ``node`` is its id."""

    node: str = ""
    subnets: tuple[str, ...] = ()


class NetworkReport(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of ``GET /networks`` of the plugin.

    ``remote`` are the other nodes' ranges that this node's firewall admits for it, ``parts`` what all nodes have
    published of its environment; ``None`` of a plugin that does not say.
    """

    id: str = ""
    name: str | None = None
    environment: str | None = None
    bridge: str = ""
    subnets: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    internal: bool = False
    egress: bool = True
    mtu: int = 0
    endpoints: tuple[EndpointReport, ...] = ()
    problem: str | None = None
    remote: tuple[str, ...] | None = None
    parts: tuple[PartReport, ...] | None = None

    @property
    def shown_name(self) -> str:
        """The network's name, or its id while that is not known."""
        return self.name or self.id[:12]

    @property
    def troubled(self) -> bool:
        """Whether something of it is not as it should be."""
        return self.problem is not None or any(endpoint.lost for endpoint in self.endpoints)

    def is_called(self, text: str) -> bool:
        """Whether a user who writes ``text`` may mean this one: name, environment, or the beginning of its id."""
        return text in {self.name, self.environment} or (len(text) >= 4 and self.id.startswith(text))


class PortReport(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of ``GET /ports`` of the plugin; without ``host_address`` the port is that of all addresses."""

    protocol: str = "tcp"
    host_address: str | None = None
    host_port: int = 0
    container_port: int = 0
    addresses: tuple[str, ...] = ()
    container: str | None = None
    network: str | None = None
    endpoint: str = ""

    @property
    def name(self) -> str:
        """The container's name, or the endpoint's id while that is not known."""
        return self.container or self.endpoint[:12]


class CertificateReport(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate as a visitor is shown it; ``not_after`` is Unix time."""

    issuer: str = ""
    not_after: float = 0.0


class ContainerReport(msgspec.Struct, frozen=True, kw_only=True):
    """One container behind a route; ``node`` is a node's name, empty where there is only one."""

    name: str = ""
    state: str = ""
    reason: str | None = None
    node: str = ""


class RouteReport(msgspec.Struct, frozen=True, kw_only=True):
    """One host and path of the ingress's table; ``since`` is Unix time. A reason says why there is no certificate.

    ``options`` are the labels that ask for something special, ``number`` is what the kernel knows the service by.
    """

    host: str = ""
    path: str = "/"
    owner: str = ""
    service: str = ""
    state: str = ""
    reason: str | None = None
    upstreams: tuple[str, ...] = ()
    since: float = 0.0
    certificate: CertificateReport | None = None
    certificate_reason: str | None = None
    certificate_failed: bool = False
    options: tuple[str, ...] = ()
    number: int | None = None
    containers: tuple[ContainerReport, ...] = ()


class RouteProblem(msgspec.Struct, frozen=True, kw_only=True):
    """A container that is not served, or not at a name it asked for; ``node`` is empty where there is only one."""

    container: str = ""
    id: str = ""
    problem: str = ""
    node: str = ""


class IngressNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node as the ingress knows it; ``control`` says that visitors come in there."""

    name: str = ""
    control: bool = False


class Routes(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /routes`` of the ingress; ``problem`` says why Caddy is not in step, ``stale`` that the engine is silent.

    ``control`` says whether visitors come in here; ``None`` of an ingress that does not say. ``lacking`` says what to do
    about a plugin that it has waited for in vain, ``away`` that nobody listens at Caddy's socket. ``silent`` is no
    ingress's word: it is of one that does not answer.
    """

    control: bool | None = None
    nodes: tuple[IngressNode, ...] = ()
    silent: bool = False
    problem: str | None = None
    away: bool = False
    stale: bool = False
    routes: tuple[RouteReport, ...] = ()
    problems: tuple[RouteProblem, ...] = ()
    certificate_problems: tuple[str, ...] = ()
    lacking: str = ""

    @property
    def troubled(self) -> bool:
        """Whether Caddy is not in step, or somebody is not served as they ask."""
        return self.problem is not None or self.stale or any((self.problems, self.certificate_problems, self.lacking))


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /plan`` of the ingress: what would be written to Caddy next, as a unified diff, in so many requests."""

    diff: str = ""
    writes: int = 0


class DomainReport(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of ``GET /domains`` of the ingress: a name and who asks for it; ``proved`` and ``since`` are Unix time.

    ``platform`` says that the name follows from its owner's; ``how`` is ``None`` while nothing is proved.
    """

    domain: str = ""
    owner: str = ""
    state: str = ""
    platform: bool = False
    how: str | None = None
    proved: float | None = None
    since: float = 0.0
    reason: str | None = None


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """What one look for a proof has come to; ``record`` is what DNS would have to say."""

    owner: str = ""
    how: str = ""
    good: bool = False
    found: str = ""
    record: str | None = None


class DomainCheck(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /domain/check`` of the ingress."""

    domain: str = ""
    proved: bool = False
    checks: tuple[Attempt, ...] = ()
