"""Web services on every node of a cluster, behind the one Caddy of its control node."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.e2e.visitor import HOST, NETWORK, WEB, Visitor, domain, forget_domains, report, routes, told
from tests.e2e.workbench import Target, Workbench, eventually
from tests.testbed.testbed import Testbed

SHARED = "shop.example"


class Site:
    """The nodes as places to work at, and a visitor of the first one."""

    def __init__(self, bed: Testbed) -> None:
        self.bed = bed
        self.bench = {number: Workbench(bed, number) for number in (1, 2, 3)}
        self.visitor = Visitor(self.bench[1])

    def network(self, *options: str, name: str = NETWORK) -> None:
        """The same network on all nodes."""
        for bench in self.bench.values():
            bench.network(name, *options)

    def route(self, host: str = HOST) -> dict[str, object]:
        """What the first node's ingress says of a host; empty if it says nothing, or is just starting."""
        return next((one for one in routes(self.bench[1]) or [] if one["host"] == host), {})

    def node_of(self, host: str = HOST) -> set[str]:
        """The nodes on which there are containers of a host."""
        containers = self.route(host).get("containers", [])
        assert isinstance(containers, list)
        return {one["node"] for one in containers}

    def reaches(self, number: int, address: str, *ports: int) -> bool:
        """Whether a node itself gets an answer from each of a container's ports; a line for each, empty for none."""
        targets = [Target("tcp", address, port) for port in ports]
        return all(self.bench[number].ask_from_node(*targets, patience=3.0))


@pytest.fixture(scope="module")
def served(fleet: Testbed) -> Iterator[Site]:
    """Caddy and the ingress on the first node, the ingress on the others."""
    fleet.proxy.start()
    for agent in fleet.agents:
        agent.start_ingress()
    yield Site(fleet)
    for proxy in (fleet.proxy, *fleet.agents):
        proxy.stop()


@pytest.fixture
def site(served: Site) -> Iterator[Site]:
    """The nodes; what a test makes there is removed after it."""
    yield served
    for bench in served.bench.values():
        bench.clear()
    eventually(lambda: routes(served.bench[1]) == [], "an empty table")
    forget_domains(served.bench[1])


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_service_is_served_whatever_node_it_is_on(site: Site, number: int) -> None:
    site.network()
    site.bench[number].serve("web", NETWORK, *WEB)
    site.visitor.sees(HOST, 200, "web ")
    assert site.node_of() == {f"{site.bed.plan.name}-n{number}"}
    site.bench[number].docker("stop", "--time", "1", "web")
    site.visitor.sees(HOST, 503, "Not running")
    site.bench[number].docker("start", "web")
    site.visitor.sees(HOST, 200, "web ")
    site.bench[number].docker("rm", "--force", "web")
    site.visitor.sees(HOST, 404, "Nothing here")


@pytest.mark.parametrize("options", [("--internal",), ("--opt", "stackpad.egress=false")])
def test_also_from_a_network_without_a_way_out(site: Site, options: tuple[str, ...]) -> None:
    site.network(*options)
    site.bench[2].serve("web", NETWORK, *WEB)
    site.visitor.sees(HOST, 200, "web ")


def test_a_control_node_reaches_the_ports_of_ready_web_services_and_nothing_else(site: Site) -> None:
    site.network()
    check = "--health-cmd=test -e /tmp/well", "--health-interval=300ms", "--health-retries=1"
    web = site.bench[2].serve("web", NETWORK, *WEB)
    unready = site.bench[2].serve("unready", NETWORK, *WEB, "--label", "stackpad.project=other", *check)
    database = site.bench[2].serve("postgres", NETWORK, "--label", "stackpad.type=database")
    site.visitor.sees(HOST, 200, "web ")
    assert site.reaches(1, web, 80)
    for address, port in ((web, 8080), (unready, 80), (database, 80)):
        assert not site.reaches(1, address, port), (address, port)
    assert not site.reaches(3, web, 80), "a node where no visitors come in"
    site.bench[2].docker("exec", "unready", "touch", "/tmp/well")
    site.visitor.sees("other.acme.stackpad.test", 200, "unready ")
    site.bench[2].docker("stop", "--time", "1", "web")
    site.visitor.sees(HOST, 503)
    site.bench[2].docker("start", "postgres")
    assert not site.reaches(1, database, 80)


