"""Web services on every node of a cluster, behind the one Caddy of its control node."""

from __future__ import annotations

import asyncio
import itertools
import signal
import subprocess

import pytest

from tests.e2e.site import Site
from tests.e2e.site import served as served
from tests.e2e.site import site as site
from tests.e2e.test_redeploy import SERVER, slow, under_load, up
from tests.e2e.visitor import HOST, NETWORK, WEB, Visitor, domain, report, routes, told
from tests.e2e.workbench import eventually
from tests.load import Load

SHARED = "shop.example"


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


def test_who_started_a_container_on_a_worker_sees_there_that_its_name_is_somebody_elses(site: Site) -> None:
    """As the control node says; so for a platform's name, and for a domain before and after it is another's."""
    for name in ("first-production", "second-production"):
        site.network(name=name)
    asks = "--label", f"stackpad.domains={SHARED}"
    site.bench[2].serve("first", "first-production", *WEB, *asks)
    site.bench[3].serve("second", "second-production", *WEB, *asks)
    # Another service of the first environment, at the same path.
    site.bench[3].serve("same", "second-production", *WEB, "--label", "stackpad.project=first", "--label",
                        "stackpad.environment=production", "--label", "com.docker.compose.service=other")  # fmt: skip
    says = f"(as {site.bed.plan.name}-n1 says)"
    eventually(lambda: waits(site, 2) == waits(site, 3) == {SHARED: "unproved"}, "both to see that it waits")
    eventually(
        lambda: refused(site, 3, "same", "first.acme.stackpad.test/ is served by first", says), "the platform's name"
    )
    domain(site.bench[1], "allow", SHARED, owner="acme/first/production")
    eventually(lambda: refused(site, 3, "second", f"{SHARED} belongs to acme/first/production", says), "the conflict")
    eventually(lambda: waits(site, 2) == waits(site, 3) == {}, "nobody to wait")
    assert not refused(site, 2, "first", SHARED)
    site.bench[2].docker("rm", "--force", "first")
    eventually(lambda: waits(site, 3) == {SHARED: "forbidden"}, "it to be kept for who was allowed it")
    domain(site.bench[1], "release", SHARED)
    domain(site.bench[1], "allow", SHARED, owner="acme/second/production")
    eventually(lambda: not refused(site, 3, "second", SHARED) and waits(site, 3) == {}, "the end of the conflict")


def test_a_word_from_before_a_node_joined_is_of_no_effect_and_can_be_taken_back_there(site: Site) -> None:
    worker, there = site.bed.agents[1], site.bench[3]
    # As it was on a node alone: without a plugin that says otherwise, it is its own control node.
    worker.stop_ingress()
    worker.start_ingress(NET_SOCKET="/nowhere/web.sock")
    try:
        eventually(lambda: routes(there) is not None, "the ingress alone")
        domain(there, "allow", SHARED, owner="acme/old/production")
    finally:
        worker.stop_ingress()
        worker.start_ingress()
    eventually(lambda: known(site, 3) == [("acme/old/production", "ignored")], "what is left")
    domain(site.bench[1], "allow", SHARED, owner="acme/new/production")
    with pytest.raises(subprocess.CalledProcessError) as refusal:
        domain(there, "forbid", SHARED)
    assert f"ask on {site.bed.plan.name}-n1" in refusal.value.stdout
    assert domain(there, "release", SHARED)["state"] == "ignored"
    assert known(site, 3) == []
    assert known(site, 1) == [("acme/new/production", "allowed")]


def known(site: Site, number: int) -> list[tuple[object, object]]:
    """What a node's ingress has of the shared domain: owner and state; nothing while it is just starting."""
    there = [] if routes(site.bench[number]) is None else told(site.bench[number], "/domains")
    return [(one["owner"], one["state"]) for one in there if one["domain"] == SHARED]


def waits(site: Site, number: int) -> dict[object, object]:
    """The domains that wait, as that node's own ingress tells, with their states."""
    return {one["host"]: one["state"] for one in report(site.bench[number])["routes"]}


def refused(site: Site, number: int, container: str, *words: str) -> bool:
    """Whether that node's own ingress tells of a container with these words."""
    problems = report(site.bench[number])["problems"]
    return any(one["container"] == container and all(w in str(one["problem"]) for w in words) for one in problems)


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


def test_a_service_moves_from_node_to_node_under_load(site: Site) -> None:
    """Each time the new version beside the old one, elsewhere; Caddy is told nothing, and what is slow is finished."""
    site.network()
    replica(site, 2, "web-0")
    site.visitor.sees(HOST, 200, "web-0")
    path = (2, 3, 1, 2)

    async def story(load: Load) -> None:
        for number, (old, new) in enumerate(itertools.pairwise(path)):
            await asyncio.to_thread(replica, site, new, f"web-{number + 1}")
            async with asyncio.TaskGroup() as tasks:
                asking = tasks.create_task(slow(site.visitor)) if number % 2 == 0 else None
                await load.some_more(30)
                await asyncio.to_thread(site.bench[old].docker, "stop", f"web-{number}")
            assert asking is None or asking.result() == 200
            await asyncio.to_thread(site.bench[old].docker, "rm", f"web-{number}")

    load = under_load(site.visitor, story)
    assert {f"web-{number}" for number in range(len(path))} <= {body for _, body in load.seen}


def test_replicas_on_two_nodes_are_redeployed_in_turn_under_load(site: Site) -> None:
    """Each node has a number by then; one whose node has nobody for a while leads to the other's."""
    site.network()
    for number in (2, 3):
        replica(site, number, f"web-{number}-0")
    site.settle()

    async def story(load: Load) -> None:
        for number in (2, 3):
            await asyncio.to_thread(site.bench[number].docker, "stop", f"web-{number}-0")
            await load.some_more(30)
            await asyncio.to_thread(replica, site, number, f"web-{number}-1")

    under_load(site.visitor, story)


def replica(site: Site, number: int, name: str) -> None:
    """A container of the service on a node, that ends as a good server does; returns when it is up."""
    site.bench[number].start(name, NETWORK, *WEB, "--label", "com.docker.compose.service=web",
                             command=("python3", "-c", SERVER))  # fmt: skip
    eventually(lambda: name in up(site.visitor), f"{name} to be up")
