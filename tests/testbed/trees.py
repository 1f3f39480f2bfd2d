"""Debian trees made by debootstrap, kept between runs.

No mirror is named here: debootstrap's own default is used, and the tree keeps it for apt.
"""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

from tests.testbed.shell import cache, need, run, step

_ENGINE = (
    "ca-certificates", "caddy", "docker-cli", "docker.io", "iproute2", "iptables", "kmod", "nftables", "procps",
)  # fmt: skip
"""A node's engine and its Caddy, as the release has them."""

TREES: dict[str, tuple[str, tuple[str, ...]]] = {
    "trixie": ("trixie", ()),
    "bookworm": ("bookworm", ()),
    "forky": ("forky", _ENGINE),
    "trixie-engine": ("trixie", _ENGINE),
    "firewalld": ("trixie", ("dbus", "firewalld", "iptables", "libpam-systemd", "nftables", "systemd-sysv")),
}
"""Trees by name: the release, and packages beyond the minimum. Images are built on a release without an engine.

No node has the last one; it is made where a firewall of that name is to run on a node.
"""


_ENGINE_TREES = {"trixie": "trixie-engine", "legacy": "trixie-engine", "forky": "forky"}


def engine_tree(engine: str) -> Path:
    """The root directory of a node whose engine is not the machine's own."""
    return tree(_ENGINE_TREES[engine])


def tree(name: str) -> Path:
    """The root directory of a tree; made where it is not there yet.

    By one at a time: the nodes of a testbed start side by side and all ask for it, and so do testbeds.
    """
    path = cache() / "trees" / name
    with (cache() / "trees.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (path / ".complete").exists():
            need("debootstrap")
            with step(f"debootstrap {name}"):
                _make(name, path)
    return path


def _make(name: str, path: Path) -> None:
    release, packages = TREES[name]
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    include = [f"--include={','.join(packages)}"] if packages else []
    run("debootstrap", "--variant=minbase", *include, release, path, env={"DEBOOTSTRAP_DIR": str(_scripts())})
    _slim(path)
    (path / ".complete").touch()


def _scripts() -> Path:
    """Debootstrap's own scripts, with one for every release: an older one does not know a newer release's name."""
    path = cache() / "debootstrap"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree("/usr/share/debootstrap", path, symlinks=True)
    for release, _ in TREES.values():
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
