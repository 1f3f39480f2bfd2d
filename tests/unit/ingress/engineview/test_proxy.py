"""The view between a client and an engine, on real sockets; the engine here is a script, the real one is in tests/e2e."""

from __future__ import annotations

import asyncio
import contextlib
import json
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from ingress.engineview import proxy
from ingress.engineview.__main__ import Settings
from stackpad.engine import RESYNC, Engine, Event, Resync
from stackpad.errors import InvalidRequest, NotFound, Unavailable
from tests.unit.ingress.following.test_containers import ID, NET, inspected

HIDDEN = "hunter2"
ATTRIBUTES = {"stackpad.type": "web", "signal": "15", "image": HIDDEN}


class Script:
    """What answers as an engine does, and keeps what it was asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.events: asyncio.Queue[bytes] = asyncio.Queue()
        self.hearing = 0
        self.silent = False

    @contextlib.asynccontextmanager
    async def runs(self) -> AsyncIterator[None]:
        runner = web.ServerRunner(web.Server(self._answer, handler_cancellation=True), shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, str(self.path)).start()
        try:
            yield
        finally:
            await runner.cleanup()
            self.path.unlink(missing_ok=True)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.raw_path}")
        self.headers.append(dict(request.headers))
        path = "/" + "/".join(part for part in request.path.split("/") if part and not part.startswith("v1."))
        if self.silent:
            await asyncio.sleep(3600)
        if path == "/events":
            return await self._tell(request)
        raw = inspected()
        raw["Config"]["Env"] = [f"PASSWORD={HIDDEN}"]
        listed = {"Id": ID, "Names": ["/web-1"], "Labels": raw["Config"]["Labels"], "Command": HIDDEN}
        answers: dict[str, Any] = {
            "/version": {"Version": "28.5.2", "ApiVersion": "1.51", "KernelVersion": HIDDEN},
            "/info": {"Name": "n1", "HttpProxy": HIDDEN},
            "/networks": [{"Id": NET, "Name": "my-app-production", "Driver": "stackpad", "Options": {"a": HIDDEN}}],
            "/containers/json": [listed, {"Id": "d" * 64, "Labels": {}, "Command": HIDDEN}],
            f"/containers/{ID}/json": raw,
        }
        if path == "/_ping":
            return web.Response(text="OK", headers={"Api-Version": "1.51"})
        if path not in answers:
            return web.json_response({"message": f"No such container: {path}"}, status=404)
        return web.json_response(answers[path])

    async def _tell(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        self.hearing += 1
        try:
            while True:
                await response.write(await self.events.get())
        finally:
            self.hearing -= 1


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path / "docker.sock")


@contextlib.asynccontextmanager
async def shown(script: Script) -> AsyncIterator[Path]:
    """The view's socket, while it is served."""
    path, stop = script.path.with_name("run") / "engine.sock", asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(proxy.serve(script.path, path, stop))
        await until(path.exists)
        try:
            yield path
        finally:
            stop.set()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what is asked has no event
            await asyncio.sleep(0.005)


