"""Web services of a cluster when things go wrong: nodes, engines, the store, the way to an engine, and containers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from stackpad.records import LEASE
from tests.e2e.site import Site
from tests.e2e.site import served as served
from tests.e2e.site import site as site
from tests.e2e.test_redeploy import writes
from tests.e2e.visitor import HOST, NETWORK, WEB, report
from tests.e2e.workbench import eventually, hold
from tests.relay import Relay
from tests.testbed import network
from tests.testbed.shell import run


def test_a_lost_nodes_services_go_and_the_others_carry_on(site: Site) -> None:
    site.network()
    for number in (2, 3):
        site.bench[number].serve(f"web-{number}", NETWORK, *WEB)
    site.settle()
    cable = ("ip", "-n", site.bed.plan.switch, "link", "set", site.bench[3].node.name)
    with site.visitor.steady(HOST) as statuses:
        run(*cable, "down")
        try:
            eventually(lambda: site.upstreams() == 1, "the lost node's to go", 60)
        finally:
            run(*cable, "up")
        eventually(lambda: site.upstreams() == 2, "it to come back", 60)
    assert set(statuses) == {200}


def test_what_answers_is_served_while_its_nodes_plugin_hangs(site: Site) -> None:
    site.network()
    site.bench[3].serve("web", NETWORK, *WEB)
    site.visitor.sees(HOST, 200, "web ")
    pid = site.bench[3].node.plugin_pid()
    site.bench[3].node.exec("kill", "-STOP", str(pid))
    try:
        with site.visitor.steady(HOST) as statuses:
            eventually(lambda: any(not one["alive"] for one in site.nodes()), "the node to be silent", 60)
            hold(3)
        assert set(statuses) == {200}
        assert "gives no sign of life, but it answers" in str(site.route()["containers"])
    finally:
        site.bench[3].node.exec("kill", "-CONT", str(pid))
    eventually(lambda: all(one["alive"] for one in site.nodes()), "the node to be heard again", 60)


def test_an_engine_that_does_not_answer_loses_nothing(site: Site) -> None:
    site.network()
    site.bench[2].serve("web", NETWORK, *WEB)
    site.visitor.sees(HOST, 200, "web ")
    engine = int((site.bench[2].node.home / "docker.pid").read_text())
    site.bench[2].node.exec("kill", "-STOP", str(engine))
    try:
        eventually(lambda: any(one["stale"] for one in site.nodes()), "the node to be marked", 90)
        assert site.visitor.status(HOST) == 200
    finally:
        site.bench[2].node.exec("kill", "-CONT", str(engine))
    eventually(lambda: not any(one["stale"] for one in site.nodes()), "the node to be heard again", 90)


def test_without_the_store_what_is_known_is_served(site: Site) -> None:
    """And what is new on the control node itself; the other nodes' news come when it is there again."""
    site.network()
    site.bench[2].serve("web", NETWORK, *WEB)
    site.visitor.sees(HOST, 200, "web ")
    there = network.inhabitants(site.bench[1].node.spec.netns)
    (etcd,) = [pid for pid in there if Path(f"/proc/{pid}/comm").read_text().strip() == "etcd"]
    os.kill(etcd, signal.SIGSTOP)
    try:
        site.bench[1].serve("near", NETWORK, *WEB, "--label", "stackpad.project=near")
        site.visitor.sees("near.acme.stackpad.test", 200, "near ")
        site.bench[3].serve("far", NETWORK, *WEB, "--label", "stackpad.project=far")
        hold(LEASE + 1)
        assert {site.visitor.status(HOST) for _ in range(5)} == {200}
    finally:
        os.kill(etcd, signal.SIGCONT)
    site.visitor.sees("far.acme.stackpad.test", 200, "far ")
    assert site.visitor.status(HOST) == 200


def test_what_happens_while_events_are_cut_off_is_found_out(site: Site, tmp_path: Path) -> None:
    """The engine lives and goes on; it is the way to it that is gone for a while."""
    site.network()
    bench, visitor, proxy = site.bench[1], site.visitor, site.bed.proxy
    relay = Relay(tmp_path / "docker.sock", bench.node.root / "run/docker.sock")
    relay.open()
    proxy.stop_ingress()
    proxy.start_ingress(DOCKER_HOST=f"unix://{tmp_path}/docker.sock")
    try:
        bench.serve("web", NETWORK, *WEB)
        bench.serve("goes", NETWORK, *WEB, "--label", "stackpad.project=goes")
        visitor.sees(HOST, 200, "web ")
        visitor.sees("goes.acme.stackpad.test", 200, "goes ")
        relay.cut()
        eventually(lambda: bool(report(bench)["stale"]), "the ingress to notice")
        assert visitor.status(HOST) == 200
        bench.docker("rm", "--force", "web", "goes")
        bench.serve("web", NETWORK, *WEB, "--hostname", "anew")
        bench.serve("comes", NETWORK, *WEB, "--label", "stackpad.project=comes")
        relay.open()
        visitor.sees(HOST, 200, "anew ")
        visitor.sees("comes.acme.stackpad.test", 200, "comes ")
        visitor.sees("goes.acme.stackpad.test", 404)
        assert not report(bench)["stale"]
    finally:
        proxy.stop_ingress()
        proxy.start_ingress()
        relay.cut()


ENDS = "import socket, time; s = socket.create_server(('', 80)); time.sleep(0.7)"


def test_one_that_ends_again_and_again_costs_the_others_little(site: Site) -> None:
    """It is up for a moment each time. The engine pauses longer and longer between; Caddy is told even less often."""
    site.network()
    bench, visitor = site.bench[1], site.visitor

    def restarts() -> int:
        return int(bench.docker("inspect", "--format", "{{.RestartCount}}", "web"))

    bench.serve("other", NETWORK, *WEB, "--label", "stackpad.project=other")
    visitor.sees("other.acme.stackpad.test", 200, "other ")
    before = writes(visitor)
    bench.start("web", NETWORK, *WEB, "--restart", "always", command=("python3", "-c", ENDS))
    with visitor.steady("other.acme.stackpad.test") as statuses:
        eventually(lambda: restarts() >= 5, "it to have ended five times", 120)
    assert set(statuses) == {200}
    assert writes(visitor) - before <= 4, bench.bed.proxy.log("ingress")
    bench.serve("late", NETWORK, *WEB, "--label", "stackpad.project=late")
    visitor.sees("late.acme.stackpad.test", 200, "late ")
