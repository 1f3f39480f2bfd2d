"""The whole plugin as a process in a namespace of its own, with one node's cluster; and a census of what it holds.

It runs as Docker runs it, but for its mounts: an empty ``/run`` and ``/var/lib`` of its own, and no engine.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.netns import private, run
from tests.testbed.shell import ROOT

_SCRIPT = """
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=755 lib /var/lib
exec "$@"
"""
DRIVER, ADMIN = "docker/plugins/stackpad.sock", "stackpad/net.sock"


@dataclass(frozen=True)
class Census:
    """What must be the same before and after: descriptors by kind, children, links, elements, routes."""

    descriptors: tuple[tuple[str, int], ...]
    children: int
    links: tuple[str, ...]
    elements: int
    routes: frozenset[str]


@dataclass
class Process:
    """The running plugin; requests to it go through the file system of its own."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def run(self) -> Path:
        """Its ``/run``, as seen from here."""
        return Path(f"/proc/{self.process.pid}/root/run")

    def session(self, socket: str) -> aiohttp.ClientSession:
        """A client of one of its sockets."""
        connector = aiohttp.UnixConnector(path=str(self.run / socket), limit=4)
        return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(60))

    def census(self) -> Census:
        """What it holds now, in descriptors and in the kernel."""
        pid = self.process.pid
        kinds: dict[str, int] = {}
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                kind = re.sub(r"[\d:\[\]]+", "", os.readlink(entry))
                kinds[kind] = kinds.get(kind, 0) + 1
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        listing = json.loads(run("nft", "-j", "list", "ruleset"))["nftables"]
        elements = sum(
            len(part.get("elem", ())) for entry in listing for part in entry.values() if isinstance(part, dict)
        )
        links = sorted(str(link["ifname"]) for link in json.loads(run("ip", "-j", "link")))
        routes = run("ip", "route", "show", "table", "all") + run("ip", "-6", "route", "show", "table", "all")
        # The kernel's own come and go with addresses and with forwarding.
        ours = frozenset(line for line in routes.splitlines() if "proto kernel" not in line)
        return Census(tuple(sorted(kinds.items())), len(children), tuple(links), elements, ours)

    def words(self) -> str:
        """All it has logged."""
        return self.log.read_text(errors="replace")


@contextlib.contextmanager
def plugin(directory: Path) -> Iterator[Process]:
    """A plugin in a fresh namespace, in which this thread is meanwhile, too; it is ready."""
    with private():
        log = directory / "plugin.log"
        # A checkout is on the path and not installed; a node of a cluster says its version.
        metadata = directory / "path" / "stackpad-0.0.0.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text("Metadata-Version: 2.1\nName: stackpad\nVersion: 0.0.0\n")
        path = f"{metadata.parents[1]}:{ROOT}"
        environment = {"HOST_RUN": "/run", "HOST_PROC": "/proc", "HOST_LIB": "/var/lib", "LOG_LEVEL": "warning"}
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", _SCRIPT, "sh", sys.executable, "-m", "plugin"],
                env={**os.environ, **environment, "PYTHONPATH": path},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        made = Process(process, log)
        try:
            deadline = time.monotonic() + 60
            while not (made.run / ADMIN).is_socket():
                assert process.poll() is None, made.words()
                assert time.monotonic() < deadline, made.words()
                time.sleep(0.05)
            yield made
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
