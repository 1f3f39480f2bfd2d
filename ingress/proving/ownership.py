"""Who owns which domain, at work: the ledger on disk, the search for proofs, and the operator's commands about them.

What a command has answered is on disk. A proof that was found counts at the next table, which is made at once.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from typing import Any

import structlog

from ingress.owners import ledger as book
from ingress.owners import proof
from ingress.owners.claims import Claims
from ingress.owners.deciding import Standing, kept_for
from ingress.owners.ledger import HERE, How, Ledger, Owner, Proof
from ingress.proving.lookups import Lookups
from ingress.proving.prover import Finding, Prover
from ingress.proving.queue import Target
from ingress.routes import Table, Waiting
from ingress.settings import Settings
from stackpad.errors import Conflict, InvalidRequest, NotFound, StackpadError

MOST_CHECKED = 10
"""Owners for whom one command tries a proof; a domain that more ask for is not settled by trying."""


IGNORED = "ignored"
"""State of a name in the ledger of a node where no visitors come in."""


class Ownership:
    """Holds the ledger between two tables, and changes it by proofs and commands; ``changed`` is called then.

    ``operators`` says which names the operator has sites of his own for.
    """

    def __init__(
        self,
        settings: Settings,
        changed: Callable[[], None],
        lookups: Lookups | None = None,
        operators: Callable[[], Awaitable[Collection[str]]] | None = None,
    ) -> None:
        self._settings, self._changed = settings, changed
        self._claims = Claims(settings.claims_file)
        self._table = Table()
        self._askable: frozenset[str] = frozenset()
        self._log = structlog.get_logger("ownership")
        self._prover = Prover(
            lookups or Lookups(settings.proof_dns, settings.http_port),
            self._claims.secret,
            settings.domain_proof,
            self._proved,
            operators,
        )

    @property
    def ledger(self) -> Ledger:
        """What holds."""
        return self._claims.current

    @property
    def served(self) -> frozenset[str]:
        """The names that were served when this was saved, as far as the ledger can tell."""
        ledger = self.ledger
        forbidden = {host for host, ruling in ledger.rulings.items() if not ruling.allowed}
        there = {host: claim for host, claim in ledger.claims.items() if claim.gone is None and host not in forbidden}
        return frozenset(host for host, claim in there.items() if claim.proof or self.believes)

    @property
    def believes(self) -> bool:
        """Whether domains need no proof."""
        return not self._settings.domain_proof

    async def run(self) -> None:
        """Look for proofs until cancelled."""
        await self._prover.run()

    def share(self, secret: bytes) -> None:
        """Make proofs with the cluster's secret from now on: all control nodes ask for the same."""
        if secret and secret != self._claims.secret:
            self._claims.secret = secret
            self._prover.secret = secret

    def decide(self, table: Table) -> None:
        """From now on ``table`` and its ledger hold."""
        before, self._table = set(map(_key, self._table.waiting)), table
        self._claims.decide(table.ledger)
        self._askable = frozenset(table.claims)
        self._prover.want([_target(one) for one in table.waiting if one.standing is Standing.UNPROVED])
        for one in table.waiting:
            if _key(one) not in before:
                self._log.warning("a domain is not served", domain=one.host, owner=one.owner, reason=self.reason(one))

    def save(self) -> None:
        """Have on disk what holds; raises :class:`stackpad.errors.Unavailable`."""
        self._claims.save()

    def answer(self, nonce: str, host: str) -> str | None:
        """What is answered over HTTP when somebody looks for a proof of ``host``, if it is one that can be proved so."""
        if host not in self._askable:
            return None
        return proof.answer(self._claims.secret, nonce, host)

    def reason(self, one: Waiting) -> str:
        """Why a domain is not served, and what to do about it."""
        if one.standing is Standing.FORBIDDEN:
            if one.kept_for:
                return f"it is kept for {one.kept_for}; change that with stackpad domain allow {one.host} {one.owner}"
            return f"it is forbidden here; the operator can take that back with stackpad domain allow {one.host}"
        expected = proof.token(self._claims.secret, one.owner, one.host)
        text = "not proved: " + proof.remedy(one.host, expected, self._settings.domain_proof, dns_only=one.dns_only)
        if one.rivals:
            text += f"; {', '.join(one.rivals[:3])}{', …' if len(one.rivals) > 3 else ''} asks for it, too"
        found = self._prover.findings.get(_target(one))
        return text + (f" (found {'; '.join(finding.text for finding in found)})" if found else "")

    def domains(self) -> list[dict[str, Any]]:
        """Everything known of names, an entry for each name and owner."""
        return sorted(self._entries(), key=lambda entry: (entry["domain"], entry["owner"]))

    def allow(self, domain: str, owner: str | None) -> dict[str, Any]:
        """Give a domain to an owner without a proof, by default to the only one who asks for it."""
        name = self._custom(domain)
        whose = book.owner(owner) if owner else self._only_owner(name)
        self._change(book.allow(self.ledger, name, whose, time.time()))
        self._log.info("a domain is allowed", domain=name, owner=whose)
        return {"domain": name, "owner": whose}

    def forbid(self, domain: str) -> dict[str, Any]:
        """Have a domain served for nobody, whatever they can prove."""
        name = self._custom(domain)
        self._change(book.forbid(self.ledger, name, time.time()))
        self._log.info("a domain is forbidden", domain=name)
        return {"domain": name}

    def release(self, domain: str) -> dict[str, Any]:
        """End a claim, and forget what the operator has said of the name."""
        name = proof.domain_name(domain)
        claim = self.ledger.claims.get(name)
        self._change(book.release(self.ledger, name, time.time()))
        self._log.info("a name is released", domain=name, owner=claim.owner if claim else None)
        return {"domain": name, "owner": claim.owner if claim else None}

    def left(self) -> list[dict[str, Any]]:
        """What this node still has of names, where it decides nothing about them: of no effect as long as that is so."""
        ledger = self.ledger
        entries = []
        for host in sorted(ledger.claims.keys() | ledger.rulings.keys()):
            claim, ruling = ledger.claims.get(host), ledger.rulings.get(host)
            reason = (
                "of no effect: this node has it from when visitors came in here; it is forgotten here, and nothing else "
                f"changes, by stackpad domain release {host}"
            )
            if claim is not None:
                entries.append(self._entry(host, claim.owner, IGNORED, claim.since, claim.proof, reason))
            elif ruling is not None:
                word = Proof(ruling.at, How.OPERATOR)
                entries.append(self._entry(host, ruling.owner, IGNORED, ruling.at, word, reason))
        return entries

    def forget(self, domain: str) -> dict[str, Any] | None:
        """Forget a name where :meth:`left` has it; ``None`` if there is nothing of it.

        Unlike a release this leaves no mark: should visitors come in here again, it must end nothing of the cluster's.
        """
        name, before = proof.domain_name(domain), self.ledger
        if name not in before.claims and name not in before.rulings:
            return None
        self._change(book.forget(before, name))
        self._log.info("what was left of a name is forgotten", domain=name)
        return {"domain": name, "owner": None, "state": IGNORED}

    async def check(self, domain: str) -> dict[str, Any]:
        """Try the proof of a domain now, for everybody who asks for it, and say what was found."""
        name = self._custom(domain)
        if self.believes:
            raise InvalidRequest("no domain needs a proof here: DOMAIN_PROOF is none")
        waiting = [one for one in self._table.waiting if one.host == name]
        claim = self.ledger.claims.get(name)
        targets = [_target(one) for one in waiting]
        if not targets and claim is not None:
            targets = [Target(name, claim.owner, dns_only=name.startswith("*."))]
        if not targets:
            raise NotFound(f"nobody asks for {name}; a container does with the label stackpad.domains={name}")
        checks: list[dict[str, Any]] = []
        for target in targets[:MOST_CHECKED]:
            findings = await self._prover.check(target)
            checks += [self._told(target, finding) for finding in findings]
            for finding in findings:
                if finding.good:
                    self._proved(target, finding.how)
        return {"domain": name, "proved": any(check["good"] for check in checks), "checks": checks}

    def _told(self, target: Target, finding: Finding) -> dict[str, Any]:
        expected = proof.token(self._claims.secret, target.owner, target.domain)
        record = f'{proof.record_name(target.domain)}. TXT "{proof.PREFIX}{expected}"'
        return {
            "owner": target.owner,
            "how": finding.how,
            "good": finding.good,
            "found": finding.text,
            "record": record if finding.how is How.DNS else None,
        }

    def _proved(self, target: Target, how: How) -> None:
        if target not in map(_target, self._table.waiting):
            return  # meanwhile somebody else asks for it, too, or nobody does any more
        after = book.prove(self.ledger, target.domain, target.owner, Proof(time.time(), how))
        if after is not self.ledger:
            self._log.info("a domain is proved", domain=target.domain, owner=target.owner, how=how)
            self._claims.decide(after)
            self._changed()

    def _change(self, after: Ledger) -> None:
        before = self.ledger
        self._claims.decide(after)
        try:
            self._claims.save()
        except StackpadError:
            self._claims.decide(before)
            raise
        self._changed()

    def _custom(self, text: str) -> str:
        name, base = proof.domain_name(text), self._settings.base_domain
        if name == base or name.endswith(f".{base}"):
            raise InvalidRequest(f"{name} lies under {base}, where names follow from project and organisation")
        return name

    def _only_owner(self, name: str) -> Owner:
        claim = self.ledger.claims.get(name)
        owners = {one.owner for one in self._table.waiting if one.host == name} | ({claim.owner} if claim else set())
        if not owners:
            raise NotFound(
                f"nobody asks for {name}; say whose it is: stackpad domain allow {name} acme/my-app/production"
            )
        if len(owners) > 1 and (claim is None or claim.proof is None):
            raise Conflict(
                f"{' and '.join(sorted(owners))} ask for {name}; say whose it is: stackpad domain allow {name} OWNER"
            )
        return claim.owner if claim is not None else owners.pop()

    def _entries(self) -> Iterator[dict[str, Any]]:
        ledger, table = self.ledger, self._table
        served = {host.host for host in table.hosts}
        waiting = {_key(one): one for one in table.waiting}
        for host, claim in ledger.claims.items():
            if (host, claim.owner) in waiting:
                continue
            silent = ", ".join(node for node in claim.nodes if node != HERE) or "this node"
            reason = None if host in served else f"{silent} cannot be asked who wants it"
            if claim.gone is not None:
                platform = host.endswith(f".{self._settings.base_domain}")
                since, until = (
                    time.strftime("%Y-%m-%d", time.gmtime(at))
                    for at in (claim.gone, claim.gone + kept_for(claim, platform=platform))
                )
                reason = (
                    f"no container asks for it since {since}; it is kept until {until}, or stackpad domain release {host}"
                )
            yield self._entry(host, claim.owner, "active" if host in served else "held", claim.since, claim.proof, reason)
        for one in table.waiting:
            yield self._entry(one.host, one.owner, str(one.standing), one.since, None, self.reason(one))
        for host, ruling in ledger.rulings.items():
            if host not in ledger.claims:
                word = Proof(ruling.at, How.OPERATOR)
                state = "allowed" if ruling.allowed else "forbidden"
                yield self._entry(host, ruling.owner, state, ruling.at, word, "no container asks for it")

    def _entry(
        self, host: str, owner: Owner, state: str, since: float, proved: Proof | None, reason: str | None
    ) -> dict[str, Any]:
        return {
            "domain": host,
            "owner": owner,
            "state": state,
            "platform": host.endswith(f".{self._settings.base_domain}"),
            "how": proved.how if proved is not None else None,
            "proved": proved.at if proved is not None else None,
            "since": since,
            "reason": reason,
        }


def _key(one: Waiting) -> tuple[str, Owner]:
    return one.host, one.owner


def _target(one: Waiting) -> Target:
    return Target(one.host, one.owner, one.dns_only)
