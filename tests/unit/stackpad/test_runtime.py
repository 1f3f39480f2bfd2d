"""Waiting times, what is heard, and logs that programs can read."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import pytest

from stackpad.runtime import Backoff, heard


def test_waiting_times_double_up_to_a_limit_and_begin_again() -> None:
    backoff = Backoff(1.0, 5.0)
    expected = [1.0, 2.0, 4.0, 5.0, 5.0]
    assert [next(backoff) for _ in expected] == pytest.approx(expected, rel=0.11)
    backoff.reset()
    assert next(backoff) == pytest.approx(1.0, rel=0.11)


def test_waiting_times_are_spread() -> None:
    assert len({next(Backoff(1.0, 5.0)) for _ in range(20)}) > 1


async def test_what_is_said_several_times_is_heard_once_and_silence_is_not() -> None:
    event = asyncio.Event()
    event.set()
    event.set()
    assert await heard(event, None)
    assert not await heard(event, 0.01)


def test_logs_are_lines_of_json_on_stderr_where_nobody_looks() -> None:
    script = (
        "import structlog; from stackpad.runtime import configure_logging; configure_logging('info');"
        "log = structlog.get_logger(); log.debug('not this'); log.info('this', value='a\\nb')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    assert {"event": "this", "value": "a\nb", "level": "info"}.items() <= json.loads(line).items()
    assert not done.stdout
