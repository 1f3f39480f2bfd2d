"""Faults of a disk that is full to its last byte, with room again afterwards.

All that is ours on a node (the plugin's state, the ingress's, and on the first node the store's) is moved to a small file
system of its own beforehand, and back afterwards; the plugin is disabled meanwhile, so neither belongs to the fault.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.fault import PLUGIN_ENDS, UNNOTICED, Place, fault
from tests.chaos.limits import STATE
from tests.chaos.scene import ENVIRONMENT, Scene
from tests.e2e.workbench import eventually
from tests.testbed import images
from tests.testbed.node import PLUGIN
from tests.testbed.shell import Failed, run

ROOM = 32
"""MiB the small file system has beyond what is moved to it."""

FULL = "disk is full|No space left on device"
"""What an error must say."""

DAILY, ANOTHER = "daily", "another"
OURS = ("--driver", "stackpad", "--ipam-driver", "stackpad")


@contextlib.contextmanager
def small(place: Place) -> Iterator[None]:
    """All that is ours on a small file system."""
    state, disk = place.node.root / STATE, place.node.home / "lib/stackpad"
    with _disabled(place):
        size = int(run("du", "-sm", disk).stdout.split()[0]) + ROOM
        place.bench.exec("mount", "-t", "tmpfs", "-o", f"size={size}m,mode=0700", "small", f"/{STATE}")
        run("cp", "--archive", f"{disk}/.", state)
    try:
        yield
    finally:
        with _disabled(place):
            run("find", disk, "-mindepth", "1", "-delete")
            run("cp", "--archive", f"{state}/.", disk)
            place.bench.exec("umount", "-l", f"/{STATE}")


@contextlib.contextmanager
def _disabled(place: Place) -> Iterator[None]:
    place.bench.docker("plugin", "disable", "--force", PLUGIN)
    try:
        yield
    finally:
        place.bench.docker("plugin", "enable", PLUGIN)
        place.bench.wait_plugin()
        assert isinstance(place.scene, Scene), "it is prepared under traffic"
        eventually(place.scene.connected, "the nodes to reach the store", 90)
        place.scene.wait_well(60)


@contextlib.contextmanager
def filled(place: Place) -> Iterator[None]:
    """Not a byte left, and what somebody frees is taken at once."""
    ended = threading.Event()
    ballast = place.node.root / STATE / "ballast"
    filler = threading.Thread(target=_fill, args=(ballast, ended))
    filler.start()
    try:
        eventually(lambda: os.statvfs(ballast.parent).f_bfree == 0, "the disk to be full", 20)
        yield
    finally:
        ended.set()
        filler.join()
        ballast.unlink()


def _fill(ballast: Path, ended: threading.Event) -> None:
    with ballast.open("wb", buffering=0) as file:
        while not ended.wait(0.02):
            with contextlib.suppress(OSError):
                while not ended.is_set():
                    file.write(b"\0" * 4096)


@contextlib.contextmanager
def asked(place: Place) -> Iterator[None]:
    """What is there to be removed on a full disk; what was refused then is done by whoever asked, with room again."""
    ask = place.bench.try_docker
    place.bench.docker("network", "create", *OURS, DAILY)
    place.bench.docker("run", "--detach", "--name", DAILY, "--network", ENVIRONMENT, images.TEST)
    try:
        yield
    finally:
        for words in (("rm", "--force", DAILY, ANOTHER), ("network", "rm", DAILY), ("network", "rm", ANOTHER)):
            ask(*words, timeout=120)
    left = ask("ps", "--all", "--quiet", "--filter", f"name={DAILY}").stdout + ask("network", "ls").stdout
    if DAILY in left or ANOTHER in left:
        raise Failed("what was refused on a full disk cannot be removed with room")


def ask_all(place: Place) -> None:
    """What can only be refused, or done."""
    container = ("run", "--detach", "--name", ANOTHER, "--network", ENVIRONMENT, images.TEST)
    place.ask("network create", "network", "create", *OURS, ANOTHER, refused=FULL)
    place.ask("run", *container, refused=FULL)
    place.ask("rm", "rm", "--force", DAILY, refused=FULL)
    place.ask("network rm", "network", "rm", DAILY, refused=FULL)


@fault("the disk of all that is ours full", goal=UNNOTICED, hold=12, prepare=small,
       note="state of the plugin, of the ingress and, on n1, of the store")  # fmt: skip
def disk_full(place: Place) -> Iterator[None]:
    with asked(place), filled(place):
        ask_all(place)
        yield


@fault("plugin killed (SIGKILL) while that disk is full", goal=PLUGIN_ENDS, hold=15, prepare=small,
       note="it must serve what it knows: the tunnel is there before the room is")  # fmt: skip
def disk_full_killed(place: Place) -> Iterator[None]:
    with asked(place), filled(place):
        before = place.node.plugin_pid()
        os.kill(before, signal.SIGKILL)
        eventually(lambda: set(place.pids("python", "-m", "plugin")) - {before}, "the next one", 30)
        place.bench.wait_plugin()
        ask_all(place)
        yield
