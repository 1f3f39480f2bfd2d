"""Web containers that have been in trouble for so long that somebody should look.

They are starting (most often the port is another one), their health check fails, or they end and are started again and
again. Who was stopped is none of them. One that restarts is for moments up, or down without a sign of being started
again: the list of containers, which shows it, is read every half a minute. Neither ends the time that counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ingress.following.containers import ASKED_TO_STOP, RESTARTING
from ingress.routes import Problem, State, WebContainer
from stackpad.labels import PORT

PATIENCE = 120.0
"""Seconds for which a container may be starting without being a problem; some that are well take more than a minute."""

PAUSE = 60.0
"""Seconds for which one that restarts may look otherwise. The engine waits for as long, at most, before it starts one."""


@dataclass(frozen=True, slots=True)
class _Trouble:
    """A container in trouble: since when, whether it restarts by itself, and since when it looks otherwise."""

    one: WebContainer
    since: float
    loops: bool
    otherwise: float | None = None


class Patience:
    """Remembers since when each container is in trouble; one that somebody has started again begins anew."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._troubles: dict[str, _Trouble] = {}

    def see(self, containers: Iterable[WebContainer]) -> None:
        """Take these for all there are."""
        now, before = self._clock(), self._troubles
        found = ((one.id, _trouble(one, before.get(one.id), now)) for one in containers)
        self._troubles = {key: trouble for key, trouble in found if trouble is not None}

    def problems(self) -> list[Problem]:
        """Those that have been in trouble for longer than :data:`PATIENCE`."""
        now = self._clock()
        late = [trouble for trouble in self._troubles.values() if trouble.since <= now - PATIENCE]
        return [Problem(t.one.id, t.one.name, _sentence(t), node=t.one.node) for t in late if not _over(t, now)]


def _trouble(one: WebContainer, before: _Trouble | None, now: float) -> _Trouble | None:
    """What a container is in, given what it was in when it was seen last; ``None`` for nothing."""
    if before is not None and _over(before, now):
        before = None
    restarting = one.reason == RESTARTING
    if restarting or one.state in {State.STARTING, State.UNHEALTHY}:
        if before is None or not (restarting or before.loops or before.one.started == one.started):
            return _Trouble(one, now, restarting)
        return _Trouble(one, before.since, before.loops or restarting)
    if before is None or not before.loops or one.reason == ASKED_TO_STOP:
        return None
    return replace(before, one=one, otherwise=now if before.otherwise is None else before.otherwise)


def _over(trouble: _Trouble, now: float) -> bool:
    return trouble.otherwise is not None and trouble.otherwise < now - PAUSE


def _sentence(trouble: _Trouble) -> str:
    one, long = trouble.one, f"for more than {PATIENCE:.0f} s"
    if trouble.loops:
        return f"it ends and is started again, {long}; see docker logs {one.name}"
    if one.state is State.UNHEALTHY:
        return (
            f"{one.reason or 'it is unhealthy'}, and it has not been ready {long}; see docker logs {one.name}, and what "
            f"the check says: docker inspect --format '{{{{json .State.Health}}}}' {one.name}"
        )
    return (
        f"{one.reason or 'it is not ready yet'}, {long}; see docker logs {one.name}; its service "
        f"has to listen on all addresses (0.0.0.0, ::), and the label {PORT} says on which port"
    )
