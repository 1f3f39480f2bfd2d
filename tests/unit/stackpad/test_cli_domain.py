"""``stackpad domain`` against the ingress's own handlers on a real socket, with a real ledger behind them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner, Result

from ingress.owners.ledger import Claim, How, Ledger, merge
from ingress.proving.lookups import Absent, Lookups
from ingress.proving.ownership import Ownership
from ingress.settings import Settings
from ingress.tables import table
from ingress.web import admin
from stackpad.cli.app import app
from stackpad.cli.render import domain_check
from stackpad.cli.reports import Attempt, DomainCheck
from tests.unit.ingress.test_routes import BASE
from tests.unit.ingress.test_waiting import DOMAIN, RIVAL, SHOP, rival, shop
from tests.unit.stackpad.canned import hosted, served


class Said(Lookups):
    """Knows what a test says is in DNS."""

    def __init__(self) -> None:
        super().__init__([], 1)
        self.there: list[str] = []

    async def texts(self, name: str) -> list[str]:
        if not self.there:
            raise Absent(f"there is no {name} in DNS")
        return list(self.there)


class Ingress:
    """What belongs to the socket."""

    def __init__(self, home: Path) -> None:
        self.lookups = Said()
        settings = Settings(BASE, state_dir=home, domain_proof=frozenset({How.DNS}))
        self.ownership = Ownership(settings, self.remake, self.lookups)
        self.socket = home / "ingress.sock"
        self.elsewhere: str | None = None
        self.containers = [shop(domains=(DOMAIN, "api.example.org"))]
        self.remake()

    def remake(self) -> None:
        if self.elsewhere is not None:
            return  # no table is made where no visitors come in
        self.ownership.decide(table(self.containers, self.ownership.ledger, base_domain=BASE, now=1_000_000.0))

    def application(self) -> web.Application:
        def report() -> dict[str, Any]:
            return {"control": self.elsewhere is None}

        return admin(report, CollectorRegistry(), self.ownership, elsewhere=lambda: self.elsewhere)

    def state(self, domain: str = DOMAIN) -> list[tuple[str, str]]:
        return [(one["owner"], one["state"]) for one in self.ownership.domains() if one["domain"] == domain]


@pytest.fixture
def ingress(tmp_path: Path) -> Iterator[Ingress]:
    with structlog.testing.capture_logs():  # what it logs is not what the command prints
        made = Ingress(tmp_path)
        with hosted(made.socket, made.application):
            yield made


def run(ingress: Ingress | None, *words: str) -> Result:
    socket = "/nowhere" if ingress is None else str(ingress.socket)
    return CliRunner().invoke(app, ["domain", *words], env={"STACKPAD_INGRESS_SOCKET": socket})


def test_domains_are_listed_with_what_is_to_be_done(ingress: Ingress) -> None:
    result = run(ingress, "ls")
    assert result.exit_code == 0, result.output
    head, first, second, *notes = result.stdout.splitlines()
    assert head.split() == ["DOMAIN", "OWNER", "STATE", "PROVED", "BY", "SINCE"]
    assert first.split()[:5] == ["api.example.org", SHOP, "unproved", "nothing", "yet"]
    assert second.split()[0] == DOMAIN
    assert f'{DOMAIN} ({SHOP}): not proved: create the DNS record _stackpad.{DOMAIN}. TXT "stackpad-verify=' in notes[1]
    named = {line.split()[0] for line in run(ingress, "ls", "--all").stdout.splitlines()}
    assert "shop.acme.stackpad.test" in named
    assert "shop.acme.stackpad.test" not in result.stdout
    listed = json.loads(run(ingress, "ls", "--json").stdout)
    assert [(one["domain"], one["state"], one["how"]) for one in listed] == [
        ("api.example.org", "unproved", None),
        (DOMAIN, "unproved", None),
    ]


def test_what_holds_for_many_names_is_said_once(tmp_path: Path) -> None:
    def held(name: str, day: str = "2026-11-28") -> dict[str, Any]:
        reason = f"no container asks for it since {day}; it is kept until 2026-12-28, or stackpad domain release {name}"
        return {"domain": name, "owner": SHOP, "state": "held", "how": "platform", "reason": reason}

    entries = [held("a.example"), held("b.example"), held("c.example", "2026-11-27"), {**held("d.example"), "reason": ""}]
    with served(tmp_path / "i.sock", {"/domains": entries, "/routes": {}}) as socket:
        shown = CliRunner().invoke(app, ["domain", "ls", "--socket", str(socket)]).stdout.splitlines()
        as_json = CliRunner().invoke(app, ["domain", "ls", "--json", "--socket", str(socket)]).stdout
    states = [" ".join(line.split()[2:4]) for line in shown[1:5]]
    assert states == ["held [1]", "held [1]", "held platform", "held platform"]
    assert shown[5:] == [
        f"c.example ({SHOP}): {entries[2]['reason']}",
        "[1] no container asks for it since 2026-11-28; it is kept until 2026-12-28, or stackpad domain release DOMAIN",
    ]
    assert [one["reason"] for one in json.loads(as_json)] == [one["reason"] for one in entries]


def test_no_domains(ingress: Ingress) -> None:
    ingress.containers = []
    ingress.remake()
    assert run(ingress, "ls").stdout.startswith("no domains of your own; a container asks for one with the label")


def test_allow_forbid_and_release(ingress: Ingress) -> None:
    result = run(ingress, "allow", DOMAIN)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"{DOMAIN} is {SHOP}'s\n")
    assert ingress.state() == [(SHOP, "active")]
    assert run(ingress, "ls").stdout.splitlines()[2].split()[2:5] == ["active", "operator,", "0"]
    result = run(ingress, "forbid", DOMAIN, "--json")
    assert json.loads(result.stdout) == {"domain": DOMAIN}
    assert ingress.state() == [(SHOP, "forbidden")]
    result = run(ingress, "release", DOMAIN)
    assert (result.exit_code, result.stderr) == (0, f"{DOMAIN} is free; it was {SHOP}'s\n")
    assert ingress.state() == [(SHOP, "unproved")]
    ingress.containers.append(rival())
    ingress.remake()
    result = run(ingress, "allow", DOMAIN)
    assert result.exit_code == 1
    assert result.stderr == (
        f"stackpad: {RIVAL} and {SHOP} ask for {DOMAIN}; say whose it is: stackpad domain allow {DOMAIN} OWNER\n"
    )
    assert json.loads(run(ingress, "allow", DOMAIN, RIVAL, "--json").stdout) == {"domain": DOMAIN, "owner": RIVAL}
    assert ingress.state() == [(RIVAL, "active")]


def test_check_says_what_was_found(ingress: Ingress) -> None:
    result = run(ingress, "check", DOMAIN)
    assert result.exit_code == 1
    head, row, note = result.stdout.splitlines()
    assert head.split() == ["OWNER", "BY", "PROOF", "FOUND"]
    assert row.split(None, 3) == [SHOP, "dns", "no", f"there is no _stackpad.{DOMAIN} in DNS"]
    assert note.startswith(f'{SHOP} needs: _stackpad.{DOMAIN}. TXT "stackpad-verify=')
    ingress.lookups.there = [note.partition('TXT "')[2].rstrip('"')]
    result = run(ingress, "check", DOMAIN, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["proved"] is True
    assert ingress.state() == [(SHOP, "active")]


def test_a_record_is_asked_for_only_where_nothing_else_has_proved_the_domain() -> None:
    dns = Attempt(owner="a/b/c", how="dns", record="_stackpad.x. TXT")
    http = Attempt(owner="a/b/c", how="http", good=True)
    rival = Attempt(owner="d/e/f", how="dns", record="_stackpad.x. TXT other")
    grid = domain_check(DomainCheck(domain="x", proved=True, checks=(dns, http, rival)))
    assert grid.notes == ("d/e/f needs: _stackpad.x. TXT other",)


def test_a_node_without_visitors_says_where_domains_are(tmp_path: Path) -> None:
    routes = {"control": False, "nodes": [{"name": "control-1", "control": True}, {"name": "me"}]}
    with served(tmp_path / "i.sock", {"/domains": [], "/routes": routes}) as socket:
        result = CliRunner().invoke(app, ["domain", "ls", "--socket", str(socket)])
    assert result.stdout == "domains are served from other nodes; ask on a control node: control-1\n"


def test_what_a_node_has_from_before_it_joined_is_of_no_effect_and_can_be_forgotten(
    ingress: Ingress, tmp_path: Path
) -> None:
    run(ingress, "allow", DOMAIN)
    run(ingress, "forbid", "orphan.example")
    ingress.elsewhere = "visitors do not come in on this node; ask on control-1"
    rows = [line.split() for line in run(ingress, "ls").stdout.splitlines()]
    assert [(row[0], row[2]) for row in rows[1:4]] == [
        ("api.example.org", "ignored"), ("orphan.example", "ignored"), (DOMAIN, "ignored"),
    ]  # fmt: skip
    assert "[1] of no effect: this node has it from when visitors came in here" in " ".join(map(" ".join, rows))
    for name in (DOMAIN, "orphan.example"):
        for command in ("allow", "forbid", "check"):
            assert ingress.elsewhere in run(ingress, command, name).stderr
        result = run(ingress, "release", name)
        assert result.exit_code == 0
        assert (
            result.stderr == f"what this node still had of {name}, without effect, is forgotten; nothing else changes\n"
        )
        assert ingress.elsewhere in run(ingress, "release", name).stderr
    left = {one["domain"] for one in json.loads(run(ingress, "ls", "--all", "--json").stdout)}
    assert left == {"api.example.org", "shop.acme.stackpad.test"}
    # What is forgotten is so on disk, and has left no mark: the cluster's claim would end by that in a merge.
    kept = json.loads((tmp_path / "claims.json").read_text())
    assert {name for part in ("claims", "rulings", "released") for name in kept[part]} == left
    claims = Ledger({DOMAIN: Claim(RIVAL, 1.0)})
    assert merge(ingress.ownership.ledger, claims).claims[DOMAIN] == claims.claims[DOMAIN]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["allow", "shop.acme.stackpad.test"], "lies under stackpad.test, where names follow from project"),
        (["allow", "new.example.org"], "nobody asks for new.example.org; say whose it is: stackpad domain allow"),
        (["allow", DOMAIN, "acme"], "'acme' is no owner; write organisation, project and environment, as in acme/my-app"),
        (["allow", "localhost"], "'localhost' is not a domain name such as www.example.org"),
        (["forbid", "{http.vars.x}"], "'{http.vars.x}' is not a domain name"),
        (["release", "new.example.org"], "is claimed by nobody; stackpad domain ls lists what is"),
        (["check", "new.example.org"], "a container does with the label stackpad.domains=new.example.org"),
        (["check", "x\x1b[2J"], "is not a domain name"),
    ],
)
def test_what_cannot_be_done_is_said_with_what_can(ingress: Ingress, words: list[str], sentence: str) -> None:
    before = ingress.ownership.ledger
    result = run(ingress, *words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert sentence in result.stderr
    assert "\x1b" not in result.stderr
    assert ingress.ownership.ledger == before


@pytest.mark.parametrize("command", ["ls", "allow", "forbid", "release", "check"])
def test_every_command_has_an_example_and_says_when_nobody_is_there(command: str) -> None:
    told = run(None, command, "--help")
    assert told.exit_code == 0
    assert f"Example: stackpad domain {command}" in told.stdout
    assert "--json" in told.stdout
    result = run(None, command, *([] if command == "ls" else [DOMAIN]))
    assert result.exit_code == 3
    assert "no socket /nowhere; is the ingress running?" in result.stderr


def test_what_tenants_wrote_is_safe_to_show(tmp_path: Path) -> None:
    entry: dict[str, Any] = {"domain": "a\x1b[2J", "owner": "b\x07", "state": "c\r", "how": "d\x00", "reason": "e\x1b"}
    checks = {
        "domain": "x",
        "proved": True,
        "checks": [{"owner": "a\x1b", "how": "b\x1b", "found": "c\x1b", "good": True}],
    }
    with served(tmp_path / "i.sock", {"/domains": [entry], "/domain/check": checks, "/routes": {}}) as socket:
        for words in (["ls"], ["check", "x"]):
            result = CliRunner().invoke(app, ["domain", *words, "--socket", str(socket)])
            assert result.exit_code == 0, result.output
            assert not set(result.output) & {"\x1b", "\x07", "\r", "\x00"}
