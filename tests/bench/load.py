"""Requests as fast as they are answered: h2load against a site, over connections that stay and over new ones."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measure import percentile
from tests.testbed.shell import need, run


@dataclass(frozen=True, slots=True)
class Found:
    """Requests per second, and milliseconds that half and 99 of 100 requests took at most."""

    rate: float
    p50: float
    p99: float


def visit(port: int, name: str, seconds: float, *, http: int = 1, clients: int = 16) -> Found:
    """Ask for the page of ``name`` at a port of loopback, over HTTP 1 or 2; raises where a request gets no 200."""
    need("h2load")
    with tempfile.NamedTemporaryFile() as log:
        words = ["--clients", str(clients), "--duration", f"{seconds:.0f}", "--warm-up-time", "1", "--log-file", log.name]
        words += ["--h1"] if http == 1 else ["--max-concurrent-streams", "1"]
        words += [f"--connect-to=127.0.0.1:{port}"]
        said = run("h2load", *words, f"https://{name}:{port}/").stdout
        lines = [line.split("\t") for line in Path(log.name).read_text().splitlines()]
    rate = re.search(r"([\d.]+) req/s", said)
    # What is under way at the end has no status.
    times = sorted(int(took) / 1000 for _, status, took in lines if status == "200")
    if rate is None or not times or not re.search(r" 0 failed, 0 errored, .*\n.* 0 3xx, 0 4xx, 0 5xx", said):
        raise RuntimeError(f"not all visitors of {name} got a page:\n{said}")
    return Found(float(rate[1]), percentile(times, 0.5), percentile(times, 0.99))
