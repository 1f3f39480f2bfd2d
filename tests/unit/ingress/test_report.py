"""What people and programs are told of the table, and who may have a certificate."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from pathlib import Path

from ingress.app import Ingress
from ingress.following.follower import View
from ingress.report import Facts, report
from ingress.routes import Problem, Table
from ingress.settings import Settings
from stackpad.engine import Engine
from stackpad.routeoptions import RouteOptions
from tests.browser import fleet
from tests.unit.ingress import test_verdicts
from tests.unit.ingress.test_routes import HOST, container, made
from tests.unit.ingress.test_waiting import DOMAIN, RIVAL, rival, shop
from tests.unit.ingress.test_waiting import made as table_of

HASH = "$2b$04$ekq4YyCSNQvhXlC66UeCD.m0v2NoNXC9WfG8gkjskhpiw7rfIt4EO"


ENGINE = Engine("unix:///nowhere")


def ingress(tmp_path: Path, table: Table) -> Ingress:
    there = Ingress(Settings(base_domain="stackpad.test", state_dir=tmp_path), ENGINE)
    there._current.table = table
    there._current.known = frozenset(host.host for host in table.hosts)
    return there


def test_options_are_named_and_secrets_are_not_told(tmp_path: Path) -> None:
    options = RouteOptions(canonical=HOST, auth=(("bob", HASH),), body=5)
    shut = container("shut", project="shut", options=RouteOptions(maintenance=True))
    report = ingress(tmp_path, made(container("a", domains=("x.example",), options=options), shut)).report()
    told = {route["host"]: (route["state"], route["options"], route["reason"]) for route in report["routes"]}
    labels = ["stackpad.canonical", "stackpad.auth", "stackpad.body"]
    assert told[HOST] == ("up", labels, None)
    assert told["x.example"] == ("redirect", labels, f"visitors are sent on to {HOST}")
    assert told["shut.acme.stackpad.test"][:2] == ("maintenance", ["stackpad.maintenance"])
    assert "$2b$" not in json.dumps(report)


def test_a_certificate_may_be_had_below_a_wildcard_of_the_table(tmp_path: Path) -> None:
    there = ingress(tmp_path, made(container("a", domains=("*.x.example",))))
    known = (HOST, "a.x.example", "xn--bcher-kva.x.example")
    assert all(there.knows(name) for name in known)
    unknown = ("x.example", "a.b.x.example", "*.x.example", "a.stackpad.test", "")
    assert not any(there.knows(name) for name in unknown)


def test_a_node_where_no_visitors_come_in_tells_who_of_its_own_is_refused_and_nothing_of_a_table(tmp_path: Path) -> None:
    there = ingress(tmp_path, made(container("from when visitors came in here")))
    there._running.fleet.seen = test_verdicts.seen(test_verdicts.proved(shop(), rival()))
    there._running.follower.view = View({"b": rival(), "c": container("c", domains=("new.example",))})
    told = there.report()
    assert (told["control"], told["routes"]) == (False, [])
    (problem,) = told["problems"]
    assert (problem["container"], problem["problem"].split()[0]) == ("b", DOMAIN)
    there._running.fleet.seen = test_verdicts.seen(table_of(shop(), rival()).ledger)
    (route,) = there.report()["routes"]
    assert (route["host"], route["owner"], route["state"], route["upstreams"]) == (DOMAIN, RIVAL, "unproved", [])
    assert route["reason"] == "not proved, as control-1 says; see stackpad domain ls there"


async def test_a_caddy_that_does_not_run_is_told_from_one_that_is_not_in_step(tmp_path: Path) -> None:
    there = Ingress(Settings(base_domain="stackpad.test", state_dir=tmp_path, caddy_admin=tmp_path / "gone.sock"), ENGINE)
    writer = there._writer
    assert not there.report()["away"], "nothing is known yet"
    there._running.fleet.seen = replace(there._running.fleet.seen, control=True)
    writer.want(made(container("a")))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            await writer.run()
    assert there.report()["away"]
    assert "is Caddy running" in there.report()["problem"]
    writer.trouble("the engine does not answer")
    assert not there.report()["away"]


def test_what_is_not_served_is_told_with_its_node() -> None:
    seen, table = fleet.facts(*fleet.CONTAINERS).seen, made()
    problems = (Problem("a", "here", "x"), Problem("b", "there", "y", node=min(seen.nodes.keys() - {seen.node})))
    told = report(Facts(control=True, problem=None, stale=False, seen=seen, table=table, problems=problems))["problems"]
    names = {node.owner: node.name for node in seen.nodes.values()}
    assert [one["node"] for one in told] == [names[seen.node], names[problems[1].node]]
