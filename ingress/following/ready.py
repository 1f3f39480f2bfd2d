"""This node's containers as the table has them: those whose port accepts are up, and each has its node's id.

What has not changed stays the same object: of thousands, only what is another one is worked out anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from ingress.following.health import Prober, Target
from ingress.routes import State, WebContainer

Kept = dict[str, tuple[WebContainer, WebContainer]]
"""By container id, what was given and what was made of it."""


class Ready:
    """Asks the ports of containers that have no health check, and ``changed`` is called when it knows more."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._prober = Prober(changed)
        self._named: Kept = {}
        self._accepted: Kept = {}
        self._waited: set[Target] | None = None

    async def run(self) -> None:
        """Ask until cancelled."""
        await self._prober.run()

    def begun(self, given: Iterable[WebContainer]) -> bool:
        """Whether the ports of all that ran at the start have been tried: until then "not ready" is not known.

        What was started since then is not waited for: one that ends again and again would hold up everybody.
        """
        if self._waited is None or self._waited:
            self.containers(given)
            untried = self._prober.untried
            self._waited = untried if self._waited is None else self._waited & untried
        return not self._waited

    def own(self, given: Iterable[WebContainer], node: str) -> list[WebContainer]:
        """The containers with this node's id."""
        before, self._named = self._named, {}
        for one in self.containers(given):
            there = before.get(one.id)
            if there is None or there[0] is not one or there[1].node != node:
                there = one, replace(one, node=node)
            self._named[one.id] = there
        return [named for _, named in self._named.values()]

    def containers(self, given: Iterable[WebContainer]) -> list[WebContainer]:
        """The containers, with those whose port accepts as up."""
        containers = list(given)
        waiting = [c for c in containers if c.state is State.STARTING and not c.checked]
        targets = {c.id: (c.id, c.started, c.address or "", c.port or 0) for c in waiting}
        self._prober.want(targets.values())
        accepting = self._prober.accepting
        before, self._accepted = self._accepted, {}
        for one in waiting:
            if targets[one.id] in accepting:
                there = before.get(one.id)
                fresh = (one, replace(one, state=State.UP, reason=""))
                self._accepted[one.id] = there if there is not None and there[0] is one else fresh
        if not self._accepted:
            return containers
        return [self._accepted[c.id][1] if c.id in self._accepted else c for c in containers]
