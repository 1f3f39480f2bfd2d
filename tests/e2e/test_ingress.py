"""Web services on real containers behind a real Caddy, over HTTPS, as a visitor sees them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import cast

import pytest

from tests.e2e.visitor import HOST, NETWORK, WEB, Visitor, caddy, domain, report, routes
from tests.e2e.workbench import eventually, hold
from tests.testbed import images
from tests.testbed.proxy import ADMIN

LATER = "aa-shared.acme.stackpad.test"
BLOG = "blog.acme.stackpad.test"


def test_from_start_to_removal(visitor: Visitor) -> None:
    bench = visitor.bench
    assert visitor.status(HOST) == 0, "no certificate for a host nobody has"
    bench.serve("web", NETWORK, *WEB)
    visitor.sees(HOST, 200, "web ")
    assert visitor.get(HOST, scheme="http")[0] == 308
    assert visitor.get(HOST.upper().lower(), "/", "--http2")[0] == 200
    assert visitor.get(HOST, "/", "-H", "Host: unknown.acme.stackpad.test") == (
        404,
        visitor.get(HOST, "/", "-H", "Host: x.y")[1],
    )
    bench.docker("stop", "--time", "1", "web")
    visitor.sees(HOST, 503, "Not running")
    assert "retry-after" in visitor.get(HOST, "/", "--include")[1].lower()
    bench.docker("start", "web")
    visitor.sees(HOST, 200, "web ")
    bench.docker("rm", "--force", "web")
    visitor.sees(HOST, 404, "Nothing here")


@pytest.mark.parametrize("kind", ["database", "cache", "generic", ""])
def test_nothing_but_web_is_exposed(visitor: Visitor, kind: str) -> None:
    label = ["--label", f"stackpad.type={kind}"] if kind else []
    visitor.bench.serve("postgres", NETWORK, *label, "--label", "stackpad.port=80", "--label", "caddy=my-app.example")
    hold(1.0)
    assert visitor.status(HOST) in {0, 404}
    assert not report(visitor.bench)["routes"]


def test_health_decides(visitor: Visitor) -> None:
    check = "--health-cmd=test -e /tmp/well", "--health-interval=300ms", "--health-retries=1", "--health-timeout=2s"
    visitor.bench.serve("web", NETWORK, *WEB, *check)
    visitor.sees(HOST, 503)
    visitor.bench.docker("exec", "web", "touch", "/tmp/well")
    visitor.sees(HOST, 200, "web ")
    visitor.bench.docker("exec", "web", "rm", "/tmp/well")
    visitor.sees(HOST, 503)


def test_replicas_share_a_host_and_one_may_go(visitor: Visitor) -> None:
    two_replicas(visitor)
    visitor.bench.docker("kill", "web-1")
    assert {visitor.visit(HOST) for _ in range(20)} == {200}
    visitor.sees(HOST, 200, "web-2 ")


@pytest.mark.parametrize("ingress", ["awake", "asleep"])
def test_nobody_notices_that_a_replica_dies(visitor: Visitor, ingress: str) -> None:
    """With the ingress asleep, Caddy must get by alone; when it wakes, its change must not end a visit under way."""
    two_replicas(visitor)
    with visitor.steady(HOST) as statuses:
        with visitor.bench.bed.proxy.ingress_suspended() if ingress == "asleep" else contextlib.nullcontext():
            visitor.bench.docker("kill", "web-1")
            some_more(statuses)
        eventually(lambda: len(upstreams(visitor)) == 1, "the ingress to take it out")
        some_more(statuses)
    assert set(statuses) == {200}


def two_replicas(visitor: Visitor) -> None:
    """``web-1`` and ``web-2``, and both have answered."""
    for number in (1, 2):
        visitor.bench.serve(f"web-{number}", NETWORK, *WEB)
    eventually(lambda: len({visitor.get(HOST)[1].split()[0] for _ in range(6)}) == 2, "both replicas to answer")


def upstreams(visitor: Visitor) -> list[str]:
    """Where the ingress has the host's visitors sent."""
    return [str(one) for route in report(visitor.bench)["routes"] for one in cast("list[str]", route["upstreams"])]


def some_more(statuses: list[int]) -> None:
    """Return when a score of further visits have been answered."""
    enough = len(statuses) + 20
    eventually(lambda: len(statuses) >= enough, "visits to be answered", 240)


def test_a_dead_upstream_has_a_page_of_ours(visitor: Visitor) -> None:
    bench = visitor.bench
    bench.serve("web", NETWORK, *WEB)
    visitor.sees(HOST, 200)
    bench.docker("exec", "web", "sh", "-c", "kill -STOP $(busybox pidof python3)", check=False)
    bench.docker("exec", "web", "sh", "-c", "kill -KILL $(busybox pidof python3); true", check=False)
    bench.docker("rm", "--force", "web")
    bench.start("web", NETWORK, *WEB, "--health-cmd=true", "--health-interval=300ms")
    visitor.sees(HOST, 502, "No answer")


