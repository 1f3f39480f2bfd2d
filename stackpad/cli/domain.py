"""``stackpad domain``: whose a domain is, how that was proved, and the operator's word about it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from stackpad.cli import client, output, render, visit
from stackpad.cli.common import PLACES, Json, OnlyIngressSocket, answering, show
from stackpad.cli.reports import DomainCheck, DomainReport, Routes

SLOW = 120.0
"""Seconds to wait for a proof: several strangers' servers may be asked, with some seconds for each."""

app = typer.Typer(
    help="Domains: whose they are, and who may have them. How that was proved; allow, forbid and release them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Domain = Annotated[str, typer.Argument(metavar="DOMAIN", help="A host name, such as www.example.org.")]


@app.command("ls", epilog="Example: stackpad domain ls --all")
def list_domains(
    everything: Annotated[bool, typer.Option("--all", help="Also names that follow from projects.")] = False,
    socket: OnlyIngressSocket = PLACES.ingress,
    as_json: Json = False,
) -> None:
    """List the domains with owner, state and proof. Says what to do for those that are not served."""
    with answering():
        reports = client.fetch(client.ingress(socket), "/domains", tuple[DomainReport, ...])
        routes = client.fetch(client.ingress(socket), "/routes", Routes)
    chosen = [report for report in reports if everything or not report.platform]
    grid = render.domains(chosen, time.time())
    if routes.control is False:
        where = f"domains are served from other nodes; {visit.elsewhere(routes)}"
        grid = replace(grid, notes=(*grid.notes, where) if grid.rows else (), empty=where)
    show(chosen, grid, as_json=as_json)


@app.command(epilog="Example: stackpad domain allow www.example.org acme/my-app/production")
def allow(
    domain: Domain,
    owner: Annotated[
        str | None,
        typer.Argument(metavar="[OWNER]", help="Organisation/project/environment; by default who asks for it."),
    ] = None,
    socket: OnlyIngressSocket = PLACES.ingress,
    as_json: Json = False,
) -> None:
    """Give a domain to its owner without any proof."""
    answer = _told(socket, "allow", {"domain": domain, "owner": owner})
    _end(answer, f"{answer.get('domain')} is {answer.get('owner')}'s", as_json=as_json)


@app.command(epilog="Example: stackpad domain forbid www.example.org")
def forbid(domain: Domain, socket: OnlyIngressSocket = PLACES.ingress, as_json: Json = False) -> None:
    """Take an allowance or a proof back. The domain is served for nobody until it is allowed or released."""
    answer = _told(socket, "forbid", {"domain": domain})
    _end(answer, f"{answer.get('domain')} is served for nobody now", as_json=as_json)


@app.command(epilog="Example: stackpad domain release www.example.org")
def release(domain: Domain, socket: OnlyIngressSocket = PLACES.ingress, as_json: Json = False) -> None:
    """End a claim and forget what was said of it. Whoever else asks for the name comes first then."""
    answer = _told(socket, "release", {"domain": domain})
    whose = f"; it was {answer['owner']}'s" if answer.get("owner") else ""
    sentence = f"{answer.get('domain')} is free{whose}"
    if answer.get("state") == "ignored":
        sentence = (
            f"what this node still had of {answer.get('domain')}, without effect, is forgotten; nothing else changes"
        )
    _end(answer, sentence, as_json=as_json)


@app.command(epilog="Example: stackpad domain check www.example.org")
def check(domain: Domain, socket: OnlyIngressSocket = PLACES.ingress, as_json: Json = False) -> None:
    """Try the proof of a domain now, and say what was found. Ends with 1 if it is none."""
    with answering():
        report = client.fetch(
            client.ingress(socket), "/domain/check", DomainCheck, payload={"domain": domain}, timeout=SLOW
        )
    show(report, render.domain_check(report), as_json=as_json, troubled=not report.proved)


def _told(socket: Path, command: str, given: dict[str, Any]) -> dict[str, Any]:
    with answering():
        return dict(client.ask(client.ingress(socket), f"/domain/{command}", given))


def _end(answer: dict[str, Any], sentence: str, *, as_json: bool) -> None:
    if as_json:
        output.show_json(answer)
    else:
        output.say(sentence)
