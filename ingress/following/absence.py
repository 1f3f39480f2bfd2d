"""Whether there is a plugin to wait for, by what is seen of its socket; pure.

One that starts, or is upgraded, has no socket for a moment, and an older one has it where a newer ingress does not
see it. Who takes either for "there is none" takes what runs on all other nodes out of Caddy.
"""

from __future__ import annotations

PATIENCE = 30.0
"""Seconds for which there may be no socket in its directory, before it is taken that there is no plugin."""


class Absence:
    """What was seen of the socket so far; times are of one clock that never goes back."""

    def __init__(self) -> None:
        self._since: float | None = None

    def waits(self, *, socket: bool, directory: bool, now: float) -> bool:
        """Whether there is a plugin, or may be one soon: its ``directory`` is there, and the ``socket`` was not for long.

        Without the directory there is none: nobody has mounted it, or has the plugin on this node.
        """
        if socket:
            self._since = None
            return True
        if self._since is None:
            self._since = now
        return directory and now - self._since < PATIENCE
