"""An engine's events in any order, of containers that say anything: what is followed agrees with a list in the end."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.following import containers
from ingress.routes import Problem, WebContainer
from stackpad import labels
from stackpad.engine import RESYNC
from tests.fuzz.sandbox import sentence
from tests.fuzz.test_grammar import FEW, LABEL_VALUES, TEXT, TIMES
from tests.unit.ingress.following.test_containers import AROUND
from tests.unit.ingress.following.test_follower import Case

IDS = ("a", "b", "c")
ACTIONS = (
    "start", "restart", "unpause", "pause", "kill", "stop", "die", "destroy", "rename", "health_status", "connect",
    "disconnect", "nonsense", "",
)  # fmt: skip
LABELS = st.fixed_dictionaries({}, optional={**LABEL_VALUES, "com.docker.compose.service": TEXT, "other": TEXT})
STATES = st.fixed_dictionaries(
    {"Running": st.booleans()},
    optional={
        "Paused": st.booleans(),
        "Restarting": st.booleans(),
        "Health": st.fixed_dictionaries({"Status": st.sampled_from(["healthy", "unhealthy", "starting", "", "x"])}),
    },
)
PUT = st.tuples(st.just("put"), st.sampled_from(IDS), LABELS | st.none(), STATES, TEXT)
SAY = st.tuples(
    st.just("say"),
    st.sampled_from(ACTIONS),
    st.sampled_from((*IDS, "gone", "")),
    st.sampled_from(["15", "9", "3", "²", ""]),
)
DROP = st.tuples(st.just("drop"), st.sampled_from(IDS))
BREAK = st.tuples(st.just("break"), st.booleans())


@settings(FEW, max_examples=60 * TIMES)
@given(st.lists(PUT | SAY | SAY | DROP | BREAK, max_size=25))
def test_events_in_any_order(steps: list[tuple[object, ...]]) -> None:
    async def run() -> None:
        case = Case()
        async with case.running():
            for step in steps:
                _step(case, step)
            case.engine.broken = False
            case.engine.queue.put_nowait(RESYNC)
            await case.settle()
            view = case.follower.view
            assert (view.complete, view.stale) == (True, False)
            for container_id, raw in case.engine.have.items():
                given = raw["Config"]["Labels"] or {}
                found = containers.read(raw, AROUND) if labels.concerns(given) else None
                if isinstance(found, WebContainer):
                    assert view.containers[container_id].request == found.request
                elif isinstance(found, Problem):
                    assert view.problems[container_id] == found
                    sentence(found.text)
                else:
                    assert container_id not in view.problems
        assert len(asyncio.all_tasks()) == 1, "a task is left"

    asyncio.run(run())


def _step(case: Case, step: tuple[object, ...]) -> None:
    match step:
        case ("put", str(container_id), given, dict(state), str(name)):
            case.engine.put(container_id, Config__Labels=given, State={"StartedAt": "", **state})
            case.engine.have[container_id]["Name"] = f"/{name}"
        case ("say", str(action), str(container_id), str(signal)):
            kind = "network" if action in {"connect", "disconnect"} else "container"
            case.engine.say(action, container_id, kind, signal=signal, container=container_id)
        case ("drop", str(container_id)):
            case.engine.have.pop(container_id, None)
        case ("break", bool(broken)):
            case.engine.broken = broken
        case _:
            pytest.fail(f"no such step: {step}")
