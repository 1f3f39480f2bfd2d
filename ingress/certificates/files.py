"""The operator's certificates in a directory: pairs ``NAME.crt`` and ``NAME.key``, looked at again and again.

A file that has changed is read once it has stayed the same for two looks, so that nobody meets a half-written one, or a
new certificate beside the old key. What cannot be used costs itself only, and is told with what to do about it. One that
was valid stays so until it expires: a clock that is set back is no reason to take it from visitors, who have clocks of
their own.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ingress.certificates import reading
from ingress.certificates.reading import Pair
from stackpad.errors import InvalidRequest

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
MAX_PAIRS = 500
MAX_BYTES = 256 * 1024
"""Of a file: more is no certificate with its chain, and is not read."""

Mark = tuple[tuple[int, ...] | None, ...]
"""What is another one whenever a file is: of certificate and key, each ``None`` where it is not there."""


@dataclass(frozen=True, slots=True)
class Found:
    """The pairs Caddy may be told of, and what is wrong with the others."""

    pairs: tuple[Pair, ...] = ()
    problems: tuple[str, ...] = ()


class CertificateFiles:
    """The pairs in one directory, which may be none."""

    def __init__(self, directory: Path | None, now: Callable[[], float] = time.time) -> None:
        self._directory, self._now = directory, now
        self._judged: dict[str, tuple[Mark, Pair | str]] = {}
        self._glimpsed: dict[str, Mark] = {}
        self._begun: set[str] = set()

    def look(self) -> Found:
        """What is there now."""
        if self._directory is None:
            return Found()
        problems: list[str] = []
        missing: list[str] = []
        try:
            files = sorted(entry.name for entry in os.scandir(self._directory) if not entry.name.startswith("."))
        except OSError as error:
            files = [f"{name}.crt" for name in self._judged]
            missing.append(f"CERTIFICATES={self._directory} cannot be listed: {error.strerror}; is it there?")
        stems = sorted({name[:-4] for name in files if name.endswith((".crt", ".key"))})
        strange = [stem for stem in stems if not NAME.fullmatch(stem)]
        problems += [
            f"{ascii(stem)[:80]} in CERTIFICATES: rename it to letters, digits, '.', '_', '-'" for stem in strange
        ]
        stems = [stem for stem in stems if NAME.fullmatch(stem)]
        if len(stems) > MAX_PAIRS:
            problems.append(f"CERTIFICATES={self._directory} has {len(stems)} pairs; only the first {MAX_PAIRS} are used")
        judged = {stem: self._judge(self._directory, stem) for stem in stems[:MAX_PAIRS]}
        self._glimpsed = {stem: mark for stem, mark in self._glimpsed.items() if stem in judged}
        self._judged = judged
        pairs: list[Pair] = []
        for _, verdict in judged.values():
            why = verdict if isinstance(verdict, str) else verdict.unusable(self._moment(verdict))
            if isinstance(verdict, Pair) and why is None:
                pairs.append(verdict)
            else:
                problems.append(str(why))
        self._begun &= {pair.digest for pair in pairs}
        return Found(tuple(pairs), tuple(missing or problems))

    def _moment(self, pair: Pair) -> float:
        """The time by which to judge a pair: not before its first moment, once that has come."""
        now = self._now()
        if now >= pair.not_before:
            self._begun.add(pair.digest)
        return max(now, pair.not_before) if pair.digest in self._begun else now

    def _judge(self, directory: Path, stem: str) -> tuple[Mark, Pair | str]:
        paths = directory / f"{stem}.crt", directory / f"{stem}.key"
        mark = tuple(_mark(path) for path in paths)
        before = self._judged.get(stem)
        if before is not None and (before[0] == mark or self._glimpsed.get(stem) != mark):
            self._glimpsed[stem] = mark
            return before
        try:
            contents = [_read(path) for path in paths]
            found = reading.pair(stem, str(paths[0]), str(paths[1]), *contents)
            return mark, replace(found, files=mark)
        except InvalidRequest as error:
            return mark, str(error)


def _mark(path: Path) -> tuple[int, ...] | None:
    try:
        there = path.stat()
    except OSError:
        return None
    return there.st_ino, there.st_size, there.st_mtime_ns, there.st_ctime_ns


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise InvalidRequest(f"{path} is missing; a certificate NAME.crt has its key in NAME.key beside it") from error
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise InvalidRequest(f"{path} is larger than {MAX_BYTES // 1024} KiB; it holds more than a chain and is not read")
    return content
