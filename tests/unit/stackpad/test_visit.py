"""Which step stops a visit, and what there is to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from stackpad.cli import app as commands
from stackpad.cli.app import app
from stackpad.cli.explain import Step, grid
from stackpad.cli.names import look_up
from stackpad.cli.reports import DomainReport, Routes
from stackpad.cli.visit import Answer, Plain, explain, plain_port, target
from stackpad.errors import InvalidRequest
from tests.unit.stackpad.canned import STATUS, served

HOST, NOW = "shop.acme.example.org", 1_000_100.0
UP = {"name": "web-1", "state": "up", "reason": None, "node": "a"}
DOWN = {"name": "web-1", "state": "down", "reason": "it has ended", "node": "a"}
ROUTE: dict[str, Any] = {
    "host": HOST, "path": "/", "owner": "acme/shop/production", "service": "web", "state": "up",
    "upstreams": ["10.0.0.2:80"], "since": 1_000_000.0, "number": 7, "containers": [UP],
    "certificate": {"issuer": "Somebody", "not_after": 2_000_000.0},
}  # fmt: skip
WILD = {**ROUTE, "host": "*.shop.example", "service": "tenants"}
API = {**ROUTE, "path": "/api", "service": "api"}
REPORT: dict[str, Any] = {
    "control": True, "nodes": [{"name": "a", "control": True}, {"name": "b"}], "routes": [ROUTE, API, WILD]
}  # fmt: skip
OWN = ("192.0.2.1",)


def steps(
    host: str = HOST, path: str = "/", answer: Answer | None = None, plain: Plain | None = None, **changes: Any
) -> list[Step]:
    report = msgspec.convert({**REPORT, **changes}, Routes)
    domains = [DomainReport(domain="*.shop.example", owner="acme/shop/production", state="active", how="dns")]
    found = explain(host, path, report, domains, answer or Answer(OWN), OWN, NOW, plain)
    assert grid(found).rows
    return found


def of(**changes: Any) -> dict[str, Any]:
    return {"routes": [{**ROUTE, **changes}]}


def test_the_whole_way() -> None:
    found = steps()
    assert [step.name for step in found] == [
        "node", "name", "table", "owner", "Caddy", "certificate", "upstreams", "container",
    ]  # fmt: skip
    assert all(step.ok for step in found)
    said = {step.name: step.text for step in found}
    assert said["upstreams"] == "by the number 7, which the kernel leads to 10.0.0.2:80"
    assert said["certificate"] == "Somebody, until 1970-01-24"
    assert said["name"].endswith("which is this node")


@pytest.mark.parametrize(("left", "until"), [(12, "until 1970-01-13 01:48 UTC"), (49, "until 1970-01-14")])
def test_a_certificate_that_ends_soon_is_told_with_the_hour(left: int, until: str) -> None:
    """By the day alone, one of Caddy's own, which lasts for twelve hours, looks as if it had ended."""
    issued = {"issuer": "Somebody", "not_after": NOW + left * 3600}
    (step,) = [step for step in steps(**of(certificate=issued)) if step.name == "certificate"]
    assert step.text == f"Somebody, {until}"


@pytest.mark.parametrize(
    ("host", "path", "service"),
    [
        (HOST, "/api", "api"), (HOST, "/api/1", "api"), (HOST, "/apis", "web"), ("x.shop.example", "/", "tenants"),
    ],
)  # fmt: skip
def test_the_route_that_a_request_meets(host: str, path: str, service: str) -> None:
    found = {step.name: step for step in steps(host, path)}
    assert f"service {service} of" in found["table"].text
    assert ("proved by dns" in found["owner"].text) is (service == "tenants")


