"""Faults of another firewall on the node: firewalld, as Debian has it, with nftables.

It runs on a system bus of its own in a file system of its own, in the node's network. Docker does not see that bus, and
so does not write rules through it, as where firewalld was installed after Docker and Docker has not been restarted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.chaos.fault import CONTROL, TRAFFIC_STOPS, UNNOTICED, WORKER, Place, fault
from tests.chaos.scene import ENVIRONMENT, address
from tests.e2e.scene import INTERNET
from tests.e2e.workbench import BRIEF, Target, eventually, everything
from tests.testbed.shell import Failed, alive, run, say, spawn, wait_until
from tests.testbed.trees import tree

_HOLD = """
set -e
mount --make-rprivate /
mount -t overlay -o lowerdir={tree},upperdir={home}/upper,workdir={home}/work overlay {home}/tree
mount -t proc proc {home}/tree/proc
mount -t sysfs sysfs {home}/tree/sys
mount --rbind /dev {home}/tree/dev
mount -t tmpfs run {home}/tree/run
mkdir -p {home}/tree/run/dbus {home}/tree/run/lock
exec chroot {home}/tree sh -c '{told}dbus-daemon --system --fork && exec firewalld --nofork --nopid'
"""

OPERATOR = (
    "--zone=trusted --add-interface=sp-+",
    "--zone=public --add-port=51820/udp",
    "--zone=drop --add-port=51820/udp",
)
"""What docs/operations.md has an operator say, before it starts."""

STRANGERS, GUEST_PORT = "strangers", 8090
NOT_APART = "a stranger answers"


class Firewalld:
    """It, from its start to its end; what it was told for good is forgotten after that."""

    def __init__(self, place: Place) -> None:
        self._place, self._home = place, place.node.home / "firewalld"
        self._outer = 0

    def start(self, told: Sequence[str] = ()) -> None:
        """Start it with these settings and wait until it has written its rules."""
        lower = tree("firewalld")
        for part in ("upper", "work", "tree"):
            (self._home / part).mkdir(parents=True, exist_ok=True)
        words = "".join(f"firewall-offline-cmd {each} && " for each in told)
        script = _HOLD.format(tree=lower, home=self._home, told=words)
        enter = ["nsenter", f"--net=/run/netns/{self._place.node.spec.netns}"]
        apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script]
        self._outer = spawn([*enter, *apart], self._home / "log")
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
def visitors(place: Place) -> Iterator[None]:
    """Who makes new connections, for what runs already every firewall lets pass: a guest, and two strangers."""
    bench = place.bench
    try:
        bench.serve("guest", ENVIRONMENT, "--publish", f"{GUEST_PORT}:80")
        bench.network(STRANGERS)
        bench.serve("stranger", STRANGERS)
        bench.start("another", STRANGERS)
        eventually(lambda: not wrong(place), "the visitors to be known everywhere", 30)
        yield
    finally:
        bench.docker("rm", "--force", "guest", "stranger", "another")
        bench.docker("network", "rm", STRANGERS)


def wrong(place: Place) -> list[str]:
    """Ways that are closed and should be open, and the other way about."""
    here, number = place.bench, place.number
    other = CONTROL if number != CONTROL else WORKER
    there = place.scene.bench[other]
    guest = everything(here.node.address_of("guest", ENVIRONMENT))
    stranger = everything(here.node.address_of("stranger", STRANGERS))
    ways: dict[str, Callable[[], list[str]]] = {
        "same": lambda: here.ask(f"ask{number}", guest, BRIEF),
        "from another node": lambda: there.ask(f"ask{other}", guest, BRIEF),
        "to another node": lambda: here.ask("guest", [Target("icmp", address(other))], BRIEF),
        "to the internet": lambda: here.ask("guest", [Target("icmp", INTERNET)], BRIEF),
        "published": lambda: here.ask_from_outside(Target("tcp", here.node.address, GUEST_PORT), patience=BRIEF),
        "among strangers": lambda: here.ask("another", stranger, BRIEF),
    }
    bad = [name for name, way in ways.items() if not all(way())]
    answers = [*here.ask(f"ask{number}", stranger, BRIEF), *there.ask(f"ask{other}", stranger, BRIEF)]
    return bad + ([NOT_APART] if any(answers) else [])


@contextlib.contextmanager
def firewalld(place: Place, told: Sequence[str] = ()) -> Iterator[Firewalld]:
    """It, running."""
    made = Firewalld(place)
    try:
        made.start(told)
        yield made
    finally:
        made.stop()


STEPS = (("started",), ("reloaded", "--reload"), ("reloaded completely", "--complete-reload"),
         ("with drop as its default zone", "--set-default-zone=drop"))  # fmt: skip


def _through(place: Place, daemon: Firewalld) -> list[str]:
    """All of the steps, and what is wrong after each."""
    found = []
    for name, *words in STEPS:
        if words:
            daemon.tell(*words)
        bad = wrong(place)
        say(f"firewalld {name}: {', '.join(bad) or 'all as it should be'}")
        found += [f"{name}: {each}" for each in bad]
    return found


@fault("firewalld, told of us, started, reloaded, set to drop", goal=UNNOTICED, roles=(WORKER,), prepare=visitors,
       note="our links in its trusted zone, the tunnel's port open; new connections tried after each step")  # fmt: skip
def firewalld_told(place: Place) -> Iterator[None]:
    with firewalld(place, OPERATOR) as daemon:
        if bad := _through(place, daemon):
            raise Failed("; ".join(bad))
        yield


@fault("firewalld, told nothing, started, reloaded, set to drop", goal=TRAFFIC_STOPS, roles=(WORKER,), prepare=visitors,
       note="what runs goes on, for that is established; new connections are refused until it is told")  # fmt: skip
def firewalld_untold(place: Place) -> Iterator[None]:
    with firewalld(place) as daemon:
        if any(NOT_APART in each for each in _through(place, daemon)):
            raise Failed(NOT_APART)
        yield
