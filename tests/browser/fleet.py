"""A small world to be shown: three nodes with what a page has to tell of, well and in trouble."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from ingress import tables
from ingress.following.remote import Seen
from ingress.owners.ledger import Ledger
from ingress.page.overview import Attached, PluginWord
from ingress.report import Facts
from ingress.routes import Problem, State, WebContainer
from ingress.settings import Settings
from stackpad import records
from stackpad.labels import WebRequest, Wire
from stackpad.routeoptions import NONE, RouteOptions

BASE = "example.org"
EARLY = 1_795_000_000.0
NODES = {"a1": "frankfurt-1", "b2": "frankfurt-2", "c3": "helsinki-1"}
SETTINGS = Settings(base_domain=BASE)


def container(
    name: str,
    node: str,
    project: str,
    environment: str = "production",
    service: str = "web",
    *,
    state: State = State.UP,
    reason: str = "",
    path: str = "",
    domains: tuple[str, ...] = (),
    options: RouteOptions = NONE,
    org: str = "acme",
) -> WebContainer:
    """A web container on a node."""
    request = WebRequest(org, project, environment, service, 8080, path, Wire.HTTP, domains, options)
    address = f"10.192.{sorted(NODES).index(node)}.{len(name) + 2}"
    return WebContainer(name, name, request, address, 8080, state, EARLY, reason=reason, node=node)


CONTAINERS = (
    container("shop-web-1", "a1", "shop", domains=("www.shop.example",)),
    container("shop-web-2", "b2", "shop", domains=("www.shop.example",)),
    container("shop-api-1", "a1", "shop", service="api", path="/api"),
    container("shop-staging-web-1", "a1", "shop", "staging", options=RouteOptions(auth=(("team", "x"),))),
    container("blog-web-1", "b2", "blog", state=State.UNHEALTHY, reason="its health check fails: curl: (7) refused"),
    container("wiki-1", "b2", "wiki", service="wiki", options=RouteOptions(maintenance=True)),
    container("metrics-1", "c3", "metrics", service="grafana", domains=("stats.example.net",)),
    container("chat-1", "c3", "chat", service="chat", org="umbra", state=State.STARTING, reason="is starting"),
    container("docs-1", "c3", "docs", service="docs", org="umbra"),
)
ATTACHED = (
    Attached("shop-production", "shop-web-1"),
    Attached("shop-production", "shop-api-1"),
    Attached("shop-production", "postgres"),
    Attached("shop-production", "redis-1"),
    Attached("shop-production", "redis-2"),
    Attached("shop-staging", "shop-staging-web-1"),
    Attached("shop-staging", "postgres-staging"),
    Attached("shop-production", "shop-web-2", "frankfurt-2"),
    Attached("shop-production", "worker-1", "frankfurt-2"),
    Attached("shop-production", "worker-2", "frankfurt-2"),
    Attached("blog-production", "blog-web-1", "frankfurt-2"),
    Attached("blog-production", "mariadb", "frankfurt-2"),
    Attached("wiki-production", "wiki-1", "frankfurt-2"),
    Attached("metrics-production", "metrics-1", "helsinki-1"),
    Attached("metrics-production", "prometheus", "helsinki-1"),
    Attached("chat-production", "chat-1", "helsinki-1"),
    Attached("docs-production", "docs-1", "helsinki-1"),
)
WORD = PluginWord(ATTACHED, (("shop-production", False), ("shop-staging", False), ("backup", True)))


def facts(*containers: WebContainer, problems: tuple[Problem, ...] = (), problem: str | None = None) -> Facts:
    """What an ingress of three nodes knows when these run."""
    nodes = {i: records.Node(owner=i, name=n, public_keys=(), engine="28.5.2", version="0.1.0") for i, n in NODES.items()}
    nodes["b2"] = msgspec.structs.replace(nodes["b2"], engine="20.10.24")
    ingresses = {i: records.Ingress(owner=i, control=i == "a1", complete=True) for i in NODES}
    table = tables.table(
        containers, Ledger(), base_domain=BASE, now=EARLY, here="a1", believe=False, heard=frozenset(NODES)
    )
    ends = {"issuer": "Let's Encrypt", "not_after": EARLY + 60 * 86400}
    return Facts(
        control=True,
        problem=problem,
        stale=False,
        seen=Seen("a1", True, True, nodes, frozenset(NODES), ingresses),
        table=table,
        problems=(*problems, *table.problems),
        reason=lambda one: f'not proved: create the record _stackpad.{one.host}. TXT "stackpad-verify=2f6c…"',
        certificate=lambda host: {"certificate": ends if host.state is State.UP else None, "certificate_reason": None},
    )


def trouble() -> Facts:
    """The world with a lost node, an engine that is silent and a conflict."""
    rival = replace(container("imposter-1", "c3", "shop", org="acme"), since=EARLY + 5)
    made = facts(
        *CONTAINERS, rival, problems=(Problem("x", "old-1", "stackpad.port=web is not a port between 1 and 65535"),)
    )
    seen = replace(made.seen, alive=frozenset({"a1", "b2"}))
    stale = {**seen.ingresses, "b2": records.Ingress(owner="b2", complete=True, stale=True)}
    return replace(made, seen=replace(seen, ingresses=stale), problem="Caddy at /run/caddy/admin.sock does not answer")
