"""``make sbom``: what the lock file installs, as a CycloneDX document (ECMA-424); the same for the same lock.

Of each package its version and the SHA-256 of its files. What runs on a node is ``required``, the tools ``excluded``. The
Debian packages of the two images are not in it: ``docker run --rm --entrypoint dpkg-query IMAGE -W`` lists those.
"""

from __future__ import annotations

import sys
import tomllib
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.lockfile import LOCK, ROOT, Package, packages


def main(arguments: list[str]) -> int:
    """Write it to the file that is named, or to standard output."""
    text = document(LOCK.read_text(), (ROOT / "pyproject.toml").read_text())
    if arguments:
        Path(arguments[0]).parent.mkdir(parents=True, exist_ok=True)
        Path(arguments[0]).write_text(text)
    else:
        sys.stdout.write(text)
    return 0


def document(lock: str, project: str) -> str:
    """The document as JSON."""
    about = tomllib.loads(project)["project"]
    locked = packages(lock)
    running = needed(locked, [Requirement(word).name for word in about["dependencies"]])
    made = Bom(
        # Of the content and not of the moment: who makes it again can compare.
        serial_number=uuid.UUID(bytes=sha256((lock + project).encode()).digest()[:16], version=4),
        components=[_component(package, running) for package in locked],
    )
    made.metadata.timestamp = datetime.fromtimestamp(0, UTC)
    made.metadata.component = Component(
        name=about["name"], version=about["version"], type=ComponentType.APPLICATION, bom_ref=about["name"]
    )
    made.register_dependency(made.metadata.component, made.components)
    return JsonV1Dot6(made).output_as_string(indent=2) + "\n"


def needed(locked: Iterable[Package], direct: Iterable[str]) -> frozenset[str]:
    """The packages that are installed for ``direct``, which are what a node runs; the rest are tools."""
    wanted_by = {p.name: {canonicalize_name(word.split(" ")[0]) for word in p.wanted_by} for p in locked}
    found: set[str] = {canonicalize_name(name) for name in direct}
    while more := {name for name, by in wanted_by.items() if by & found} - found:
        found |= more
    return frozenset(found)


def _component(package: Package, running: frozenset[str]) -> Component:
    purl = PackageURL("pypi", name=package.name, version=package.version)
    files = [HashType(alg=HashAlgorithm.SHA_256, content=content) for content in package.hashes]
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        scope=ComponentScope.REQUIRED if package.name in running else ComponentScope.EXCLUDED,
        purl=purl,
        bom_ref=str(purl),
        external_references=[
            ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=XsUri("requirements.lock"), hashes=files)
        ],
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
