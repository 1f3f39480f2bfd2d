"""A Docker engine for building images only, and what is built with it.

It lives in the machine's network namespace, since builds install Debian packages, but makes neither bridges nor
firewall rules. Its images and layers are kept in the cache, so that a build does again only what has changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from tests.testbed.shell import ROOT, Failed, alive, cache, need, run, say, spawn, step, wait_until
from tests.testbed.trees import tree

BASES = {"debian:trixie-slim": "trixie", "debian:bookworm-slim": "bookworm"}
"""Base images, and the release each is made of where no registry can be asked."""


_GROUP = "stackpad-builder"
"""The control group of what runs during a build; Docker's own default is the machine's engine's."""


class Builder:
    """The building engine; a context manager that starts and stops it."""

    def __init__(self) -> None:
        self._home = cache() / "builder"
        self._run = self._home / "run"
        self.host = f"unix://{self._run / 'docker.sock'}"
        self._pid = 0

    def __enter__(self) -> Builder:
        """Start the engine."""
        need("dockerd", "docker")
        shutil.rmtree(self._run, ignore_errors=True)
        self._run.mkdir(parents=True)
        command: list[str | Path] = [
            "unshare", "--mount", "dockerd", "--bridge=none", "--iptables=false", "--ip6tables=false",
            "--ip-forward=false", "--data-root", self._home / "data", "--exec-root", self._run / "exec",
            "--pidfile", self._run / "docker.pid", "--host", self.host,
            "--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", f"/{_GROUP}",
        ]  # fmt: skip
        self._pid = spawn(command, self._home / "dockerd.log")
        try:
            wait_until("the building engine", self._answers)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the engine."""
        self._stop()

    def docker(self, *arguments: str | Path, check: bool = True) -> str:
        """Run the Docker client against this engine; returns what it printed."""
        env = {"DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "0"}
        return run("docker", *arguments, env=env, check=check).stdout

    def base(self, image: str) -> None:
        """Have a base image, from a debootstrapped tree."""
        if not self.docker("images", "--quiet", image).strip():
            root = tree(BASES[image])
            with step(f"import {image}"):
                archive = cache() / f"{BASES[image]}.tar"
                run("tar", "--numeric-owner", "-C", root, "-cf", archive, ".")
                self.docker("import", archive, image)
                archive.unlink()

    def build(self, tag: str, dockerfile: Path, context: Path, *options: str) -> None:
        """Build an image; the engine's layer cache decides what is done again."""
        with step(f"build {tag}"):
            self.docker("build", "--network=host", "--tag", tag, "--file", dockerfile, *options, context)

    def _stop(self) -> None:
        if alive(self._pid):
            os.kill(self._pid, signal.SIGTERM)
            wait_until("the end of the building engine", lambda: not alive(self._pid))
        shutil.rmtree(self._run, ignore_errors=True)
        # In every hierarchy, or in the only one. Docker leaves this behind, and BuildKit one below it; in use, they stay.
        for top in [*Path("/sys/fs/cgroup").glob(f"*/{_GROUP}"), Path("/sys/fs/cgroup", _GROUP)]:
            for group in (*sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True), top):
                with contextlib.suppress(OSError):
                    group.rmdir()

    def _answers(self) -> bool:
        if not alive(self._pid):
            log = (self._home / "dockerd.log").read_text(errors="replace").splitlines()[-5:]
            raise Failed("the building engine ended:\n" + "\n".join(log))
        return run("docker", "version", env={"DOCKER_HOST": self.host}, check=False).returncode == 0


def digest(paths: Iterable[Path]) -> str:
    """A digest of files and directories, by name and content."""
    summed = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                summed.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return summed.hexdigest()[:16]


_STALE = 6 * 3600.0
"""Seconds after which an image of another version of the checkout is removed."""


def archive(builder: Builder, tag: str, key: str, *images: str) -> Path:
    """The image, or ``images``, as a file that ``docker load`` takes, kept in the cache by ``tag`` and ``key``."""
    kept = cache() / "images" / f"{tag.replace('/', '_').replace(':', '_')}-{key}.tar"
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        for old in kept.parent.glob(f"{kept.name.rpartition('-')[0]}-*"):
            # Another checkout may be about to load a recent one.
            if time.time() - old.stat().st_mtime > _STALE:
                old.unlink(missing_ok=True)
        with step(f"save {tag}"):
            part = kept.with_suffix(".part")
            builder.docker("save", "--output", part, *(images or (tag,)))
            part.rename(kept)
    say(f"{tag}: {kept.stat().st_size / 1e6:.0f} MB")
    return kept
