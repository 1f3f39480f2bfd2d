"""Web containers that have been starting for so long that somebody should look: most often the port is another one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from ingress.routes import Problem, State, WebContainer
from stackpad.labels import PORT

PATIENCE = 120.0
"""Seconds for which a container may be starting without being a problem; some that are well take more than a minute."""


class Patience:
    """Remembers since when each container is starting; one that was started again begins anew."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[tuple[str, str], float] = {}
        self._starting: list[WebContainer] = []

    def see(self, containers: Iterable[WebContainer]) -> None:
        """Take these for all there are."""
        now = self._clock()
        self._starting = [one for one in containers if one.state is State.STARTING]
        self._since = {(key := (one.id, one.started)): self._since.get(key, now) for one in self._starting}

    def problems(self) -> list[Problem]:
        """Those that have been starting for longer than :data:`PATIENCE`."""
        until = self._clock() - PATIENCE
        late = [one for one in self._starting if self._since[one.id, one.started] <= until]
        return [Problem(one.id, one.name, _sentence(one), node=one.node) for one in late]


def _sentence(one: WebContainer) -> str:
    return (
        f"{one.reason or 'it is not ready yet'}, for more than {PATIENCE:.0f} s; see docker logs {one.name}; its service "
        f"has to listen on all addresses (0.0.0.0, ::), and the label {PORT} says on which port"
    )
