"""Who has been in trouble for too long is told; who has just started, is up, or was stopped, is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ingress.following.containers import ASKED_TO_STOP, RESTARTING
from ingress.following.patience import PATIENCE, PAUSE, Patience
from ingress.routes import State, WebContainer
from stackpad.labels import web

SLOW = WebContainer(
    id="c" * 64,
    name="web",
    request=web({"stackpad.type": "web"}, name="web", network="my-app", org="acme", base_domain="stackpad.test"),
    address="10.192.0.2",
    port=8080,
    state=State.STARTING,
    since=0.0,
    started="2026-11-29T10:00:00Z",
    reason="nothing accepts on its port 8080 yet",
)


SICK = replace(SLOW, state=State.UNHEALTHY, reason="its health check fails")
AGAIN = replace(SLOW, state=State.DOWN, reason=RESTARTING, address=None)
ENDED = replace(AGAIN, reason="it is not running")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_one_that_never_listens_is_told_after_a_while() -> None:
    clock = Clock()
    patience = Patience(clock)
    patience.see([SLOW])
    clock.now += PATIENCE - 1
    patience.see([SLOW])
    assert patience.problems() == []
    clock.now += 1
    [problem] = patience.problems()
    assert (problem.container, problem.name) == (SLOW.id, "web")
    assert problem.text.startswith("nothing accepts on its port 8080 yet, for more than 120 s; ")
    assert "stackpad.port" in problem.text


def test_one_that_is_up_gone_or_started_again_is_not() -> None:
    clock = Clock()
    patience = Patience(clock)
    for now in ([replace(SLOW, state=State.UP)], [], [replace(SLOW, started="2026-11-29T10:01:00Z")]):
        patience.see([SLOW])
        clock.now += PATIENCE
        patience.see(now)
        assert patience.problems() == []
        patience.see([])


def test_one_that_is_unhealthy_is_told_after_as_long() -> None:
    clock = Clock()
    patience = Patience(clock)
    for one in (SLOW, SICK):
        patience.see([one])
        clock.now += PATIENCE / 2
        assert bool(patience.problems()) is (one is SICK)
    (problem,) = patience.problems()
    assert problem.text.startswith("its health check fails, and it has not been ready for more than 120 s; ")
    assert problem.text.endswith("docker inspect --format '{{json .State.Health}}' web")
    patience.see([replace(SICK, state=State.UP, reason="")])
    assert patience.problems() == []


@pytest.mark.parametrize("node", ["", "n2"])
def test_one_that_ends_again_and_again_is_told_whatever_it_is_at_the_moment(node: str) -> None:
    """Each start has its own time; of another node's containers that is not known."""
    clock = Clock()
    patience = Patience(clock)
    for number in range(8):
        started = "" if node else f"2026-11-29T10:0{number}:00Z"
        for one in (SLOW, replace(SLOW, state=State.UP, reason=""), ENDED, AGAIN):
            patience.see([replace(one, started=started, node=node)])
            texts = [problem.text for problem in patience.problems()]
            # It is known to restart from the first time on that the engine says so.
            told = clock.now >= 1015.0 + PATIENCE
            assert texts == (["it ends and is started again, for more than 120 s; see docker logs web"] if told else [])
            clock.now += 5.0


def test_one_that_stays_up_after_all_begins_anew() -> None:
    clock = Clock()
    patience = Patience(clock)
    up = replace(SLOW, state=State.UP, reason="")
    patience.see([AGAIN])
    clock.now += PATIENCE
    patience.see([up])
    clock.now += PAUSE + 1
    patience.see([AGAIN])
    assert patience.problems() == []


def test_who_was_stopped_is_no_problem() -> None:
    clock = Clock()
    patience = Patience(clock)
    patience.see([ENDED])
    clock.now += PATIENCE
    assert patience.problems() == []
    for ending, after in ((replace(ENDED, reason=ASKED_TO_STOP), 0.0), (ENDED, PAUSE + 1)):
        patience.see([AGAIN])
        clock.now += PATIENCE
        assert len(patience.problems()) == 1
        patience.see([ending])
        clock.now += after
        assert patience.problems() == []
        patience.see([])
