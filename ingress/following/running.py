"""Which web containers run, on this node and on all others: what is known of both, as one.

This node's come from its engine, with their ports asked; those of others from the plugin. What is not known yet is never
taken for gone: :meth:`Running.waiting_for` says for as long as something is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ingress.following.fleet import Fleet
from ingress.following.follower import Follower, View
from ingress.following.patience import Patience
from ingress.following.ready import Ready
from ingress.following.remote import Others, Seen, Words, word
from ingress.following.silent import Silent
from ingress.routes import Problem, State, WebContainer
from ingress.settings import Settings
from stackpad.engine import Engine


class Running:
    """Follows the engine and the plugin; calls ``changed`` when it knows something else."""

    def __init__(self, settings: Settings, engine: Engine, changed: Callable[[], None]) -> None:
        self._settings = settings
        self._ready = Ready(changed)
        self.follower = Follower(engine, settings, changed)
        self.fleet = Fleet(settings.plugin, changed)
        self._others = Others(settings.base_domain)
        self._silent = Silent(changed)
        self._words: Words = {}
        self._elsewhere: list[Problem] = []
        self._slow, self._slow_elsewhere = Patience(), Patience()
        self.nodes: dict[str, str] = {}
        """By upstream, the node of what is up on another one; as of the last :meth:`containers`."""

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Follow, and tell what runs here, until cancelled."""
        tasks.create_task(self.follower.run(), name="follower")
        tasks.create_task(self._ready.run(), name="prober")
        tasks.create_task(self.fleet.run(), name="fleet")
        tasks.create_task(self._silent.run(), name="silent nodes")

    def look(self, tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Follow, and tell nobody anything; for who looks once and does not stay."""
        return [tasks.create_task(one) for one in (self.follower.run(), self._ready.run(), self.fleet.follow())]

    @property
    def view(self) -> View:
        """What this node's engine says."""
        return self.follower.view

    @property
    def seen(self) -> Seen:
        """What this node's plugin says of the cluster."""
        return self.fleet.seen

    @property
    def control(self) -> bool:
        """Whether visitors come in here."""
        return self._settings.role == "control" or (self._settings.role == "auto" and self.seen.control)

    def elsewhere(self) -> str | None:
        """Where visitors come in instead, on a node where they do not."""
        if self.control:
            return None
        names = ", ".join(self.seen.controls()) or "a control node; none is known here"
        return f"visitors do not come in on this node; ask on {names}"

    @property
    def problems(self) -> list[Problem]:
        """Containers whose labels ask for what cannot be, and those that are not getting ready, here and elsewhere."""
        # An engine that does not answer may have had them get ready meanwhile.
        own = [] if self.view.stale else self._slow.problems()
        slow = [*own, *self._slow_elsewhere.problems()]
        return [*self.view.problems.values(), *self._elsewhere, *slow]

    def complete(self) -> bool:
        """Whether it is known what runs here, and what of it takes visitors."""
        return self.view.complete and self._ready.begun(self.view.containers.values())

    def waiting_for(self) -> str | None:
        """Why nothing is to be written yet, if so: what is not known now must not be taken for gone."""
        if not self.view.complete:
            return "the engine has not said yet what runs here"
        if not self._ready.begun(self.view.containers.values()):
            return "the ports of what runs here are being tried"
        if not self.fleet.known.is_set() and self.fleet.plugin_there:
            return "the plugin has not said yet what runs on other nodes, or is not there yet: docker plugin ls"
        return None

    def tell(self, *, proofs: bool) -> None:
        """Tell the other nodes what runs here, and whether ``proofs`` of custom domains are asked for."""
        view = self.view
        ready = self._ready.containers(view.containers.values())
        self._slow.see(ready)
        told = word(ready, view.problems.values(), org=self._settings.org, kept=self._words)
        self.fleet.say(control=self.control, complete=view.complete, stale=view.stale, proofs=proofs, containers=told)

    def containers(self) -> list[WebContainer]:
        """All there are, this node's first; those of other nodes are read anew."""
        others, self._elsewhere = self._others.read(self.seen, self._silent.answers)
        self._slow_elsewhere.see(others)
        self._silent.want(self._others.silent)
        self.nodes = {one.upstream: one.node for one in others if one.state is State.UP}
        return [*self._ready.own(self.view.containers.values(), self.seen.node), *others]

    def leave_others(self) -> None:
        """Forget what is wrong on other nodes, where no visitors come in: nobody looks there for whether it still is."""
        self._elsewhere = []
        self._slow_elsewhere.see(())

    def carried(self) -> dict[str, str]:
        """By upstream, the endpoint by which the kernel knows it; none for one on another node."""
        own = {c.upstream: c.endpoint for c in self.view.containers.values() if c.endpoint}
        return {**dict.fromkeys(self.nodes, ""), **own}