def test_paths_and_custom_domains(visitor: Visitor) -> None:
    bench = visitor.bench
    bench.serve("web", NETWORK, *WEB, "--label", "stackpad.domains=www.example.test, EXAMPLE.test.")
    visitor.sees(HOST, 200, "web ")
    for name in ("www.example.test", "example.test"):
        assert visitor.status(name) == 0, "no certificate for what nobody has proved"
        (found,) = (one for one in report(bench)["routes"] if one["host"] == name)
        assert found["state"] == "unproved"
        assert f'_stackpad.{name}. TXT "stackpad-verify=' in str(found["reason"])
        assert domain(bench, "allow", name) == {"domain": name, "owner": "acme/my-app/production"}
    bench.serve("api", NETWORK, *WEB, "--label", "stackpad.path=/api")
    for host in (HOST, "www.example.test", "example.test"):
        visitor.sees(host, 200, "web ")
    eventually(lambda: visitor.get(HOST, "/api/users")[1].startswith("api "), "the path")
    assert visitor.get(HOST, "/apix")[1].startswith("web ")


def test_the_first_keeps_a_host(visitor: Visitor) -> None:
    bench = visitor.bench
    bench.network("rival-production")
    bench.serve("web", NETWORK, *WEB, "--label", "stackpad.domains=shop.example.test")
    eventually(lambda: any(one["state"] == "unproved" for one in report(bench)["routes"]), "it to be asked for")
    domain(bench, "allow", "shop.example.test")
    visitor.sees("shop.example.test", 200, "web ")
    bench.serve("thief", "rival-production", *WEB, "--label", "stackpad.domains=shop.example.test")
    eventually(lambda: any("belongs to acme/my-app/production" in str(p["problem"]) for p in report(bench)["problems"]))
    bench.bed.proxy.stop_ingress()
    bench.docker("restart", "--time", "1", "web")
    bench.bed.proxy.start_ingress()
    visitor.sees("shop.example.test", 200, "web ")
    visitor.sees("rival.acme.stackpad.test", 200, "thief ")
    assert visitor.status("shop.example.test") == 200
    bench.docker("rm", "--force", "web")
    eventually(lambda: visitor.status("shop.example.test") in {0, 404}, "it to be nobody's: it is kept for its owner")
    domain(bench, "release", "shop.example.test")
    domain(bench, "allow", "shop.example.test", owner="acme/rival/production")
    visitor.sees("shop.example.test", 200, "thief ")


@pytest.mark.parametrize("how", ["removed", "off its network"])
def test_a_name_is_its_owners_while_its_container_is_away(visitor: Visitor, how: str) -> None:
    """Another environment has the same name by its labels, and waits for it."""
    bench, name = visitor.bench, "kept-staging.acme.stackpad.test"
    own = ("own", NETWORK, *WEB, "--label", "stackpad.project=kept", "--label", "stackpad.environment=staging")
    bench.serve(*own)
    visitor.sees(name, 200, "own ")
    bench.serve("lurker", NETWORK, *WEB, "--label", "stackpad.project=kept-staging")
    eventually(
        lambda: any(f"{name} belongs to acme/kept/staging" in str(p["problem"]) for p in report(bench)["problems"])
    )
    bench.docker(*(("rm", "--force", "own") if how == "removed" else ("network", "disconnect", NETWORK, "own")))
    eventually(lambda: any(f"{name} is kept for acme/kept" in str(p["problem"]) for p in report(bench)["problems"]))
    seen: list[int] = []

    def is_nobodys() -> bool:
        seen.append(visitor.status(name))
        return seen[-1] in {0, 404}

    eventually(is_nobodys, "it to be served for nobody")
    assert 200 not in seen, seen
    if how == "removed":
        bench.serve(*own)
    else:
        bench.docker("network", "connect", NETWORK, "own")
    visitor.sees(name, 200, "own ")


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("stackpad.domains={http.vars.secret}", "is not a domain name"),
        ("stackpad.domains=*.*.example.test", "is not a domain name"),
        ("stackpad.domains=other.acme.stackpad.test", "lies under stackpad.test"),
        ("stackpad.project=../../x", "cannot be part of a host name"),
        ("stackpad.path=/{a}/../b", "is not a path"),
        ("stackpad.port=99999", "is not a port"),
        ("stackpad.domain=x.example.test", "did you mean stackpad.domains?"),
    ],
)
def test_what_a_container_cannot_say(visitor: Visitor, label: str, words: str) -> None:
    bench = visitor.bench
    bench.serve("good", NETWORK, *WEB)
    bench.start("bad", NETWORK, *WEB, "--label", label)
    eventually(lambda: any(words in str(problem["problem"]) for problem in report(bench)["problems"]), words)
    visitor.sees(HOST, 200, "good ")
    assert "{" not in label or label.partition("=")[2] not in caddy(bench, "GET", "/config/")


