"""``requirements.lock`` as values: what is installed, with the hashes it must have and who asks for it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"

_PIN = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Package:
    """One pinned package; ``hashes`` are SHA-256 of its files, ``wanted_by`` names as pip-compile notes them."""

    name: str
    version: str
    hashes: tuple[str, ...]
    wanted_by: tuple[str, ...]


def packages(text: str) -> list[Package]:
    """The packages of a lock file; raises :class:`ValueError` for an entry without a version or without a hash."""
    found = [_package(entry) for entry in _entries(text)]
    if not found:
        raise ValueError("the lock file names no package")
    return found


def _entries(text: str) -> Iterator[list[str]]:
    entry: list[str] = []
    for line in text.splitlines():
        if line and line[0] not in "# ":
            if entry:
                yield entry
            entry = [line]
        elif line.startswith(" ") and entry:
            entry.append(line)
    if entry:
        yield entry


def _package(lines: list[str]) -> Package:
    pin = _PIN.match(lines[0])
    hashes = tuple(_HASH.findall("\n".join(lines)))
    if pin is None or not hashes:
        raise ValueError(f"{lines[0].strip()[:80]} has no exact version or no hash; make lock writes both")
    wanted = [line.partition("#")[2].strip().removeprefix("via").strip() for line in lines if "#" in line]
    return Package(pin["name"].lower(), pin["version"], hashes, tuple(filter(None, wanted)))
