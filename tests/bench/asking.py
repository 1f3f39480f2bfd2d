"""`python -m tests.bench.asking`: how long Caddy waits for the answer whether it may have a certificate.

The ingress's own server, in a process of its own, with ten thousand hosts; asked one question after the other, over a
connection that stays and over a new one each time. No root needed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import random
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from aiohttp import web

from ingress.app import Ingress
from ingress.settings import Settings
from ingress.web import asked
from stackpad.engine import Engine
from tests.freeport import free_port

HOSTS = 10_000
GOAL = 1000.0
"""Microseconds."""


def host(number: int) -> str:
    """One of those that are served."""
    return f"project-{number}.org-{number % 100}.stackpad.test"


def serve(port: int, state: str) -> None:
    """The ingress as far as it is asked, until killed."""

    async def run() -> None:
        made = Ingress(Settings("stackpad.test", state_dir=Path(state)), cast(Engine, None))
        made._current.known = frozenset(map(host, range(HOSTS)))
        runner = web.AppRunner(asked(made.asked), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run())


def ask(connection: socket.socket, name: str) -> int:
    """The status of the answer."""
    connection.sendall(
        f"GET /ask?domain={name} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: Go-http-client/1.1\r\n\r\n".encode()
    )
    answer = b""
    while b"\r\n\r\n" not in answer:
        part = connection.recv(4096)
        if not part:
            raise RuntimeError("the ingress hung up")
        answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
    while len(body) < length:
        body += connection.recv(4096)
    return int(head.split()[1])


def measured(port: int, names: list[str], status: int, *, anew: bool) -> list[float]:
    """Microseconds of each question, sorted."""
    times = []
    with contextlib.ExitStack() as stack:
        kept = None if anew else stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        for name in names:
            began = time.perf_counter()
            if kept is not None:
                found = ask(kept, name)
            else:
                with socket.create_connection(("127.0.0.1", port)) as connection:
                    found = ask(connection, name)
            times.append((time.perf_counter() - began) * 1e6)
            if found != status:
                raise RuntimeError(f"{name} was answered {found}, not {status}")
    return sorted(times)


def rows(questions: int) -> Iterator[tuple[str, str, str]]:
    """Rows: what, found, goal."""
    port = free_port()
    with tempfile.TemporaryDirectory() as state:
        process = multiprocessing.get_context("spawn").Process(target=serve, args=(port, state))
        process.start()
        try:
            for _ in range(400):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.05)
            chance = random.Random(1)  # noqa: S311 - no secret hangs on it
            known = [host(chance.randrange(HOSTS)) for _ in range(questions)]
            unknown = [f"nobody-{number}.org-1.stackpad.test" for number in range(questions)]
            for what, names, status in (("a host of ours", known, 200), ("a name nobody has", unknown, 404)):
                for how, anew in (("", False), (", over a new connection", True)):
                    times = measured(port, names, status, anew=anew)
                    low, high = times[len(times) // 2], times[len(times) * 99 // 100]
                    verdict = "met" if low < GOAL else "**missed**"
                    found = f"p50 {low:.0f}, p99 {high:.0f}"
                    yield f"asked for {what} at {HOSTS} hosts{how}, µs", found, f"p50 < {GOAL:.0f} {verdict}"
        finally:
            process.terminate()
            process.join()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.asking", description=__doc__)
    parser.add_argument("--questions", type=int, default=2000)
    print("| | found | goal |\n|---|---|---|")
    for row in rows(parser.parse_args().questions):
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
