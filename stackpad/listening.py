"""Which of two names a socket has: its own, or that which it had in earlier versions."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Place:
    """Where a socket is; ``older`` is where an earlier version listens, whose name a process that was killed leaves."""

    path: Path
    older: Path | None = None

    @property
    def now(self) -> Path:
        """The one to connect to: ``older`` only where somebody listens there, and nobody at ``path``."""
        if self.older is None or not os.path.exists(self.older) or answers(self.path) or not answers(self.older):
            return self.path
        return self.older


def answers(path: Path) -> bool:
    """Whether somebody listens at ``path``; who is too busy to accept does, too."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True
