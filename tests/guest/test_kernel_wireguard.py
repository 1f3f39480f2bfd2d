"""The kernel's WireGuard, in a virtual machine that has it: the tests of the back ends, run there."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from plugin.wireguard.backend import kernel_has_wireguard
from tests.guest import machine
from tests.testbed.shell import ROOT

PARTS = ("tests/mesh",)
TESTS = 32
"""How many tests for the kernel there are in these; none may be left out unseen."""

LONG = 2
"""And in the first of these, whose plugins take minutes to start there: only with ``STACKPAD_LONG``, as is the second,
which changes a setting of the whole machine, the size of its table of connections."""

OUTLIVING, TABLE = "tests/mesh/test_outliving.py", "tests/kernel/test_full_table.py"


@pytest.mark.timeout(2500)
def test_the_back_end_for_the_kernels_wireguard(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root")
    if absent := machine.missing():
        pytest.skip(f"missing: {', '.join(absent)}")
    pytest_words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no", "-k", "kernel"]
    pytest_words.append("--basetemp=/run/pytest")  # in memory; the checkout may be below /tmp
    long = bool(os.environ.get("STACKPAD_LONG"))
    pytest_words += ["--capture=no"] if long else [f"--ignore={OUTLIVING}"]
    # A process of its own for the table: it leaves a thousand connections to the collector of garbage.
    table = f'; STACKPAD_GUEST=1 "$0" -m pytest -q -p no:cacheprovider {TABLE}' if long else ""
    variables = f"STACKPAD_GUEST=1 {'STACKPAD_LONG=1' if long else ''}"
    script = f'ip link set lo up; cd "{ROOT}"; {variables} "$0" "$@" || exit{table}'
    words, seconds = ["/bin/sh", "-c", script, *pytest_words, *PARTS], 2400 if long else 1500
    status, said = machine.execute(words, tmp_path, seconds)
    assert status == 0, said[-6000:]
    print("\n".join(re.findall(r"^.*lost between nodes.*$", said, re.MULTILINE)))
    counted = re.search(r"(\d+) passed", said)
    assert counted is not None
    assert int(counted[1]) == TESTS + (LONG if long else 0), said[-3000:]
    assert "skipped" not in said


def test_a_kernel_is_asked_and_not_believed(netns: None) -> None:
    """The question leaves nothing behind, whatever the answer."""
    before = sorted(os.listdir("/sys/class/net"))
    kernel_has_wireguard()
    assert sorted(os.listdir("/sys/class/net")) == before
