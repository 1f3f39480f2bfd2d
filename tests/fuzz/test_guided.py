"""The targets under atheris: what no mutation hits by chance, it comes to step by step."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.corpus import seeds
from tests.fuzz.targets import TARGETS
from tests.testbed.shell import ROOT

RUNS = 20_000 * int(os.environ.get("STACKPAD_FUZZ") or 1)
ROUND = int(os.environ.get("STACKPAD_FUZZ_ROUND") or 1)


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="missing: atheris, which has no wheel for this Python"
)
@pytest.mark.timeout(0)
def test_nothing_is_found(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, target in enumerate(TARGETS):
        for name, data in seeds(target).items():
            (corpus / f"{target}-{name}").write_bytes(bytes([number]) + data)
    done = subprocess.run(
        [
            sys.executable, "-m", "tests.fuzz.guided", str(corpus), f"-runs={RUNS}", f"-seed={ROUND}", "-max_len=4096",
            "-timeout=300", "-rss_limit_mb=2048", f"-artifact_prefix={tmp_path}/",
        ],
        cwd=ROOT, capture_output=True, check=False,
    )  # fmt: skip
    said = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == 0, said[-6000:]
    ran = re.search(r"Done (\d+) runs", said)
    assert ran is not None, said[-2000:]
    assert int(ran[1]) >= RUNS, said[-2000:]