@pytest.mark.parametrize(
    ("changes", "name", "text", "remedy"),
    [
        ({"control": False}, "node", "do not come in", "on a control node: a"),
        ({"control": False, "nodes": []}, "node", "do not come in", "stackpad node ls"),
        ({"routes": []}, "table", "no container asks", "stackpad routes"),
        (of(host="shops.acme.example.org"), "table", "no container asks", "did you mean shops.acme.example.org?"),
        (of(path="/api"), "table", "serves /api only, not /", "without stackpad.path"),
        (
            {"routes": [], "problems": [{"container": "x", "problem": f"{HOST} belongs to a/b/c"}]},
            "table", f"x: {HOST} belongs to a/b/c", "",
        ),
        (of(state="unproved", reason="not proved: create the record"), "owner", "create the record", ""),
        (of(state="rejected", reason="bad"), "Caddy", "refuses this host: bad", ""),
        ({"problem": "Caddy is gone"}, "Caddy", "not in step with the table: Caddy is gone", "before"),
        ({"problem": "no socket", "away": True}, "Caddy", "does not run: no socket", "systemctl start caddy"),
        (
            of(certificate=None, certificate_reason="Caddy could not get one", certificate_failed=True),
            "certificate", "could not get one", "journalctl",
        ),
        (of(state="redirect", reason="visitors are sent on to x.example"), "answer", "sent on to x.example", "that host"),
        (of(state="maintenance"), "answer", "maintenance page", "stackpad.maintenance"),
        (of(state="down", upstreams=[], containers=[DOWN]), "upstreams", "on a is down: it has ended", "docker logs"),
        (
            of(state="down", upstreams=[], containers=[{**DOWN, "reason": "its node a gives no sign of life"}]),
            "upstreams", "gives no sign of life", "see on a whether the plugin and the engine run: stackpad doctor",
        ),
        (
            of(state="unhealthy", upstreams=[], containers=[{**DOWN, "state": "unhealthy"}]),
            "upstreams", "is unhealthy", "{{json .State.Health}}",
        ),
    ],
)  # fmt: skip
def test_what_stops_is_the_last_step(changes: dict[str, Any], name: str, text: str, remedy: str) -> None:
    *before, last = steps(**changes)
    assert all(step.ok for step in before)
    assert (last.name, last.ok) == (name, False)
    assert text in last.text
    assert remedy in last.remedy


def test_a_name_that_dns_does_not_know_stops_and_the_walk_goes_on() -> None:
    found = steps(answer=Answer(problem="Name or service not known"))
    assert [step.name for step in found if not step.ok] == ["name"]
    assert found[1].remedy == "have an A or AAAA record point to 192.0.2.1"
    assert found[-1].name == "container"
    assert steps(answer=Answer(("198.51.100.9",)))[1].ok, "another node, or a router in front"


@pytest.mark.parametrize(
    ("plain", "ok", "text"),
    [
        (Plain(80, 308, f"https://{HOST}/"), True, f"port 80 sends visitors on to https://{HOST}/ (308); what follows"),
        (Plain(8080, 308, f"https://{HOST}:8443/"), True, "port 8080 sends"),
        (Plain(80, 301, "https://else.example/"), False, "a redirect of yours"),
        (Plain(80, 302, f"http://{HOST}/login"), False, "a redirect of yours"),
        (Plain(80, 302, "https://[::1"), False, "a redirect of yours"),
        (Plain(80, 200), False, "port 80 has an answer of its own (200)"),
        (Plain(80, 304), False, "port 80 has an answer of its own (304)"),
        (Plain(80, problem="Connection refused"), False, "nobody answers at port 80 (Connection refused)"),
    ],
)
def test_a_visit_without_https_begins_at_the_http_port_and_the_walk_goes_on(plain: Plain, ok: bool, text: str) -> None:
    found = steps(plain=plain)
    assert [step.name for step in found[:4]] == ["node", "name", "HTTP", "table"]
    assert (found[2].ok, found[-1].name) == (ok, "container")
    assert text in found[2].text
    assert "what follows is of https" in f"{found[2].text} {found[2].remedy}"
    assert [step.name for step in steps(plain=plain, control=False)] == ["node"]


def test_a_name_is_not_suggested_for_the_domain_it_shares_with_all_others() -> None:
    assert "did you mean" not in steps(**of(host="other.acme.example.org"))[-1].remedy


def test_a_first_visit_has_its_certificate_made() -> None:
    found = {step.name: step for step in steps(**of(certificate=None, certificate_reason="nobody has visited it yet"))}
    assert found["certificate"].ok


def test_who_has_a_name_comes_before_who_would_like_it() -> None:
    rival = {**ROUTE, "owner": "z/z/z", "state": "unproved"}
    assert "acme/shop" in steps(routes=[rival, ROUTE])[2].text


@pytest.mark.parametrize(
    ("text", "host", "path"),
    [
        ("https://Shop.Example.org/a/b?c", "shop.example.org", "/a/b"),
        ("shop.example.org", "shop.example.org", "/"),
        ("shop.example.org:8443/x", "shop.example.org", "/x"),
        ("http://bücher.example/", "xn--bcher-kva.example", "/"),
    ],
)
def test_addresses_are_read_as_people_write_them(text: str, host: str, path: str) -> None:
    assert target(text) == (host, path)


@pytest.mark.parametrize(
    ("text", "port"),
    [("http://a.example/", 80), ("http://a.example:8080/x", 8080), ("https://a.example:80/", None), ("a.example", None)],
)
def test_only_who_writes_http_begins_at_the_http_port(text: str, port: int | None) -> None:
    assert plain_port(text) == port


