"""Proofs and commands at work: a real name server, a real ledger on disk, and tables as containers come and go."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ingress.owners.ledger import How, Proof
from ingress.proving.lookups import Lookups
from ingress.proving.ownership import Ownership
from ingress.proving.prover import Prover
from ingress.routes import Table, WebContainer
from ingress.settings import Settings
from ingress.tables import table
from stackpad.errors import Conflict, InvalidRequest, NotFound, Unavailable
from tests.nameserver import SERVFAIL, SILENCE, Zone, nameserver
from tests.unit.ingress.test_routes import BASE
from tests.unit.ingress.test_waiting import DOMAIN, RIVAL, SHOP, rival, shop

RECORD = f"_stackpad.{DOMAIN}"


@dataclass
class Desk:
    """An :class:`Ownership`, the containers it is about, and the name server it asks."""

    ownership: Ownership
    zone: Zone
    containers: list[WebContainer] = field(default_factory=list)
    made: Table = field(default_factory=Table)

    def remake(self, *containers: WebContainer) -> Table:
        """The table anew, as the writer does it."""
        self.containers = list(containers) or self.containers
        self.made = table(
            self.containers,
            self.ownership.ledger,
            base_domain=BASE,
            now=time.time(),
            believe=self.ownership.believes,
        )
        self.ownership.decide(self.made)
        return self.made

    def changed(self) -> None:
        """What the writer does when it is told that something changed."""
        self.remake()

    @property
    def served(self) -> dict[str, str]:
        """Hosts and their owners."""
        return {host.host: host.owner for host in self.made.hosts}

    def token(self, owner: str) -> str:
        """What the owner is told to put into DNS."""
        (one,) = (one for one in self.made.waiting if one.owner == owner)
        return self.ownership.reason(one).partition('TXT "')[2].partition('"')[0]

    def state(self, domain: str = DOMAIN) -> list[tuple[str, str, str | None]]:
        """Owner, state and proof of a domain."""
        listed = (one for one in self.ownership.domains() if one["domain"] == domain)
        return [(one["owner"], one["state"], one["how"]) for one in listed]


@contextlib.asynccontextmanager
async def desk(home: Path, zone: Zone | None = None, patience: float = 2.0, **changes: Any) -> AsyncIterator[Desk]:
    async with contextlib.AsyncExitStack() as stack:
        there = await stack.enter_async_context(nameserver()) if zone is None else zone
        settings = Settings(BASE, state_dir=home, **{"domain_proof": frozenset({How.DNS}), **changes})
        lookups = Lookups([there.server], 1, lambda _: True, patience)
        desks: list[Desk] = []
        ownership = Ownership(settings, lambda: desks[0].changed(), lookups)
        desks.append(Desk(ownership, there))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        running = tasks.create_task(ownership.run())
        try:
            yield desks[0]
        finally:
            running.cancel()


async def until(condition: Callable[[], Any], what: str) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
    assert condition(), what


async def test_who_puts_the_record_into_dns_is_served_soon_and_after_a_restart(tmp_path: Path) -> None:
    async with desk(tmp_path) as one:
        one.remake(shop())
        assert DOMAIN not in one.served
        await until(lambda: RECORD in one.zone.asked, "the first look")
        one.zone.records[RECORD] = {"TXT": [f'"{one.token(SHOP)}"']}
        await until(lambda: one.served.get(DOMAIN) == SHOP, "the proof to be found")
        assert one.state() == [(SHOP, "active", "dns")]
        one.ownership.save()
        zone = one.zone
        zone.records.clear()
        zone.asked.clear()
        async with desk(tmp_path, zone) as again:
            assert DOMAIN in again.ownership.served
            again.remake(rival())
            assert again.state() == [(SHOP, "held", "dns")], "also while none of its containers is there"
            (held,) = (one for one in again.ownership.domains() if one["domain"] == DOMAIN)
            assert re.search(rf"it is kept until [-\d]{{10}}, or stackpad domain release {DOMAIN}$", held["reason"])
            again.ownership.save()
        async with desk(tmp_path, zone) as again:
            assert DOMAIN not in again.ownership.served
            again.remake(shop())
            assert again.served[DOMAIN] == SHOP, "a proof once given stays"
            assert again.state() == [(SHOP, "active", "dns")]
            assert not zone.asked


async def test_the_token_is_the_same_after_a_restart(tmp_path: Path) -> None:
    tokens = []
    for _ in range(2):
        async with desk(tmp_path) as one:
            one.remake(shop())
            tokens.append(one.token(SHOP))
    assert tokens[0] == tokens[1]
    assert tokens[0].startswith("stackpad-verify=")


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (None, "there is no _stackpad.www.example.org in DNS"),
        ({"TXT": ['"stackpad-verify=0000"']}, "is another: 'stackpad-verify=0000'"),
        ({"TXT": ['"\\027[2J{http.vars.x}"', '"b"', '"c"', '"d"']}, "is another: '\\x1b[2J{http.vars.x}', 'b', 'c', …"),
        ({"A": ["192.0.2.1"]}, "has no TXT record"),
        (SERVFAIL, "cannot be looked up"),
        (SILENCE, "no name server has answered"),
    ],
)
async def test_what_was_found_instead_is_told(
    tmp_path: Path, there: dict[str, list[str]] | str | None, words: str
) -> None:
    async with nameserver({} if there is None else {RECORD: there}) as zone, desk(tmp_path, zone) as one:
        one.remake(shop())
        await until(lambda: words in one.ownership.domains()[-1]["reason"], words)
        assert one.ownership.domains()[-1]["reason"].isprintable()
        assert one.state() == [(SHOP, "unproved", None)]
        answer = await one.ownership.check(DOMAIN)
        assert answer["proved"] is False
        assert words in answer["checks"][0]["found"]
        assert answer["checks"][0]["record"] == f'{RECORD}. TXT "{one.token(SHOP)}"'


async def test_a_record_is_its_owners_and_nobody_elses(tmp_path: Path) -> None:
    async with desk(tmp_path) as one:
        one.remake(shop(), rival())
        one.zone.records[RECORD] = {"TXT": [f'"{one.token(RIVAL)}"']}
        await until(lambda: DOMAIN in one.served, "somebody to be served")
        assert one.served[DOMAIN] == RIVAL, "although the other asked first"
        assert one.state() == [(RIVAL, "active", "dns")]
        assert [problem.name for problem in one.made.problems] == ["a"]


async def test_check_proves_now_and_says_so(tmp_path: Path) -> None:
    async with desk(tmp_path) as one:
        with pytest.raises(NotFound, match=r"nobody asks for www\.example\.org; a container does with the label"):
            await one.ownership.check(DOMAIN)
        one.remake(shop(), rival())
        one.zone.records[RECORD] = {"TXT": [f'"{one.token(SHOP)}"', '"v=spf1 -all"']}
        answer = await one.ownership.check(DOMAIN)
        assert answer["proved"] is True
        assert {check["owner"]: check["good"] for check in answer["checks"]} == {SHOP: True, RIVAL: False}
        assert one.served[DOMAIN] == SHOP
        one.zone.records.clear()
        again = await one.ownership.check(DOMAIN)
        assert again["proved"] is False, "it says what is there now"
        assert one.served[DOMAIN] == SHOP, "and takes nothing away"


async def test_allow_forbid_and_release_hold_over_a_restart(tmp_path: Path) -> None:
    async with desk(tmp_path) as one:
        one.remake(shop())
        assert one.ownership.allow("WWW.Example.org.", None) == {"domain": DOMAIN, "owner": SHOP}
        assert one.served[DOMAIN] == SHOP
        assert one.state() == [(SHOP, "active", "operator")]
    async with desk(tmp_path) as one:
        one.remake(shop(), rival())
        assert one.served[DOMAIN] == SHOP
        with pytest.raises(Conflict, match="end that first with stackpad domain release"):
            one.ownership.allow(DOMAIN, RIVAL)
        assert one.ownership.forbid(DOMAIN) == {"domain": DOMAIN}
        assert DOMAIN not in one.served
        assert {state for _, state, _ in one.state()} == {"forbidden"}
        one.zone.records[RECORD] = {"TXT": ['"stackpad-verify=any"']}
    async with desk(tmp_path) as one:
        assert DOMAIN not in one.ownership.served
        one.remake(shop(), rival())
        assert DOMAIN not in one.served
        assert one.ownership.release(DOMAIN) == {"domain": DOMAIN, "owner": SHOP}
        assert {state for _, state, _ in one.state()} == {"unproved"}
        assert one.ownership.ledger.claims[DOMAIN].owner == RIVAL, "who else asks comes first now"
        with pytest.raises(NotFound, match="is claimed by nobody"):
            one.ownership.release("other.example.org")


async def test_whose_it_is_has_to_be_said_where_that_is_not_clear(tmp_path: Path) -> None:
    async with desk(tmp_path) as one:
        with pytest.raises(NotFound, match=r"nobody asks for www\.example\.org; say whose it is"):
            one.ownership.allow(DOMAIN, None)
        one.remake(shop(), rival())
        with pytest.raises(Conflict, match=f"{RIVAL} and {SHOP} ask for {DOMAIN}; say whose it is"):
            one.ownership.allow(DOMAIN, None)
        one.ownership.allow(DOMAIN, RIVAL)
        assert one.served[DOMAIN] == RIVAL


async def test_an_allowance_waits_for_its_container(tmp_path: Path) -> None:
    async with desk(tmp_path) as one:
        one.ownership.allow(DOMAIN, RIVAL)
        assert one.state() == [(RIVAL, "allowed", "operator")]
        one.remake(shop())
        assert one.state() == [(SHOP, "forbidden", None)]
        (entry,) = (entry for entry in one.ownership.domains() if entry["domain"] == DOMAIN)
        assert entry["reason"] == f"it is kept for {RIVAL}; change that with stackpad domain allow {DOMAIN} {SHOP}"
        one.remake(shop(), rival())
        assert one.served[DOMAIN] == RIVAL


@pytest.mark.parametrize("command", ["allow", "forbid"])
@pytest.mark.parametrize(
    ("domain", "words"),
    [
        ("shop.acme.stackpad.test", "lies under stackpad.test"),
        ("stackpad.test", "lies under stackpad.test"),
        ("{x}", "is not a domain name"),
        ("localhost", "is not a domain name"),
    ],
)
async def test_what_is_no_domain_of_ones_own(tmp_path: Path, command: str, domain: str, words: str) -> None:
    async with desk(tmp_path) as one:
        with pytest.raises(InvalidRequest, match=words):
            one.ownership.allow(domain, SHOP) if command == "allow" else one.ownership.forbid(domain)
        assert one.ownership.ledger.rulings == {}


async def test_a_command_that_cannot_be_kept_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    async with desk(tmp_path / "state") as one:
        one.remake(shop())
        (tmp_path / "state" / "claims.json").mkdir()
        with pytest.raises(Unavailable, match="cannot be written"):
            one.ownership.allow(DOMAIN, SHOP)
        one.remake()
        assert one.state() == [(SHOP, "unproved", None)]


async def test_believed_domains_need_nothing(tmp_path: Path) -> None:
    async with desk(tmp_path, domain_proof=frozenset()) as one:
        one.remake(shop(), rival())
        assert one.served[DOMAIN] == SHOP
        assert one.state() == [(SHOP, "active", None)]
        with pytest.raises(InvalidRequest, match="DOMAIN_PROOF is none"):
            await one.ownership.check(DOMAIN)
        one.ownership.save()
        assert not one.zone.asked
    async with desk(tmp_path) as strict:
        strict.remake(shop())
        assert strict.state() == [(SHOP, "unproved", None)], "what was only believed is to be proved from now on"


async def test_answers_are_given_for_names_that_are_asked_for(tmp_path: Path) -> None:
    async with desk(tmp_path, domain_proof=frozenset({How.DNS, How.HTTP})) as one:
        one.remake(shop())
        assert one.ownership.answer("0" * 32, DOMAIN) is not None
        assert one.ownership.answer("0" * 32, "other.example.org") is None
        assert one.ownership.answer("0", DOMAIN) is None


async def test_what_was_found_too_late_counts_for_nothing(tmp_path: Path) -> None:
    """The attempt was begun when nobody else asked, and pointing here was good enough."""
    async with desk(tmp_path, domain_proof=frozenset({How.HTTP})) as one:
        one.remake(shop())
        (alone,) = one.ownership._prover._wanted
        assert not alone.dns_only
        one.remake(shop(), rival())
        one.ownership._proved(alone, How.HTTP)
        assert one.ownership.ledger.claims[DOMAIN].proof is None
        one.remake(shop())
        one.ownership._proved(alone, How.HTTP)
        proof = one.ownership.ledger.claims[DOMAIN].proof
        assert isinstance(proof, Proof)
        assert proof.how is How.HTTP


async def test_one_attempt_that_breaks_does_not_end_the_search(tmp_path: Path) -> None:
    class Broken(Lookups):
        async def texts(self, name: str) -> list[str]:
            if name == RECORD:
                raise RuntimeError("a library's own mistake")
            return await super().texts(name)

    async with nameserver() as zone:
        found: list[str] = []
        lookups = Broken([zone.server], 1)
        prover = Prover(lookups, b"s" * 32, [How.DNS], lambda target, _: found.append(target.domain))
        ownership = Ownership(Settings(BASE, state_dir=tmp_path), lambda: None, lookups)
        ownership._prover = prover
        one = Desk(ownership, zone)
        one.remake(shop(domains=(DOMAIN, "good.example.org")))
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(prover.run())
            await until(lambda: "_stackpad.good.example.org" in zone.asked, "the other domain to be looked at")
            running.cancel()