def test_another_network_changes_nothing_of_where_it_is_served(visitor: Visitor) -> None:
    """Whatever its name sorts before; it is served from there only once it has left the one it was made with."""
    visitor.bench.network("aa-shared")
    visitor.bench.serve("web", NETWORK, *WEB)
    visitor.sees(HOST, 200)
    visitor.bench.docker("network", "connect", "aa-shared", "web")
    visitor.bench.serve("later", "aa-shared", *WEB)
    visitor.sees(LATER, 200, "later ")
    assert visitor.get(HOST)[:1] == (200,)
    assert [row["host"] for row in routes(visitor.bench) or [] if row["state"] == "up"] == sorted((HOST, LATER))


@pytest.mark.parametrize(
    ("second", "labels"),
    [("blog", ()), ("Blog-Production", ()), ("blog-staging", ("--label", "stackpad.environment=production"))],
)
def test_networks_that_are_kept_apart_do_not_share_a_hosts_visitors(
    visitor: Visitor, second: str, labels: tuple[str, ...]
) -> None:
    bench, first, service = visitor.bench, "blog-production", ("--label", "com.docker.compose.service=web")
    for name in (first, second):
        bench.network(name)
    bench.serve("own", first, *WEB, *service)
    visitor.sees(BLOG, 200, "own ")
    bench.serve("other", second, *WEB, *service, *labels)
    words = f"is served by web on network {first}, and this container is on network {second}"
    eventually(lambda: any(words in str(problem["problem"]) for problem in report(bench)["problems"]), words)
    assert {visitor.get(BLOG)[1].split()[0] for _ in range(20)} == {"own"}
    # Made anew, as for a new version, it is served on, although the other one is older by now.
    bench.serve("new", first, *WEB, *service)
    bench.docker("rm", "--force", "own")
    eventually(lambda: {visitor.get(BLOG)[1].split()[0] for _ in range(20)} == {"new"}, "the new one alone")
    # Taken away and made anew, as by docker compose down and up, it finds its host where it was.
    bench.docker("rm", "--force", "new")
    words = f"is kept for web on network {first}, whose containers have gone"
    eventually(lambda: any(words in str(problem["problem"]) for problem in report(bench)["problems"]), words)
    bench.serve("again", first, *WEB, *service)
    visitor.sees(BLOG, 200, "again ")


def test_an_environment_is_spread_over_networks_by_paths(visitor: Visitor) -> None:
    bench = visitor.bench
    bench.network("behind")
    labels = ("--label", "stackpad.project=my-app", "--label", "stackpad.environment=production")
    bench.serve("web", NETWORK, *WEB)
    bench.serve("api", "behind", *WEB, *labels, "--label", "stackpad.path=/api")
    visitor.sees(HOST, 200, "web ")
    eventually(lambda: visitor.get(HOST, "/api/users")[1].startswith("api "), "the path")
    assert not report(bench)["problems"]


def test_a_container_on_another_network_is_told_so(visitor: Visitor) -> None:
    visitor.bench.docker("run", "--detach", "--name", "lost", *WEB, images.TEST, "sleep", "infinity")
    eventually(lambda: any("no network of ours" in str(p["problem"]) for p in report(visitor.bench)["problems"]))


def test_the_operators_configuration_stays_and_ours_comes_back(visitor: Visitor) -> None:
    bench = visitor.bench
    proxy = bench.bed.proxy
    bench.serve("web", NETWORK, *WEB)
    visitor.sees(HOST, 200, "web ")
    answer = [{"handler": "static_response", "status_code": "200", "body": "the operator's own"}]
    operator = {
        "listen": [":8443", ":443"],
        "routes": [{"match": [{"host": ["own.example.test"]}], "handle": answer, "terminal": True}],
        "tls_connection_policies": [{}],
    }
    issuer = {"subjects": ["own.example.test"], "issuers": [{"module": "internal"}]}
    base = {
        "apps": {
            "http": {"servers": {"operator": operator}},
            "tls": {"automation": {"policies": [issuer]}},
            "pki": {"certificate_authorities": {"local": {"install_trust": False}}},
        }
    }
    try:
        proxy.stop_caddy(signal.SIGKILL)
        proxy.start_caddy(base)
        visitor.sees(HOST, 200, "web ")
        visitor.sees("own.example.test", 200, "the operator's own")
        # Reloaded by the operator: everything that is not in his file is gone, for a moment.
        caddy(bench, "POST", "/load", {"admin": {"listen": f"unix/{ADMIN}"}, **base})
        visitor.sees(HOST, 200, "web ")
        visitor.sees("own.example.test", 200, "the operator's own")
        caddy(bench, "DELETE", "/id/stackpad")
        visitor.sees(HOST, 200, "web ")
        kept = json.loads(caddy(bench, "GET", "/config/apps/http/servers/operator"))
        assert kept["routes"][0]["handle"] == answer
        assert kept["listen"] == operator["listen"]
    finally:
        proxy.stop_caddy()
        proxy.start_caddy()
    visitor.sees(HOST, 200, "web ")


