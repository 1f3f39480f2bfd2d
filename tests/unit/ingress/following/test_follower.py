"""Following an engine: what lists and events make of each other, in every order they can come in.

The engine here is a script, so that a test can say what comes when; the real one is in tests/e2e.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from ingress.following import follower as module
from ingress.following.follower import Follower
from ingress.routes import State
from ingress.settings import Settings
from stackpad.engine import RESYNC, Engine, Event, Resync
from stackpad.errors import NotFound, Unavailable
from tests.unit.ingress.following.test_containers import NET, inspected

SETTINGS = Settings("stackpad.test", org="acme")


class Script:
    """An engine: what it lists is what it has, and events come when a test says so."""

    def __init__(self) -> None:
        self.have: dict[str, dict[str, Any]] = {}
        self.broken = False
        self.inspections: list[str] = []
        self.slow: dict[str, asyncio.Event] = {}
        self.options: dict[str, Any] = {"Options": {}}
        self.queue: asyncio.Queue[Event | Resync] = asyncio.Queue()
        self.filters: dict[str, Any] = {}

    def put(self, container_id: str, **changes: Any) -> None:
        raw = inspected(**{"Config__Labels": {"stackpad.type": "web", "stackpad.port": "80"}, **changes})
        self.have[container_id] = {**raw, "Id": container_id, "Name": f"/{container_id}"}

    async def containers(self) -> list[dict[str, Any]]:
        self._check()
        return [
            {
                "Id": raw["Id"],
                "Names": [raw["Name"]],
                "State": "running" if raw["State"]["Running"] else "exited",
                "Status": f"Up 3 seconds ({raw['State'].get('Health', {}).get('Status')})",
                "Labels": raw["Config"]["Labels"],
                "NetworkSettings": raw["NetworkSettings"],
            }
            for raw in self.have.values()
        ]

    async def networks(self) -> list[dict[str, Any]]:
        self._check()
        return [{"Id": NET, "Name": "my-app-production", "Driver": "stackpad", **self.options}]

    async def inspect(self, container_id: str) -> dict[str, Any]:
        self._check()
        self.inspections.append(container_id)
        found = copy.deepcopy(self.have.get(container_id))
        if container_id in self.slow:
            await self.slow[container_id].wait()
        if found is None:
            raise NotFound(container_id)
        return found

    async def events(self, filters: dict[str, Any]) -> AsyncIterator[Event | Resync]:
        self.filters = filters
        while True:
            yield await self.queue.get()

    def say(self, action: str, container_id: str, kind: str = "container", **attributes: str) -> None:
        given = {"stackpad.type": "web"} if kind == "container" else {}
        actor = container_id if kind == "container" else NET
        detail = attributes.pop("detail", "")
        self.queue.put_nowait(Event(kind, action, detail, actor, {**given, **attributes}))

    def _check(self) -> None:
        if self.broken:
            raise Unavailable("no engine")


class Case:
    """A follower of a script, and how often it said that something changed."""

    def __init__(self) -> None:
        self.engine = Script()
        self.changes = 0
        self.follower = Follower(cast(Engine, self.engine), SETTINGS, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def states(self) -> dict[str, State]:
        return {key: found.state for key, found in self.follower.view.containers.items()}

    async def until(self, condition: Callable[[], bool]) -> None:
        """Until it comes true, however slow the machine; for ever, if it does not."""
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 - nobody announces it
                await asyncio.sleep(0.01)

    async def settle(self) -> None:
        """Until everything said was taken."""
        for _ in range(50):
            await asyncio.sleep(0)
        assert self.engine.queue.empty()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self.follower.run())
            self.engine.queue.put_nowait(RESYNC)
            await self.settle()
            yield
            task.cancel()


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setattr(module, "GONE_AFTER", 0.5)
    return Case()


HEALTHY = {"Running": True, "Health": {"Status": "healthy"}}


async def test_what_is_there_and_what_comes_and_goes(case: Case) -> None:
    case.engine.put("a", State=HEALTHY)
    async with case.running():
        assert case.states() == {"a": State.UP}
        case.engine.put("b")
        case.engine.say("start", "b")
        await case.settle()
        assert case.states() == {"a": State.UP, "b": State.STARTING}
        case.engine.put("b", State={"Running": True, "Health": {"Status": "unhealthy"}})
        case.engine.say("health_status", "b", detail="unhealthy")
        await case.settle()
        assert case.states()["b"] is State.UNHEALTHY
        case.engine.say("pause", "a")
        await case.settle()
        assert case.states()["a"] is State.DOWN
        case.engine.say("unpause", "a")
        await case.settle()
        assert case.states()["a"] is State.UP
        case.engine.say("die", "a")
        await case.settle()
        assert case.states()["a"] is State.DOWN
        del case.engine.have["a"]
        case.engine.say("destroy", "a")
        await case.settle()
        assert case.states()["a"] is State.DOWN, "its name is kept for a moment"
        await case.until(lambda: case.states().keys() == {"b"})


async def test_only_events_that_matter_are_asked_for(case: Case) -> None:
    async with case.running():
        assert case.engine.filters["type"] == ["container", "network"]
        assert {"start", "die", "health_status", "connect"} <= set(case.engine.filters["event"])
        assert not [name for name in case.engine.filters["event"] if name.startswith("exec")]


async def test_an_event_during_a_list_is_not_undone_by_it(case: Case) -> None:
    case.engine.put("a", State=HEALTHY)
    async with case.running():
        case.engine.put("a", State=HEALTHY, NetworkSettings__Networks={"x": {"NetworkID": NET, "IPAddress": "10.0.0.9"}})
        case.engine.slow["a"] = asyncio.Event()
        listing = asyncio.ensure_future(case.follower._take(RESYNC))
        await asyncio.sleep(0)
        case.engine.put("new", State=HEALTHY)
        case.engine.say("start", "new")
        await case.settle()
        assert case.states() == {"a": State.UP}, "the list is still under way"
        case.engine.slow["a"].set()
        await listing
        await case.settle()
        assert case.states() == {"a": State.UP, "new": State.UP}


async def test_an_engine_that_cannot_be_asked_has_not_lost_anything(case: Case) -> None:
    case.engine.put("a", State=HEALTHY)
    async with case.running():
        case.engine.broken = True
        case.engine.queue.put_nowait(RESYNC)
        case.engine.say("start", "a")
        case.engine.say("connect", "a", kind="network", container="a")
        await case.settle()
        assert (case.states(), case.follower.view.stale) == ({"a": State.UP}, True)
        case.engine.broken = False
        case.engine.queue.put_nowait(RESYNC)
        await case.settle()
        assert (case.states(), case.follower.view.stale) == ({"a": State.UP}, False)


async def test_nothing_is_known_before_the_first_list(case: Case) -> None:
    case.engine.broken = True
    async with case.running():
        assert not case.follower.view.complete
        assert case.follower.view.stale


async def test_what_went_unseen_is_dropped_by_a_list_after_a_moment(case: Case) -> None:
    case.engine.put("a", State=HEALTHY)
    case.engine.put("bad", Config__Labels={"stackpad.type": "web", "stackpad.port": "x"})
    async with case.running():
        assert case.follower.view.problems.keys() == {"bad"}
        case.engine.have.clear()
        case.engine.queue.put_nowait(RESYNC)
        await case.settle()
        assert case.states() == {"a": State.DOWN}
        assert not case.follower.view.problems
        await case.until(lambda: not case.states())


async def test_a_list_looks_only_at_what_changed(case: Case) -> None:
    for name in ("a", "b", "c"):
        case.engine.put(name, State=HEALTHY)
    async with case.running():
        case.engine.inspections.clear()
        before = case.changes
        case.engine.put("b", State={"Running": True, "Health": {"Status": "unhealthy"}})
        case.engine.queue.put_nowait(RESYNC)
        await case.settle()
        assert case.engine.inspections == ["b"]
        assert case.changes == before + 1
        case.engine.queue.put_nowait(RESYNC)
        await case.settle()
        assert (case.engine.inspections, case.changes) == (["b"], before + 1)


async def test_what_was_read_through_an_older_engine_view_is_read_again_through_a_newer_one(case: Case) -> None:
    case.engine.options = {}
    case.engine.put("a", State=HEALTHY)
    async with case.running():
        assert case.follower.view.containers["a"].apart is None
        case.engine.options = {"Options": {"stackpad.environment": "shop"}}
        case.engine.queue.put_nowait(RESYNC)
        await case.settle()
        assert case.follower.view.containers["a"].apart == "shop"


@pytest.mark.parametrize(
    ("own", "signal", "leaves"),
    [("", "15", True), ("", "9", True), ("", "3", False), ("SIGQUIT", "3", True), ("", "1", False), ("", "28", False)],
)
async def test_who_is_asked_to_stop_gets_nothing_new(case: Case, own: str, signal: str, leaves: bool) -> None:
    case.engine.put("a", State=HEALTHY, Config__StopSignal=own)
    async with case.running():
        case.engine.say("kill", "a", signal=signal)
        case.engine.say("health_status", "a", detail="healthy")
        case.engine.queue.put_nowait(RESYNC)
        await case.settle()
        assert case.states() == {"a": State.DOWN if leaves else State.UP}


async def test_one_that_did_not_mean_to_stop_comes_back(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAVING_FOR", 0.05)
    case.engine.put("a", State=HEALTHY)
    async with case.running():
        case.engine.say("kill", "a", signal="15")
        await case.settle()
        assert case.states() == {"a": State.DOWN}
        await asyncio.sleep(0.1)
        case.engine.queue.put_nowait(RESYNC)
        await case.settle()
        assert case.states() == {"a": State.UP}


async def test_one_that_was_started_again_is_asked_again(case: Case) -> None:
    case.engine.put("a", State=HEALTHY)
    async with case.running():
        for action, attributes in (("kill", {"signal": "15"}), ("die", {}), ("stop", {}), ("start", {}), ("restart", {})):
            case.engine.say(action, "a", **attributes)
        await case.settle()
        assert case.states() == {"a": State.UP}


async def test_one_that_its_engine_has_started_again_unheard(case: Case) -> None:
    """An engine that is restarted ends all containers and starts them before it can be listened to again."""
    case.engine.put("a", State={**HEALTHY, "StartedAt": "2026-01-01T00:00:00Z"})
    async with case.running():
        case.engine.say("kill", "a", signal="15")
        await case.settle()
        assert case.states() == {"a": State.DOWN}
        case.engine.put("a", State={**HEALTHY, "StartedAt": "2026-01-01T00:00:09Z"})
        case.engine.queue.put_nowait(RESYNC)
        await case.settle()
        assert case.states() == {"a": State.UP}


async def test_one_that_its_engine_has_ended_and_started_again_unheard(case: Case) -> None:
    """The list shows it as it was but for its endpoint, which is what visitors are sent to."""
    networks = {"x": {"NetworkID": NET, "EndpointID": "e1" * 32, "IPAddress": "10.0.0.2"}}
    case.engine.put("a", State={"Running": True, "StartedAt": "2026-01-01T00:00:00Z"}, NetworkSettings__Networks=networks)
    async with case.running():
        assert case.follower.view.containers["a"].endpoint == "e1" * 32
        networks = {"x": {**networks["x"], "EndpointID": "e2" * 32}}
        case.engine.put(
            "a", State={"Running": True, "StartedAt": "2026-01-01T00:00:09Z"}, NetworkSettings__Networks=networks
        )
        case.engine.queue.put_nowait(RESYNC)
        await case.settle()
        found = case.follower.view.containers["a"]
        assert (found.endpoint, found.started) == ("e2" * 32, "2026-01-01T00:00:09Z")


async def test_connecting_and_disconnecting(case: Case) -> None:
    case.engine.put("a", State=HEALTHY, NetworkSettings__Networks={})
    async with case.running():
        assert "no network of ours" in case.follower.view.problems["a"].text
        case.engine.put("a", State=HEALTHY)
        case.engine.say("connect", "a", kind="network", container="a")
        await case.settle()
        assert case.states() == {"a": State.UP}
        assert not case.follower.view.problems
        case.engine.put("a", State=HEALTHY, NetworkSettings__Networks={})
        case.engine.say("disconnect", "a", kind="network", container="a")
        await case.settle()
        assert not case.states()


async def test_typing_errors_are_told_and_strangers_are_not_looked_at(case: Case) -> None:
    case.engine.put("typo", Config__Labels={"stackpad.tpye": "web"})
    case.engine.put("stranger", Config__Labels={"traefik.enable": "true"})
    case.engine.put("db", Config__Labels={"stackpad.type": "database"})
    async with case.running():
        assert not case.states()
        assert case.follower.view.problems.keys() == {"typo"}
        assert "stranger" not in case.engine.inspections
