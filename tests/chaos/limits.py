"""Faults of what a process needs of its machine: files it may open, its disk, its state."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.fault import PARTED, UNNOTICED, WORKER, Place, fault
from tests.testbed.shell import run

STATE = "var/lib/stackpad"


@fault("the plugin may open no more files", goal=UNNOTICED, hold=10)
def no_files(place: Place) -> Iterator[None]:
    pid = place.node.plugin_pid()
    has = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    run("prlimit", "--pid", str(pid), f"--nofile={has}:20000")
    yield
    run("prlimit", "--pid", str(pid), "--nofile=20000:20000")


@fault("the plugin's disk read-only, but for what is open", goal=UNNOTICED, hold=6)
def disk_read_only(place: Place) -> Iterator[None]:
    """A mount that is written to cannot be made read-only, so a read-only one is laid over it."""
    enter = ["nsenter", f"--target={place.node.plugin_pid()}", "--mount", "--pid", "mount"]
    run(*enter, "--bind", f"/host/{STATE}", f"/host/{STATE}")
    run(*enter, "-o", "remount,bind,ro", f"/host/{STATE}")
    yield
    run(*enter[:-1], "umount", f"/host/{STATE}")


@fault("the plugin killed, and its state cut in half before it starts", goal=PARTED, roles=(WORKER,), hold=6,
       note="it waits on such a file; wireguard-go, which ended with it, comes back with the state")  # fmt: skip
def state_halved(place: Place) -> Iterator[None]:
    """Its engine is stopped while the files change, so that it does not start the plugin in between.

    They are put back under a plugin that runs: nobody tells it.
    """
    state, kept = place.node.root / STATE, place.node.home / "kept-state"
    shutil.rmtree(kept, ignore_errors=True)
    with place.stopped(place.engine_pid()):
        os.kill(place.node.plugin_init(), signal.SIGKILL)
        kept.mkdir()
        for file in state.glob("net.db*"):
            shutil.copy2(file, kept)
        for file in state.glob("net.db-*"):
            file.unlink()
        os.truncate(state / "net.db", (state / "net.db").stat().st_size // 2)
    yield
    for file in state.glob("net.db*"):
        file.unlink()
    for file in kept.iterdir():
        shutil.copy2(file, state)