def test_a_host_name_is_the_first_owners_on_whatever_node_the_second_is(site: Site) -> None:
    for name in ("first-production", "second-production"):
        site.network(name=name)
    asks = "--label", f"stackpad.domains={SHARED}"
    site.bench[2].serve("first", "first-production", *WEB, *asks)
    site.visitor.sees("first.acme.stackpad.test", 200)
    domain(site.bench[1], "allow", SHARED)
    site.visitor.sees(SHARED, 200, "first ")
    site.bench[3].serve("second", "second-production", *WEB, *asks)
    site.visitor.sees("second.acme.stackpad.test", 200)
    eventually(lambda: any(SHARED in str(one["problem"]) for one in report(site.bench[1])["problems"]), "the conflict")
    assert site.visitor.get(SHARED)[1].startswith("first ")
    # A node that cannot be asked has released nothing.
    site.bed.agents[0].stop_ingress(signal.SIGKILL)
    site.bench[2].docker("stop", "--time", "1", "first")
    assert site.route(SHARED)["owner"] == "acme/first/production"
    site.bed.agents[0].start_ingress()
    site.visitor.sees(SHARED, 503)
    site.bench[2].docker("rm", "first")
    domain_is_asked_for_by(site, "acme/second/production")
    domain(site.bench[1], "allow", SHARED)
    site.visitor.sees(SHARED, 200, "second ")


def domain_is_asked_for_by(site: Site, owner: str) -> None:
    """Wait until the shared domain waits for ``owner`` and nobody else."""
    eventually(lambda: site.route(SHARED).get("owner") == owner, f"{owner} to come first")


def test_the_ingress_may_end_anywhere_while_visitors_come(site: Site) -> None:
    site.network()
    site.bench[2].serve("web", NETWORK, *WEB)
    site.visitor.sees(HOST, 200, "web ")
    with site.visitor.steady(HOST) as statuses:
        for proxy in (site.bed.proxy, site.bed.agents[0]):
            proxy.stop_ingress(signal.SIGKILL)
            proxy.start_ingress()
        before = len(statuses)
        eventually(lambda: site.route().get("state") == "up", "the route to be known again")
        eventually(lambda: len(statuses) > before + 20, "more visits")
    assert set(statuses) == {200}


def test_a_lost_nodes_services_go_and_the_others_carry_on(site: Site) -> None:
    site.network()
    for number in (2, 3):
        site.bench[number].serve(f"web-{number}", NETWORK, *WEB)
    eventually(lambda: len(site.node_of()) == 2 and _upstreams(site) == 2, "both to be served")
    with site.visitor.steady(HOST) as statuses:
        # The node's plugin gives no sign of life any more, and its tunnel is gone with it.
        pid = site.bench[3].node.plugin_pid()
        site.bench[3].node.exec("kill", "-STOP", str(pid))
        try:
            eventually(lambda: _upstreams(site) == 1, "the lost node's to go", 60)
        finally:
            site.bench[3].node.exec("kill", "-CONT", str(pid))
        eventually(lambda: _upstreams(site) == 2, "it to come back", 60)
    assert set(statuses) == {200}


def test_an_engine_that_does_not_answer_loses_nothing(site: Site) -> None:
    site.network()
    site.bench[2].serve("web", NETWORK, *WEB)
    site.visitor.sees(HOST, 200, "web ")
    engine = int((site.bench[2].node.home / "docker.pid").read_text())
    site.bench[2].node.exec("kill", "-STOP", str(engine))
    try:
        eventually(lambda: any(one["stale"] for one in _nodes(site)), "the node to be marked", 90)
        assert site.visitor.status(HOST) == 200
    finally:
        site.bench[2].node.exec("kill", "-CONT", str(engine))
    eventually(lambda: not any(one["stale"] for one in _nodes(site)), "the node to be heard again", 90)


def test_two_control_nodes_serve_the_same(site: Site) -> None:
    second = site.bed.agents[0]
    second.stop_ingress()
    second.start(ROLE="control")
    try:
        site.network()
        site.bench[3].serve("web", NETWORK, *WEB, "--label", f"stackpad.domains={SHARED}")
        site.visitor.sees(HOST, 200, "web ")
        domain(site.bench[1], "allow", SHARED)
        other = Visitor(site.bench[2], ca=second.ca)
        other.sees(HOST, 200, "web ")
        other.sees(SHARED, 200, "web ")
        (there,) = (one for one in told(site.bench[2], "/domains") if one["domain"] == SHARED)
        assert (there["owner"], there["how"]) == ("acme/my-app/production", "operator")
    finally:
        second.stop()
        second.start_ingress()


def _nodes(site: Site) -> list[dict[str, object]]:
    return report(site.bench[1])["nodes"]


def _upstreams(site: Site) -> int:
    """How many containers the host's visitors are sent to."""
    there = site.route().get("upstreams", [])
    assert isinstance(there, list)
    return len(there)
