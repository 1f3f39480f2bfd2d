"""Faults of another firewall on the node: firewalld, as Debian has it, with nftables.

It runs on a system bus of its own in a file system of its own, in the node's network. Docker does not see that bus, and
so does not write rules through it, as where firewalld was installed after Docker and Docker has not been restarted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.fault import Place
from tests.testbed.shell import Failed, alive, run, spawn, wait_until
from tests.testbed.trees import tree

_HOLD = """
set -e
mount --make-rprivate /
mount -t overlay -o lowerdir={tree},upperdir={home}/upper,workdir={home}/work overlay {home}/root
mount -t proc proc {home}/root/proc
mount -t sysfs sysfs {home}/root/sys
mount --rbind /dev {home}/root/dev
mount -t tmpfs run {home}/root/run
mkdir -p {home}/root/run/dbus {home}/root/run/lock
exec chroot {home}/root sh -c 'dbus-daemon --system --fork && exec firewalld --nofork --nopid'
"""


class Firewalld:
    """It, from its start to its end; what it was told for good is forgotten after that."""

    def __init__(self, place: Place) -> None:
        self._place, self._home = place, place.node.home / "firewalld"
        self._outer = 0

    def start(self) -> None:
        """Start it and wait until it has written its rules."""
        lower = tree("firewalld")
        for part in ("upper", "work", "root"):
            (self._home / part).mkdir(parents=True, exist_ok=True)
        script = _HOLD.format(tree=lower, home=self._home)
        enter = ["nsenter", f"--net=/run/netns/{self._place.node.spec.netns}"]
        words = [*enter, "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script]
        self._outer = spawn(words, self._home / "log")
        wait_until("firewalld", self._runs, 60)

    def tell(self, *words: str) -> str:
        """What ``firewall-cmd`` says."""
        enter = ["nsenter", f"--target={self._inner()}", "--mount", "--pid", "--net", "--root", "--wd"]
        return run(*enter, "firewall-cmd", *words).stdout.strip()

    def stop(self) -> None:
        """End it as its service's stop does: it takes its rules with it."""
        with contextlib.suppress(Failed):
            os.kill(self._inner(), signal.SIGTERM)
            wait_until("firewalld's end", lambda: not alive(self._outer), 20)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._outer, signal.SIGKILL)
        self._place.bench.exec("nft", "delete", "table", "inet", "firewalld", check=False)
        shutil.rmtree(self._home, ignore_errors=True)

    def _inner(self) -> int:
        children = Path(f"/proc/{self._outer}/task/{self._outer}/children")
        try:
            return int(children.read_text().split()[0])
        except (OSError, IndexError) as error:
            raise Failed(f"firewalld has ended: {(self._home / 'log').read_text()[-400:]}") from error

    def _runs(self) -> bool:
        try:
            return self.tell("--state") == "running"
        except Failed:
            if not alive(self._outer):
                raise
            return False


@contextlib.contextmanager
def firewalld(place: Place) -> Iterator[Firewalld]:
    """It, running."""
    made = Firewalld(place)
    try:
        made.start()
        yield made
    finally:
        made.stop()
