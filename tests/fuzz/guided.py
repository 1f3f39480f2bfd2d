"""``python -m tests.fuzz.guided CORPUS -runs=N``: all targets under atheris, which looks for bytes that reach new lines.

The first byte says which target the rest is for. Ends with 0 when nothing was found; what was found is printed, and is in
the file that libFuzzer names.
"""

from __future__ import annotations

import logging
import sys

import atheris
import structlog

with atheris.instrument_imports(include=["plugin", "ingress", "stackpad"]):
    from tests.fuzz.targets import TARGETS

ORDER = tuple(TARGETS)


def one(data: bytes) -> None:
    """One case."""
    if data:
        TARGETS[ORDER[data[0] % len(ORDER)]](data[1:])


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
