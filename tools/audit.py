"""``make audit ADVISORIES=directory``: known vulnerabilities of what the lock file pins, and whether that is installed.

Without a network: the advisories are files in OSV's format, YAML or JSON, such as a clone of PyPA's advisory database.
How old they are is said, since an old copy knows nothing of what was found since. Without them only the second half is
done, and that is no success.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import yaml
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from tools.lockfile import LOCK, Package, packages

Advisory = Mapping[str, Any]


def main(arguments: list[str]) -> int:
    """Say what there is; returns 1 if anything is wrong, 2 if there were no advisories to look at."""
    locked = packages(LOCK.read_text())
    wrong = list(differences(locked))
    say(
        f"{len(locked)} packages are pinned, each with its hashes; {len(wrong)} are here in another version or not at all"
    )
    if not arguments:
        say(
            "no advisories were looked at: give a directory of OSV files, make audit ADVISORIES=…/advisory-database/vulns"
        )
        return report(wrong) or 2
    found, newest, count = vulnerable(locked, Path(arguments[0]))
    say(f"{count} advisories, the newest of {newest or 'no date'}: {len(found)} concern a pinned version")
    return report([*wrong, *found])


def report(wrong: list[str]) -> int:
    """Say each; returns 1 if there are any."""
    for text in wrong:
        say(text)
    return 1 if wrong else 0


def differences(locked: list[Package]) -> Iterator[str]:
    """Pinned packages that are installed in another version; one that is not for this platform may be missing."""
    for package in locked:
        try:
            there = distribution(package.name).version
        except PackageNotFoundError:
            continue
        if Version(there) != Version(package.version):
            yield f"{package.name} {there} is installed, {package.version} is pinned; run any make target to install it"


def vulnerable(locked: list[Package], directory: Path) -> tuple[list[str], str, int]:
    """What concerns the pinned versions, the newest advisory's date, and how many there are."""
    pinned = {str(canonicalize_name(package.name)): Version(package.version) for package in locked}
    found, newest, count = [], "", 0
    for advisory in advisories(directory, pinned):
        count += 1
        newest = max(newest, str(advisory.get("modified", "")))
        if advisory.get("withdrawn"):
            continue
        for affected in advisory.get("affected") or ():
            name = str(canonicalize_name(str((affected.get("package") or {}).get("name", ""))))
            if name in pinned and affects(affected, pinned[name]):
                names = ", ".join([str(advisory.get("id")), *map(str, advisory.get("aliases") or ())])
                found.append(f"{name} {pinned[name]}: {names}")
    return sorted(set(found)), newest[:10], count


def advisories(directory: Path, pinned: Mapping[str, object]) -> Iterator[Advisory]:
    """All advisories below a directory; of a folder that is named after a package, only if that is pinned."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for file in sorted(directory.rglob("*")):
        if file.suffix == ".json":
            yield json.loads(file.read_text())
        elif file.suffix in {".yaml", ".yml"} and str(canonicalize_name(file.parent.name)) in pinned:
            yield yaml.load(file.read_text(), Loader=loader)  # noqa: S506 - a safe loader, one of two


def affects(affected: Mapping[str, Any], version: Version) -> bool:
    """Whether an entry of OSV's ``affected`` is about ``version``: by its list, or by its ranges."""
    if any(_same(str(text), version) for text in affected.get("versions") or ()):
        return True
    return any(
        _within(there.get("events") or [], version)
        for there in affected.get("ranges") or ()
        if there.get("type") == "ECOSYSTEM"
    )


def _within(events: list[Mapping[str, Any]], version: Version) -> bool:
    """OSV's evaluation: the last event at or before the version decides."""
    inside = False
    steps = [(_version(text), kind) for event in events for kind, text in event.items() if kind != "limit"]
    for at, kind in sorted(steps, key=lambda step: step[0]):
        if kind == "last_affected":
            inside = inside and version <= at
        elif at <= version:
            inside = kind == "introduced"
    return inside


def _version(text: object) -> Version:
    try:
        return Version(str(text))
    except InvalidVersion:
        return Version("0")


def _same(text: str, version: Version) -> bool:
    try:
        return Version(text) == version
    except InvalidVersion:
        return False


def say(text: str) -> None:
    """One line."""
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
