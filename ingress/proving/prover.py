"""Looks for proofs, of one domain after the other, for as long as they are wanted."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

import structlog

from ingress.owners import proof
from ingress.owners.ledger import How
from ingress.proving.lookups import Absent, Lookups
from ingress.proving.queue import Queue, Target
from stackpad.errors import StackpadError, shown
from stackpad.hosts import covered

_SEVERAL = 3
"""Records of others that are shown to who has not found theirs among them."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What an attempt by one method came to; ``at`` is Unix time, seconds."""

    how: How
    good: bool
    text: str
    at: float


class Prover:
    """Tries each target until it is proved, and calls ``proved`` then, on the event loop.

    ``operators`` are the names that the operator has sites for: they point here for those, and for nobody else.
    """

    def __init__(
        self,
        lookups: Lookups,
        secret: bytes,
        methods: Collection[How],
        proved: Callable[[Target, How], None],
        operators: Callable[[], Awaitable[Collection[str]]] | None = None,
    ) -> None:
        self.findings: dict[Target, tuple[Finding, ...]] = {}
        self._lookups, self.secret, self._methods, self._proved = lookups, secret, methods, proved
        self._operators = operators
        self._queue = Queue()
        self._wanted: frozenset[Target] = frozenset()
        self._changed = asyncio.Event()
        self._log = structlog.get_logger("prover")

    def want(self, targets: Collection[Target]) -> None:
        """Look for these and no others."""
        wanted = frozenset(targets) if self._methods else frozenset()
        if wanted == self._wanted:
            return
        self._wanted = wanted
        self.findings = {target: found for target, found in self.findings.items() if target in wanted}
        self._queue.want(wanted, time.monotonic())
        self._changed.set()

    async def run(self) -> None:
        """Look until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._changed.clear()
                while (target := self._queue.take(time.monotonic())) is not None:
                    tasks.create_task(self._try(target), name=f"proof of {target.domain}")
                due = self._queue.next_due()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if due is None else max(0.0, due - time.monotonic())):
                        await self._changed.wait()

    async def check(self, target: Target) -> tuple[Finding, ...]:
        """Try now by every method there is for it, and remember what was found, until one is good."""
        findings: list[Finding] = []
        for how in proof.METHODS:
            if how not in self._methods or (how is How.HTTP and target.dns_only):
                continue
            try:
                good, text = await (self._dns(target) if how is How.DNS else self._http(target))
            except Absent as error:
                good, text = False, str(error)
            findings.append(Finding(how, good, text, time.time()))
            if good:
                break
        if target in self._wanted:
            self.findings[target] = tuple(findings)
        return tuple(findings)

    async def _try(self, target: Target) -> None:
        try:
            findings = await self.check(target)
        except Exception:
            # What a stranger's server can make a library do is no reason to stop looking at the others.
            self._log.exception("a proof could not be looked for", domain=target.domain, owner=target.owner)
            findings = ()
        self._queue.done(target, time.monotonic())
        self._changed.set()
        for finding in findings:
            if finding.good and target in self._wanted:
                self._proved(target, finding.how)

    async def _dns(self, target: Target) -> tuple[bool, str]:
        name = proof.record_name(target.domain)
        texts = await self._lookups.texts(name)
        if proof.proves(texts, proof.token(self.secret, target.owner, target.domain)):
            return True, f"{name} has the right record"
        texts.sort(key=lambda text: (not text.startswith(proof.PREFIX), text))
        others = ", ".join(shown(text) for text in texts[:_SEVERAL]) + (", …" if len(texts) > _SEVERAL else "")
        return False, f"the TXT record of {name} is another: {others}"

    async def _http(self, target: Target) -> tuple[bool, str]:
        nonce = secrets.token_hex(16)
        body = await self._lookups.fetch(target.domain, nonce)
        if body != proof.answer(self.secret, nonce, target.domain):
            return False, f"{target.domain} answers with something else than our number: {shown(body)}"
        # Asked now: sites come and go without our being told.
        try:
            sites = await self._operators() if self._operators is not None else ()
        except StackpadError as error:
            return False, f"{target.domain} points here, and whether it is the operator's cannot be seen: {error}"
        if covered(target.domain, sites):
            return False, f"{target.domain} points here for a site of the operator's own in Caddy"
        if target.domain in await self._lookups.names(target.domain):
            return False, f"{target.domain} points here as this machine's own name, by its address's record (PTR)"
        return True, f"{target.domain} points here"
