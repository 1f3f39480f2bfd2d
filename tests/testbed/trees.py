"""Debian trees made by debootstrap, kept between runs.

No mirror is named here: debootstrap's own default is used, and the tree keeps it for apt.
"""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

from tests.testbed.shell import cache, need, run, step

PACKAGES = {
    "trixie": (),
    "bookworm": (),
    "forky": (
        "ca-certificates", "caddy", "docker-cli", "docker.io", "iproute2", "iptables", "kmod", "nftables", "procps",
    ),
}  # fmt: skip
"""Packages beyond the minimum, by release; forky's are a node's engine and its Caddy."""


def tree(release: str) -> Path:
    """The root directory of a release; made where it is not there yet.

    By one at a time: the nodes of a testbed start side by side and all ask for it, and so do testbeds.
    """
    path = cache() / "trees" / release
    with (cache() / "trees.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (path / ".complete").exists():
            need("debootstrap")
            with step(f"debootstrap {release}"):
                _make(release, path)
    return path


def _make(release: str, path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    include = [f"--include={','.join(PACKAGES[release])}"] if PACKAGES[release] else []
    run("debootstrap", "--variant=minbase", *include, release, path, env={"DEBOOTSTRAP_DIR": str(_scripts())})
    _slim(path)
    (path / ".complete").touch()


def _scripts() -> Path:
    """Debootstrap's own scripts, with one for every release: an older one does not know a newer release's name."""
    path = cache() / "debootstrap"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree("/usr/share/debootstrap", path, symlinks=True)
    for release in PACKAGES:
        script = path / "scripts" / release
        if not script.exists():
            script.symlink_to("sid")
    return path


def _slim(path: Path) -> None:
    """Remove what no image needs."""
    for unneeded in ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "var/cache/apt"):
        shutil.rmtree(path / unneeded, ignore_errors=True)
    shutil.rmtree(path / "var/lib/apt/lists", ignore_errors=True)
    (path / "var/lib/apt/lists/partial").mkdir(parents=True)
    (path / "var/cache/apt/archives/partial").mkdir(parents=True)
    rules = path / "etc/dpkg/dpkg.cfg.d/slim"
    rules.write_text(
        "path-exclude /usr/share/doc/*\npath-exclude /usr/share/man/*\npath-exclude /usr/share/locale/*\n"
        "path-exclude /usr/share/info/*\n"
    )