async def say(path: Path, request: str) -> tuple[int, str]:
    """Status and body of whatever is said; the connection ends with the answer."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(request.encode())
    answer = (await reader.read()).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), body


async def test_an_ingress_reads_what_it_reads_of_the_engine_itself(script: Script) -> None:
    async with script.runs(), shown(script) as path, Engine(f"unix://{path}") as view:
        assert await view.version() == "28.5.2"
        assert await view.host_name() == "n1"
        assert await view.networks() == [{"Id": NET, "Name": "my-app-production", "Driver": "stackpad", "Options": {}}]
        (listed,) = await view.containers({"status": "running"})
        assert (listed["Id"], listed["Names"]) == (ID, ["/web-1"])
        found = await view.inspect(ID)
        assert found["Config"]["Labels"]["stackpad.type"] == "web"
        assert HIDDEN not in json.dumps([listed, found])
        with pytest.raises(NotFound, match="No such container"):
            await view.inspect("e" * 64)
    assert all(one.startswith("GET ") for one in script.asked)
    own = {"Host", "Accept", "Accept-Encoding", "Connection", "User-Agent"}
    assert {name for headers in script.headers for name in headers} <= own


async def test_it_pings_with_and_without_a_body(script: Script) -> None:
    async with script.runs(), shown(script) as path:
        assert await say(path, "GET /_ping HTTP/1.1\r\nHost: a\r\n\r\n") == (200, "OK")
        assert await say(path, "HEAD /_ping HTTP/1.1\r\nHost: a\r\n\r\n") == (200, "")


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ("POST /v1.41/containers/create HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}", "/v1.41/containers/create"),
        (f"POST /containers/{ID}/start HTTP/1.1\r\nHost: a\r\n\r\n", f"POST /containers/{ID}/start"),
        (f"DELETE /containers/{ID} HTTP/1.1\r\nHost: a\r\n\r\n", f"DELETE /containers/{ID}"),
        (f"POST /containers/{ID}/json HTTP/1.1\r\nHost: a\r\n\r\n", f"POST /containers/{ID}/json"),
        ("GET /containers/../images/json HTTP/1.1\r\nHost: a\r\n\r\n", "GET /containers/../images/json"),
        ("GET /containers/%2e%2e/json HTTP/1.1\r\nHost: a\r\n\r\n", "GET /containers/%2e%2e/json"),
        (f"GET /containers/{ID}/archive?path=/ HTTP/1.1\r\nHost: a\r\n\r\n", f"GET /containers/{ID}/archive"),
        ("GET http://docker/info HTTP/1.1\r\nHost: a\r\n\r\n", "GET http://docker/info"),
        ("GET /info HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}", "it has a body"),
        ("GET /info HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "it has a body"),
        ("GET /info HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", "asks for another protocol"),
        ("POST /session HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", "POST /session"),
        ("GET /info?x=y HTTP/1.1\r\nHost: a\r\n\r\n", "GET /info"),
    ],
)  # fmt: skip
async def test_everything_else_is_refused_and_the_engine_hears_nothing(script: Script, request_: str, words: str) -> None:
    async with script.runs(), shown(script) as path:
        status, body = await say(path, request_)
        assert status == 403
        assert words in json.loads(body)["message"]
        assert script.asked == []


@pytest.mark.parametrize(
    "request_",
    [
        "nonsense\r\n\r\n", "GET /info HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET /info\x00 HTTP/1.1\r\nHost: a\r\n\r\n", "GET /info HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET /in fo HTTP/1.1\r\nHost: a\r\n\r\n",
        f"GET /{'a' * 10000} HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)  # fmt: skip
async def test_what_is_no_request_is_none_for_the_engine(script: Script, request_: str) -> None:
    async with script.runs(), shown(script) as path:
        status, _ = await say(path, request_)
        assert status == 400
        assert script.asked == []


async def test_a_connection_is_for_one_request(script: Script) -> None:
    async with script.runs(), shown(script) as path:
        second = "POST /containers/create HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
        both = f"GET /info HTTP/1.1\r\nHost: a\r\n\r\n{second}"
        assert await say(path, both) == (200, '{"Name":"n1"}')
        assert script.asked == ["GET /info"]


async def test_an_engine_that_is_away_is_told_and_asked_again(script: Script) -> None:
    async with shown(script) as path, Engine(f"unix://{path}") as view:
        assert (await say(path, "GET /info HTTP/1.1\r\nHost: a\r\n\r\n"))[0] == 503
        for _ in range(2):
            with pytest.raises(Unavailable, match=f"the Docker engine at {script.path} does not answer"):
                await view.networks()
            async with script.runs():
                assert len(await view.networks()) == 1


async def test_an_engine_that_says_nothing_is_not_waited_for(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "ANSWER", 0.05)
    script.silent = True
    async with script.runs(), shown(script) as path:
        status, body = await say(path, "GET /info HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (status, "does not answer" in body) == (503, True)


async def test_events_come_as_they_are_told_and_go_on_with_the_next_engine(script: Script) -> None:
    async with shown(script) as path, Engine(f"unix://{path}") as view:
        stream = view.events({"type": ["container", "network"], "event": ["kill"]})
        heard: list[Event | Resync] = []
        for number in range(2):
            async with script.runs(), asyncio.timeout(30):
                while not heard or heard[-1] is not RESYNC or script.hearing == 0:
                    heard.append(await anext(stream))
                told = {"Type": "container", "Action": "kill", "Actor": {"ID": str(number), "Attributes": ATTRIBUTES}}
                line = json.dumps(told).encode()
                other = json.dumps({**told, "Action": f"exec_create: mysql -p{HIDDEN}"}).encode()
                # In pieces, and two at once: what comes together says nothing.
                for part in (other + b"\n" + line[:40], line[40:] + b"\n" + line + b"\n"):
                    script.events.put_nowait(part)
                for _ in range(2):
                    event = await anext(stream)
                    while event is RESYNC:
                        event = await anext(stream)
                    assert isinstance(event, Event)
                    assert (event.action, event.id) == ("kill", str(number))
                    assert event.attributes == {"stackpad.type": "web", "signal": "15"}
            heard.clear()
        await stream.aclose()  # type: ignore[attr-defined]


async def test_who_leaves_takes_what_was_asked_for_him(script: Script) -> None:
    async with script.runs(), shown(script) as path:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b" 200 " in await reader.readline()
        await until(lambda: script.hearing == 1)
        writer.close()
        await until(lambda: script.hearing == 0)


async def test_an_event_that_is_too_long_is_left_out_and_those_after_it_are_not(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever starts containers says how long their labels are."""
    monkeypatch.setattr(proxy, "LONGEST_EVENT", 1000)
    told = {"Type": "container", "Action": "kill", "Actor": {"ID": "7", "Attributes": {"stackpad.type": "web"}}}
    line = json.dumps(told).encode() + b"\n"
    async with script.runs(), shown(script) as path:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b" 200 " in await reader.readline()
        for part in (line, HIDDEN.encode() * 500, HIDDEN.encode() * 500, b'"}\n' + line.replace(b'"7"', b'"8"')):
            script.events.put_nowait(part)
        async with asyncio.timeout(30):
            said = await reader.readuntil(b'"ID":"8"')
        assert b'"ID":"7"' in said
        assert HIDDEN.encode() not in said
        writer.close()


