"""Web services when things go wrong around them: typing errors, signals, engines that die, containers made anew."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests import clock
from tests.clock import HOUR, Adjustable
from tests.e2e.visitor import HOST, NETWORK, WEB, Visitor, domain, report, routes, told
from tests.e2e.workbench import SERVER, eventually
from tests.testbed import images
from tests.testbed.proxy import ADMIN


def problems(visitor: Visitor) -> list[str]:
    """What the ingress has to say of containers, a sentence each."""
    return [f"{one['container']}: {one['problem']}" for one in report(visitor.bench)["problems"]]


def route(visitor: Visitor, host: str = HOST) -> dict[str, object]:
    """The host in the ingress's table; empty if it is not there."""
    return next((one for one in report(visitor.bench)["routes"] if one["host"] == host), {})


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("stackpad.tpye=web", "did you mean stackpad.type?"),
        ("stackpad.type=webb", "use one of web, database, cache, generic"),
        ("stackpad.domains=www.example.test", "only a container with stackpad.type=web is exposed"),
    ],
)
def test_a_typing_error_is_told_also_where_nothing_says_web(visitor: Visitor, label: str, words: str) -> None:
    visitor.bench.start("oops", NETWORK, "--label", label)
    eventually(lambda: any(words in problem for problem in problems(visitor)), words)
    assert not report(visitor.bench)["routes"]
    visitor.bench.docker("rm", "--force", "oops")
    eventually(lambda: not problems(visitor), "the problem to go with its container")


def test_a_port_nobody_named_is_asked_for(visitor: Visitor) -> None:
    visitor.bench.start("web", NETWORK, "--label", "stackpad.type=web")
    eventually(lambda: any("exposes no port; say which" in problem for problem in problems(visitor)))
    visitor.bench.docker("rm", "--force", "web")
    visitor.bench.serve("web", NETWORK, "--label", "stackpad.type=web", "--expose", "80/tcp")
    visitor.sees(HOST, 200, "web ")


def test_a_compose_like_network_name_is_told_what_it_lacks(visitor: Visitor) -> None:
    visitor.bench.network("shop_default")
    visitor.bench.start("web", "shop_default", *WEB)
    eventually(lambda: any("set the label stackpad.project" in problem for problem in problems(visitor)))
    visitor.bench.serve(
        "named", "shop_default", *WEB, "--label", "stackpad.project=shop", "--label", "stackpad.environment=production"
    )
    visitor.sees("shop.acme.stackpad.test", 200, "named ")


def test_why_nobody_is_up_can_be_read(visitor: Visitor) -> None:
    bench = visitor.bench
    bench.docker("create", "--name", "web", "--network", NETWORK, *WEB, images.TEST, "sleep", "infinity")
    bench.docker("start", "web")
    eventually(lambda: "nothing accepts on its port 80 yet" in str(route(visitor).get("reason")))
    assert route(visitor)["state"] == "starting"
    visitor.sees(HOST, 503, "Not running")
    bench.docker("pause", "web")
    eventually(lambda: route(visitor).get("reason") == "web: it is paused")
    bench.docker("unpause", "web")
    bench.docker("stop", "--time", "0", "web")
    eventually(lambda: route(visitor).get("reason") == "web: it is not running")
    visitor.sees(HOST, 503, "Not running")


def test_a_signal_that_is_no_farewell_costs_nothing(visitor: Visitor) -> None:
    script = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{SERVER}"
    visitor.bench.start("web", NETWORK, *WEB, "--stop-signal", "SIGQUIT", command=("python3", "-c", script))
    visitor.sees(HOST, 200, "web ")
    visitor.bench.docker("kill", "--signal", "HUP", "web")
    visitor.bench.docker("exec", "web", "true")  # an event after it has been taken, too
    assert {visitor.status(HOST) for _ in range(5)} == {200}


def test_one_that_takes_its_time_to_stop_gets_nothing_new(visitor: Visitor) -> None:
    script = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{SERVER}"
    visitor.bench.start("web-1", NETWORK, *WEB, command=("python3", "-c", script))
    visitor.bench.serve("web-2", NETWORK, *WEB)
    eventually(lambda: len(list(route(visitor).get("upstreams") or ())) == 2, "both")  # type: ignore[call-overload]
    visitor.bench.docker("kill", "--signal", "TERM", "web-1")
    eventually(lambda: len(list(route(visitor)["upstreams"])) == 1, "one to leave")  # type: ignore[call-overload]
    # Caddy goes over to new connections with the next turn of the address, within five seconds.
    eventually(lambda: {visitor.get(HOST)[1].split()[0] for _ in range(6)} == {"web-2"}, "the other one to be left", 30)
    assert {visitor.get(HOST)[1].split()[0] for _ in range(20)} == {"web-2"}


