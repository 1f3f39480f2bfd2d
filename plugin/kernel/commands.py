"""Programs that change the kernel for us, and do not outlive us. Blocking, for the kernel thread."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

from stackpad.errors import Unavailable

TIMEOUT = 10.0
"""Seconds one may take."""

_NOT_FOUND = 127
"""What setpriv(1) ends with where there is no such program."""


def run(
    *words: str, script: str = "", package: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What became of a program that was given ``script``; ``environment`` is added to ours.

    The kernel ends it if we are killed: late, it would undo what our successor has begun with. More exactly, when the
    thread ends that began it (prctl(2), PR_SET_PDEATHSIG), and this one waits for it.

    Raises :class:`Unavailable` if it is not there, which names ``package``, or takes longer than :data:`TIMEOUT`.
    """
    try:
        done = subprocess.run(
            ["setpriv", "--pdeathsig", "KILL", "--", *words],
            input=script,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
            env={**os.environ, **(environment or {})},
        )
    except FileNotFoundError as error:
        raise Unavailable("there is no setpriv command; install the package util-linux") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{words[0]} did not finish within {TIMEOUT:.0f} s") from error
    if done.returncode == _NOT_FOUND and done.stderr.startswith("setpriv:"):
        raise Unavailable(f"there is no {words[0]} command; install the package {package}")
    return done
