"""Process 1 with real children: who is killed has a successor, and who ends by himself is believed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

CHILD = """
import os, signal, sys
from plugin import supervisor
supervisor.FIRST, supervisor.LAST = {first}, max({first}, supervisor.LAST)
status = supervisor.supervise()
if status is None:
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGTERM}})
    print(os.getpid(), os.getppid(), len(masked), flush=True)
    {then}
else:
    print("over", status, flush=True)
    sys.exit(status)
"""
WAIT = "signal.sigwait({signal.SIGTERM}); sys.exit(7)"
"""Blocked and waited for: a handler would be late for a signal that comes just before ``signal.pause()``."""

DEAF = "signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM}); print('deaf', flush=True); signal.pause()"
"""One that a SIGTERM kills."""


class Supervised:
    """A supervisor in a process of its own, which is not process 1."""

    def __init__(self, then: str, first: float) -> None:
        words = [sys.executable, "-c", CHILD.format(then=then, first=first)]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def child(self) -> int:
        """The id of the child that begins next."""
        pid, parent, masked = map(int, self._line().split())
        assert (parent, masked) == (self.process.pid, 0), "signals reach it as if there were nobody above"
        return pid

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def ended(self) -> tuple[int, str]:
        """The exit status, and what was said on stderr."""
        said, errors = self.process.communicate(timeout=20)
        assert said == f"over {self.process.returncode}\n"
        return self.process.returncode, errors


@pytest.fixture
def begin() -> Iterator[list[Supervised]]:
    """Those that are begun; each is ended, with its child."""
    begun: list[Supervised] = []
    yield begun
    for one in begun:
        if one.process.poll() is None:
            one.process.terminate()
            one.process.communicate(timeout=20)


def test_who_is_killed_has_a_successor(begin: list[Supervised]) -> None:
    there = Supervised(WAIT, 0.05)
    begin.append(there)
    pids = [there.child()]
    for how in (signal.SIGKILL, signal.SIGRTMIN + 6, signal.SIGKILL):
        os.kill(pids[-1], how)
        pids.append(there.child())
    assert len(set(pids)) == 4
    there.process.send_signal(signal.SIGTERM)
    status, errors = there.ended()
    assert status == 7, "the child was told to end, and has"
    assert re.findall(r"by signal (\d+);", errors) == ["9", "40", "9"]
    assert [float(line.split()[-2]) for line in errors.splitlines()] == [0.1, 0.2, 0.4], "rarer while each dies soon"


def test_nobody_who_reads_is_no_reason_to_end(begin: list[Supervised]) -> None:
    there = Supervised(WAIT, 0.05)
    begin.append(there)
    assert there.process.stderr is not None
    there.process.stderr.close()
    there.process.stderr = None
    os.kill(there.child(), signal.SIGKILL)
    assert there.child()
    there.process.send_signal(signal.SIGTERM)
    assert there.ended()[0] == 7


def test_what_a_child_ends_with_is_what_is_told(begin: list[Supervised]) -> None:
    there = Supervised("sys.exit(3)", 0.05)
    begin.append(there)
    there.child()
    assert there.ended() == (3, "")


def test_one_that_is_told_to_end_in_a_pause_ends(begin: list[Supervised]) -> None:
    there = Supervised(WAIT, 600.0)
    begin.append(there)
    os.kill(there.child(), signal.SIGKILL)
    assert there.process.stderr is not None
    assert "signal 9" in there.process.stderr.readline()
    there.process.send_signal(signal.SIGTERM)
    assert there.ended() == (0, "")


def test_one_that_is_told_to_end_and_is_killed_has_no_successor(begin: list[Supervised]) -> None:
    there = Supervised(DEAF, 0.05)
    begin.append(there)
    there.child()
    assert there._line() == "deaf\n"
    there.process.send_signal(signal.SIGTERM)
    assert there.ended() == (0, "")