@pytest.mark.parametrize(
    "text",
    ["ftp://a.example/", "https://", "https://[::1", "10.0.0.1", "a b.example", "*.example.org", "http://a.example:x/"],
)
def test_others_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        target(text)


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "look_up", lambda _: Answer(OWN))
    with (
        served(tmp_path / "i.sock", {"/routes": REPORT, "/domains": []}) as ingress,
        served(tmp_path / "n.sock", {"/status": {**STATUS, "addresses": OWN}}) as plugin,
    ):
        sockets = "--ingress-socket", str(ingress), "--socket", str(plugin)
        good = run("explain", f"https://{HOST}/api", *sockets, "--json")
        assert (good.exit_code, json.loads(good.stdout)[-1]["name"]) == (0, "container")
        bad = run("explain", "nobody.example", *sockets)
        assert bad.exit_code == 1
        assert "stops here" in bad.stdout
        assert run("explain", "ftp://x.y/", *sockets).exit_code == 2
        lonely = run("explain", "web", *sockets)
        assert lonely.exit_code == 2
        assert "what does it reach?" in lonely.stderr
        detail = run("routes", HOST, "--socket", str(ingress))
        assert detail.exit_code == 0
        for word in ("web-1 on a: up", "number", "7", "/api"):
            assert word in detail.stdout
        nobody = run("routes", "nobody.example", "--socket", str(ingress))
        assert nobody.exit_code == 2
        assert "stackpad explain nobody.example says why" in nobody.stderr


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("shop", "there is shop.acme.example and shop-staging.acme.example"),
        ("SHOP-staging", "there is shop-staging.acme.example"),
        ("shpo", "there is shop.acme.example"),
        ("zebra", "stackpad routes lists the hosts"),
    ],
)
def test_a_word_that_is_no_host_is_not_sent_where_it_is_refused(tmp_path: Path, word: str, said: str) -> None:
    """``explain`` takes a single word for a container."""
    there = [{**ROUTE, "host": host} for host in ("shop.acme.example", "shop-staging.acme.example", "blog.acme.example")]
    with served(tmp_path / "i.sock", {"/routes": {**REPORT, "routes": there}}) as ingress:
        done = run("routes", word, "--socket", str(ingress))
    assert done.exit_code == 2
    assert f"{word} is no host here; {said}" in " ".join(done.stderr.split())


def test_a_node_without_a_table_says_where_it_is(tmp_path: Path) -> None:
    with served(tmp_path / "i.sock", {"/routes": {**REPORT, "control": False, "routes": []}}) as ingress:
        done = run("routes", "--socket", str(ingress))
        assert "visitors come in elsewhere; see stackpad routes on a" in done.stdout


def test_a_node_without_a_table_says_which_of_its_own_containers_are_refused(tmp_path: Path) -> None:
    waiting = {**ROUTE, "host": "new.example", "state": "unproved", "reason": "not proved, as a says"}
    refused = {"container": "b-1", "node": "b", "problem": f"{HOST} belongs to x/y/z (as a says)"}
    wild = {"container": "b-2", "node": "b", "problem": "*.w.example belongs to x/y/z (as a says)"}
    changes: dict[str, Any] = {"control": False, "routes": [waiting], "problems": [refused, wild]}
    for host, text in (
        (HOST, f"b-1: {HOST} belongs to x/y/z (as a says)"),
        ("x.w.example", "b-2: *.w.example belongs to"),
        ("new.example", "acme/shop/production asks for it, and it is unproved: not proved, as a says"),
    ):
        node, owner = steps(host, **changes)
        assert (node.name, node.ok, owner.name, owner.ok) == ("node", False, "owner", False)
        assert owner.text.startswith(text)
    assert len(steps(f"x{HOST}", **changes)) == len(steps("w.example", **changes)) == 1
    with served(tmp_path / "i.sock", {"/routes": {**REPORT, **changes}}) as ingress:
        done = run("routes", "--socket", str(ingress))
    assert done.exit_code == 1
    _, row, *notes = done.stdout.splitlines()
    assert row.split()[:2] == ["new.example", "unproved:"]
    assert notes == [
        f"container b-1 on b: {HOST} belongs to x/y/z (as a says)",
        "container b-2 on b: *.w.example belongs to x/y/z (as a says)",
        "all else is where visitors come in: see stackpad routes on a",
    ]


def test_this_machines_resolver() -> None:
    assert "127.0.0.1" in look_up("localhost").addresses


@pytest.mark.parametrize(("diff", "status"), [("", 0), ("--- Caddy has\n+++ then\n+  \x1b[31m\n", 1)])
def test_the_next_write_is_shown(tmp_path: Path, diff: str, status: int) -> None:
    with served(tmp_path / "i.sock", {"/plan": {"diff": diff, "writes": 1}}) as ingress:
        done = run("routes", "--diff", "--socket", str(ingress))
        assert done.exit_code == status
        assert "\x1b" not in done.stdout
        assert ("nothing to write" in done.stdout) is (status == 0)
        assert done.stdout.splitlines()[-1] == (r"+  \x1b[31m" if diff else "nothing to write: Caddy has it all")