def test_served_on_while_the_ingress_is_gone(visitor: Visitor) -> None:
    bench = visitor.bench
    bench.serve("web", NETWORK, *WEB)
    visitor.sees(HOST, 200, "web ")
    bench.bed.proxy.stop_ingress(signal.SIGKILL)
    try:
        assert {visitor.status(HOST) for _ in range(5)} == {200}
        assert visitor.status("other.acme.stackpad.test") == 0, "no certificate while nobody can be asked"
        bench.docker("rm", "--force", "web")
        bench.serve("web2", NETWORK, *WEB)
    finally:
        bench.bed.proxy.start_ingress()
    visitor.sees(HOST, 200, "web2 ")


def test_served_on_over_a_restart_of_the_engine(visitor: Visitor) -> None:
    bench = visitor.bench
    bench.serve("web", NETWORK, *WEB, "--restart", "always")
    visitor.sees(HOST, 200, "web ")
    bench.node.restart_engine()
    visitor.sees(HOST, 200, "web ")
    bench.docker("rm", "--force", "web")
    visitor.sees(HOST, 404)


STREAMS = """
import socket
s = socket.create_server(("", 80))
while True:
    c, _ = s.accept()
    data = c.recv(4096)
    if b"websocket" in data.lower():
        c.sendall(b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n\\r\\n")
        while data := c.recv(100): c.sendall(data)
    elif data:
        c.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Type: text/event-stream\\r\\n\\r\\ndata: first\\n\\n")
        c.settimeout(60)
        try:
            c.recv(1)
        except OSError:
            pass
    c.close()
"""
"""Echoes what comes in an upgraded connection; otherwise sends one event and keeps the response open."""


def test_websocket_and_streaming_pass(visitor: Visitor) -> None:
    visitor.bench.start("web", NETWORK, *WEB, command=("python3", "-c", STREAMS))
    visitor.sees_route(HOST)
    eventually(lambda: _first_event(visitor) == "data: first", "the first event before the stream ends")
    with visitor.upgraded(HOST) as connection:
        connection.sendall(b"hello")
        assert connection.makefile("rb").read(5) == b"hello", "in one piece or several"


def _first_event(visitor: Visitor) -> str:
    words = ["curl", "-sN", "--max-time", "5", "--cacert", str(visitor.bench.bed.proxy.ca)]
    words += ["--resolve", f"{HOST}:443:{visitor.bench.node.address}", f"https://{HOST}/"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def test_the_status_page_shows_what_runs_and_keeps_others_names_away(visitor: Visitor) -> None:
    bench = visitor.bench
    bench.serve("web", NETWORK, *WEB)
    bench.serve("postgres", NETWORK)
    visitor.sees(HOST, 200, "web ")
    page = bench.node.root / "run/stackpad/ingress/page.sock"

    def asked(path: str, host: str = "localhost") -> str:
        words = ["curl", "--silent", "--unix-socket", str(page), "--header", f"Host: {host}", f"http://x{path}"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    eventually(lambda: all(word in asked("/") for word in (HOST, NETWORK, "postgres", "<svg")), "the page to show it all")
    assert HOST not in asked("/", "evil.example")
    assert page.stat().st_mode & 0o777 == 0o600


def test_a_dry_run_shows_what_would_be_written_and_writes_nothing(visitor: Visitor) -> None:
    bench, proxy = visitor.bench, visitor.bench.bed.proxy
    bench.serve("web", NETWORK, *WEB)
    visitor.sees(HOST, 200, "web ")
    before = caddy(bench, "GET", "/config/")
    enter = ["nsenter", f"--net=/run/netns/{bench.node.spec.netns}", sys.executable, "-m", "ingress", "--dry-run"]

    def planned(**settings: str) -> str:
        environment = {**os.environ, **proxy.environment, **settings}
        return subprocess.run(enter, env=environment, capture_output=True, text=True, check=True).stdout

    assert planned().strip() == "nothing: Caddy has it all"
    lines = planned(BASE_DOMAIN="other.test").splitlines()
    assert any(line.startswith("+") and "my-app.acme.other.test" in line for line in lines)
    assert any(line.startswith("-") and HOST in line for line in lines)
    assert caddy(bench, "GET", "/config/") == before
    assert visitor.status(HOST) == 200
