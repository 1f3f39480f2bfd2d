"""The operator's certificate files in Caddy: entries of ours in its list of files to load.

Caddy reads the files again with every change of its configuration, whoever makes it, and with nothing else. A new
certificate is therefore told as a change: a tag has its digest. And a file that cannot be used when Caddy reads it has
*every* change refused, so that such an entry has to leave at once, together with all others like it: the list is written
as a whole. Entries that are not ours go back as they were read.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Sequence
from typing import Any

import structlog

from ingress.caddy.adminapi import AdminApi, Rejected
from ingress.caddy.config import Json
from ingress.certificates.files import CertificateFiles, Found
from ingress.certificates.reading import Pair
from stackpad.errors import InvalidRequest

PATH = ("apps", "tls", "certificates", "load_files")
PREFIX = "stackpad-cert-"
"""What our entries' ``@id`` s begin with."""

LOOK = 1.0
"""Seconds between two looks at the files."""

AGAIN = 60.0
"""Seconds until a file that Caddy would not have is offered again: what stopped it, such as the rights of a directory
above, may have been mended without a trace in the file."""

SIGN = "loading certificates"
"""What is in Caddy's words when it refuses a change because of a file (2.6 and 2.11)."""


def entry(pair: Pair) -> Json:
    """A pair as Caddy is told."""
    return {
        "@id": f"{PREFIX}{pair.name}",
        "certificate": pair.certificate,
        "key": pair.key,
        "tags": ["stackpad", f"stackpad-{pair.digest}"],
    }


def split(tls: Any) -> tuple[list[Json], list[Json]]:
    """The entries in Caddy's ``tls`` application: the operator's, and ours."""
    entries = ((tls or {}).get("certificates") or {}).get("load_files") or []
    ours = [one for one in entries if str(one.get("@id", "")).startswith(PREFIX)]
    return [one for one in entries if one not in ours], ours


def refused(pair: Pair, reason: str) -> str:
    """Why Caddy will not have a pair that we found to be right, and what helps."""
    if "permission denied" in reason:
        return f"Caddy may not read {pair.certificate} or its key; let its user: chgrp caddy, chmod g+r"
    if "no such file" in reason:
        return (
            f"Caddy does not find {pair.certificate} or its key; where it runs in a container, mount the directory "
            "CERTIFICATES there under the same path"
        )
    return f"Caddy refuses {pair.certificate}: {reason.rpartition(f'{SIGN}: ')[2]}"


class LoadedFiles:
    """Keeps our entries in step with the files."""

    def __init__(self, api: AdminApi, files: CertificateFiles) -> None:
        self._api, self._files = api, files
        self._found = Found()
        self._looked: float | None = None
        self._refused: dict[Pair, str] = {}
        self._offered = 0.0
        self._log = structlog.get_logger("certificates")

    @property
    def pairs(self) -> list[Pair]:
        """What Caddy has, or is to have."""
        return [pair for pair in self._found.pairs if pair not in self._refused]

    @property
    def problems(self) -> list[str]:
        """What is wrong with the others."""
        return [*self._found.problems, *(refused(pair, reason) for pair, reason in self._refused.items())]

    async def look(self) -> None:
        """Look at the files, unless that was a moment ago."""
        if self._looked is None or time.monotonic() - self._looked >= LOOK:
            await self._look()

    async def _look(self) -> None:
        self._looked = time.monotonic()
        before = set(self.problems)
        self._found = await asyncio.to_thread(self._files.look)
        again = time.monotonic() - self._offered >= AGAIN
        self._refused = {p: why for p, why in self._refused.items() if p in self._found.pairs and not again}
        for problem in sorted(set(self.problems) - before):
            self._log.warning("a certificate is not used", reason=problem)

    def rehearsal(self, api: AdminApi) -> LoadedFiles:
        """The same, telling ``api`` instead of what was found at the last look."""
        made = copy.copy(self)
        made._api, made._looked = api, None if self._looked is None else time.monotonic()
        return made

    def forget(self) -> None:
        """It may be another Caddy, which can do what the one before could not."""
        self._refused = {}

    def fits(self, tls: Any) -> bool:
        """Whether Caddy's ``tls`` application has what it should."""
        return split(tls)[1] == [entry(pair) for pair in self.pairs]

    async def ensure(self, tls: Any) -> None:
        """Have Caddy load what is there; raises :class:`Rejected` only if it would refuse any change at all."""
        await self.look()
        if not self.fits(tls):
            try:
                await self._put(self.pairs)
            except Rejected:
                await self._admit()

    async def mend(self, error: Rejected) -> bool:
        """After Caddy refused a change: whether that was for files of ours, which are out of its way now.

        Raises :class:`InvalidRequest` where it is for a file of the operator's own: that is no host's fault, either.
        """
        if SIGN not in str(error):
            return False
        await self._look()
        try:
            if not await self._put(self.pairs):
                await self._admit()
        except Rejected:
            try:
                await self._admit()
            except Rejected as still:
                raise InvalidRequest(
                    f"Caddy refuses every change for a certificate file of its own configuration: {still}; mend that"
                ) from error
        return True

    async def _admit(self) -> None:
        """Find those Caddy will not have, by halves."""
        self._offered = time.monotonic()
        good: list[Pair] = []
        await self._put([])

        async def admit(batch: Sequence[Pair]) -> None:
            try:
                await self._put([*good, *batch])
                good.extend(batch)
            except Rejected as reason:
                if len(batch) == 1:
                    self._refused[batch[0]] = str(reason)
                    self._log.warning("a certificate is not used", reason=refused(batch[0], str(reason)))
                    return
                half = len(batch) // 2
                await admit(batch[:half])
                await admit(batch[half:])

        suspects = self.pairs
        if suspects:
            await admit(suspects)
        await self._put(self.pairs)

    async def _put(self, pairs: Sequence[Pair]) -> bool:
        """Write the list with these of ours; false if that is what is there."""
        tls = await self._api.get("/config/apps/tls")
        operators, ours = split(tls)
        wanted = [entry(pair) for pair in sorted(pairs, key=lambda pair: pair.name)]
        if ours == wanted:
            return False
        if ((tls or {}).get("certificates") or {}).get("load_files") is None:
            await self._api.create(PATH, [*operators, *wanted])
        else:
            await self._api.change("PATCH", f"/config/{'/'.join(PATH)}", [*operators, *wanted])
        return True
