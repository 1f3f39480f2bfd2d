"""Who has been starting for too long is told; who has just started, or is up, is not."""

from __future__ import annotations

from dataclasses import replace

from ingress.following.patience import PATIENCE, Patience
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