def test_one_made_anew_under_its_name(visitor: Visitor) -> None:
    bench = visitor.bench
    bench.serve("web", NETWORK, *WEB, "--label", "stackpad.domains=shop.example.test")
    eventually(lambda: route(visitor, "shop.example.test").get("state") == "unproved", "it to be asked for")
    domain(bench, "allow", "shop.example.test")
    visitor.sees("shop.example.test", 200, "web ")
    since = route(visitor)["since"]
    bench.docker("rm", "--force", "web")
    bench.serve("web", NETWORK, *WEB, "--label", "stackpad.domains=shop.example.test", "--hostname", "anew")
    visitor.sees("shop.example.test", 200, "anew ")
    assert route(visitor)["since"] == since, "the name was kept for it"


def test_served_on_while_the_engine_is_dead(visitor: Visitor) -> None:
    bench = visitor.bench
    bench.node.restart_engine("--live-restore")
    try:
        bench.serve("web", NETWORK, *WEB)
        visitor.sees(HOST, 200, "web ")
        bench.node.stop_engine(signal.SIGKILL)
        eventually(lambda: bool(report(bench)["stale"]), "the ingress to notice")
        assert {visitor.status(HOST) for _ in range(5)} == {200}
        assert route(visitor)["state"] == "up", "what cannot be listed is not gone"
        bench.node.start_engine("--live-restore")
        eventually(lambda: not report(bench)["stale"], "the ingress to notice")
        visitor.sees(HOST, 200, "web ")
        bench.docker("stop", "--time", "0", "web")
        visitor.sees(HOST, 503)
    finally:
        bench.docker("rm", "--force", "web", check=False)
        bench.node.restart_engine()


def test_another_address_after_a_restart_of_the_engine(visitor: Visitor) -> None:
    bench = visitor.bench
    bench.serve("web", NETWORK, *WEB)
    visitor.sees(HOST, 200, "web ")
    before = address(visitor, "web")
    bench.node.restart_engine()
    # Whoever starts first has it now, and listens at the same port; engines differ in the order in which they give them.
    for number in range(4):
        if bench.serve(f"taker-{number}", NETWORK, "--label", "stackpad.type=database") == before:
            break
    bench.docker("start", "web")
    assert address(visitor, "web") != before, "or this test is about nothing"
    visitor.sees(HOST, 200, "web ")
    assert {visitor.get(HOST)[1].split()[0] for _ in range(5)} == {"web"}


def address(visitor: Visitor, name: str) -> str:
    """Where a container is."""
    find = f'{{{{(index .NetworkSettings.Networks "{NETWORK}").IPAddress}}}}'
    return visitor.bench.docker("inspect", "--format", find, name).strip()


def test_an_ingress_that_finds_no_caddy_waits_for_it(visitor: Visitor) -> None:
    bench, proxy = visitor.bench, visitor.bench.bed.proxy
    bench.serve("web", NETWORK, *WEB)
    visitor.sees(HOST, 200, "web ")
    proxy.stop_ingress()
    proxy.stop_caddy(signal.SIGKILL)
    bench.docker("stop", "--time", "0", "web")
    bench.node.exec("rm", "-f", ADMIN)
    proxy.start_ingress()
    try:
        eventually(lambda: "is Caddy running" in str(_problem(visitor)), "a word about Caddy")
    finally:
        proxy.start_caddy()
    visitor.sees(HOST, 503)
    bench.docker("start", "web")
    visitor.sees(HOST, 200, "web ")


def _problem(visitor: Visitor) -> object:
    try:
        return report(visitor.bench)["problem"]
    except Exception:
        return None  # its socket is not there yet


@clock.needed
def test_the_clock_of_the_day_jumps(visitor: Visitor, tmp_path: Path) -> None:
    """That of the ingress alone: the engine and Caddy, as every program in Go, keep the machine's."""
    bench, times, own = visitor.bench, Adjustable.made(tmp_path), "shop.example.test"
    proxy = bench.bed.proxy
    proxy.stop_ingress()
    proxy.start_ingress(python=times.module("ingress"), **times.environment)
    try:
        bench.serve("web", NETWORK, *WEB, "--label", f"stackpad.domains={own}")
        eventually(lambda: routes(bench) is not None and route(visitor, own).get("state") == "unproved", "it to ask")
        domain(bench, "allow", own)
        visitor.sees(own, 200, "web ")
        visitor.sees(HOST, 200, "web ")
        before = told(bench, "/domains")
        with visitor.steady(own) as statuses:
            for project, ahead in (("ahead", HOUR), ("behind", -HOUR), ("right", 0)):
                host = f"{project}.acme.stackpad.test"
                times.set(ahead)
                bench.serve("other", NETWORK, *WEB, "--label", f"stackpad.project={project}")
                visitor.sees(host, 200, "other ")
                assert abs(float(str(route(visitor, host)["since"])) - ahead - time.time()) < HOUR / 4, "it has jumped"
                bench.docker("rm", "--force", "other")
                visitor.sees(host, 404)
                domain(bench, "release", host)
                assert told(bench, "/domains") == before
        assert set(statuses) == {200}
    finally:
        proxy.stop_ingress()
        proxy.start_ingress()
        eventually(lambda: routes(bench) is not None, "the ingress")
