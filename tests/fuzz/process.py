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
from collections.abc import Iterator, Sequence
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
DRIVER, ADMIN, WEB = "docker/plugins/stackpad.sock", "stackpad/net.sock", "stackpad/web/web.sock"


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
        sockets = _sockets(pid)
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = os.readlink(entry)
                kind = sockets.get(target) or re.sub(r"[\d:\[\]]+", "", target)
                kinds[kind] = kinds.get(kind, 0) + 1
        # Each thread has its own: a process is the child of the one that began it.
        children = [child for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]
        listing = json.loads(run("nft", "-j", "list", "ruleset"))["nftables"]
        elements = sum(
            len(part.get("elem", ())) for entry in listing for part in entry.values() if isinstance(part, dict)
        )
        links = sorted(str(link["ifname"]) for link in json.loads(run("ip", "-j", "link")))
        routes = run("ip", "route", "show", "table", "all") + run("ip", "-6", "route", "show", "table", "all")
        # The kernel's own come and go with addresses and with forwarding.
        ours = frozenset(line for line in routes.splitlines() if "proto kernel" not in line)
        return Census(tuple(sorted(kinds.items())), len(children), tuple(links), elements, ours)

    def end(self) -> None:
        """Stop it, if it runs, and what it leaves running on purpose: the tunnel outlives its plugin."""
        if self.process.returncode is not None:
            return
        place = os.readlink(f"/proc/{self.process.pid}/ns/mnt")
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(120)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for left in _inside(place):
            with contextlib.suppress(ProcessLookupError):
                os.kill(left, signal.SIGTERM)
        deadline = time.monotonic() + 30
        while running := _inside(place):
            assert time.monotonic() < deadline, f"still running: {running}"
            time.sleep(0.05)

    def words(self) -> str:
        """All it has logged."""
        return self.log.read_text(errors="replace")


@contextlib.contextmanager
def plugin(
    directory: Path, *, before: Sequence[str] = (), python: Sequence[str] = ("-m", "plugin"), **settings: str
) -> Iterator[Process]:
    """A plugin in a fresh namespace, in which this thread is meanwhile, too; it is ready.

    ``before`` are words in front of its command, such as those of setpriv(1); ``python`` are Python's arguments.
    """
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
                ["unshare", "--mount", "sh", "-c", _SCRIPT, "sh", *before, sys.executable, *python],
                env={**os.environ, **environment, **settings, "PYTHONPATH": path},
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
            made.end()


def _inside(mounts: str) -> list[int]:
    """The processes of a mount namespace."""
    found = []
    for link in Path("/proc").glob("[0-9]*/ns/mnt"):
        with contextlib.suppress(OSError):
            if os.readlink(link) == mounts:
                found.append(int(link.parts[2]))
    return found


def _sockets(pid: int) -> dict[str, str]:
    """What kind each socket of its namespace is, by what its descriptors link to; those of netlink are not told apart."""
    kinds = {}
    for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
        _, _, _, _, _, _, inode, *path = line.split()
        kinds[f"socket:[{inode}]"] = f"unix {path[0] if path else 'client'}"
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{protocol}").read_text().splitlines()[1:]:
            _, local, *rest = line.split()
            kinds[f"socket:[{rest[7]}]"] = f"{protocol} {local}"
    return kinds