async def test_there_are_so_many_connections_and_no_more(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "MOST", 2)
    async with script.runs(), shown(script) as path:
        held = [await asyncio.open_unix_connection(path) for _ in range(2)]
        status, body = await say(path, "GET /info HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (status, "2 connections to the view are open already" in body) == (503, True)
        assert script.asked == []
        held[0][1].close()

        async def answered() -> bool:
            return (await say(path, "GET /info HTTP/1.1\r\nHost: a\r\n\r\n"))[0] == 200

        async with asyncio.timeout(30):
            while not await answered():  # noqa: ASYNC110 - what is asked has no event
                await asyncio.sleep(0.01)
        held[1][1].close()


async def test_only_root_may_ask_and_the_name_goes_with_the_view(script: Script) -> None:
    async with shown(script) as path:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert not path.exists()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"DOCKER_HOST": "tcp://127.0.0.1:2375"}, "DOCKER_HOST"), ({"DOCKER_HOST": "unix://docker.sock"}, "DOCKER_HOST"),
        ({"VIEW_SOCKET": "engine.sock"}, "VIEW_SOCKET"), ({"VIEW_SOCKET": "/run/docker.sock"}, "VIEW_SOCKET"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_meant(environment: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        Settings.load(environment)


def test_settings_have_defaults() -> None:
    found = Settings.load({})
    assert (found.engine, found.socket) == (Path("/run/docker.sock"), Path("/run/stackpad/engine.sock"))
