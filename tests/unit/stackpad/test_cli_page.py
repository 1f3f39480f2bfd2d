"""``stackpad page`` between a real browser's side and a real socket."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp import ClientError, ClientSession, web
from typer.testing import CliRunner

from stackpad.cli.app import app
from tests.unit.stackpad.canned import hosted


@pytest.mark.parametrize("listen", ["0.0.0.0:80", "example.org:80", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:70000", ""])
def test_only_loopback(listen: str) -> None:
    done = CliRunner().invoke(app, ["page", "--listen", listen])
    assert done.exit_code == 2
    assert "no loopback address" in done.stderr


def test_no_ingress(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["page", "--socket", str(tmp_path / "none.sock")])
    assert done.exit_code == 3
    assert "is the ingress running, and as new as this command?" in done.stderr


def page() -> web.Application:
    """Says under which name it is asked, and streams without an end."""

    async def root(request: web.Request) -> web.Response:
        return web.Response(text=request.headers["Host"] + "x" * 1_000_000)

    async def events(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first\n")
        await asyncio.sleep(60)
        return response

    made = web.Application()
    made.router.add_get("/", root)
    made.router.add_get("/page.css", root)
    made.router.add_get("/events", events)
    return made


async def visit(url: str, host: str) -> tuple[str, int, bytes]:
    async with ClientSession() as session:
        async with session.get(url, headers={"Host": host}) as answer:
            text = await answer.text()
        async with session.get(f"{url}events") as stream:
            return text[: len(host)], len(text), await stream.content.readline()


def test_a_link_that_the_ingress_puts_there_is_not_followed(tmp_path: Path) -> None:
    """To the engine, say: root would be the one who asks there."""
    with hosted(tmp_path / "engine.sock", page) as other:
        link = tmp_path / "page.sock"
        link.symlink_to(other)
        done = CliRunner().invoke(app, ["page", "--socket", str(link)])
    assert done.exit_code == 3
    assert "it is something else than a socket, and not followed" in " ".join(done.stderr.split())


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with hosted(tmp_path / "page.sock", page) as served, socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        done = CliRunner().invoke(app, ["page", "--listen", listen, "--socket", str(served)])
    assert done.exit_code == 2
    assert f"{listen} cannot be listened at" in done.stderr
    assert "choose another with --listen" in " ".join(done.stderr.split())


@contextmanager
def carried(served: Path) -> Iterator[str]:
    """The URL at which the command shows what is ``served``, until it is told to stop."""
    words = [
        # A shell has what it starts in the background ignore SIGINT, and whatever that starts.
        "env",
        "--default-signal=INT",
        sys.executable,
        "-m",
        "stackpad.cli",
        "page",
        "--listen",
        "127.0.0.1:0",
        "--json",
        "--socket",
        str(served),
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads("".join(process.stdout.readline() for _ in range(3)))["address"]
        finally:
            process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.wait(30) == 0
        assert process.stderr.read() == ""


def test_bytes_are_carried_until_it_is_stopped(tmp_path: Path) -> None:
    with hosted(tmp_path / "page.sock", page) as served, carried(served) as url:
        assert url.startswith("http://127.0.0.1:")
        # The name is the browser's word, for the ingress to judge.
        assert asyncio.run(visit(url, "evil.example")) == ("evil.example", 1_000_012, b"first\n")


def test_nor_is_a_link_that_is_put_there_while_it_runs(tmp_path: Path) -> None:
    place = tmp_path / "page.sock"
    with hosted(place, page), hosted(tmp_path / "engine.sock", page) as other, carried(place) as url:
        assert asyncio.run(visit(url, "localhost"))[2] == b"first\n"
        place.rename(tmp_path / "away.sock")
        place.symlink_to(other)
        with pytest.raises(ClientError):
            asyncio.run(visit(url, "localhost"))
        place.unlink()
        (tmp_path / "away.sock").rename(place)
        assert asyncio.run(visit(url, "localhost"))[2] == b"first\n"
